from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from heliostat_trainer.exploring.fidelity import rank_fidelity

N, K = 96, 12


def test_a_perfect_proxy() -> None:
    true = np.random.default_rng(0).standard_normal((20, N))
    fidelity = rank_fidelity(true * 3 + 1, true, K)
    assert fidelity.rho == pytest.approx(1.0)
    assert fidelity.tau_b == pytest.approx(1.0)
    assert fidelity.overlap == 1.0
    assert fidelity.rank_of_best == pytest.approx(6.5)
    assert fidelity.rank_of_worst == pytest.approx(90.5)
    assert fidelity.spread_gain == pytest.approx(1.73, abs=0.05)


def test_a_proxy_that_knows_nothing() -> None:
    rng = np.random.default_rng(1)
    fidelity = rank_fidelity(rng.standard_normal((400, N)), rng.standard_normal((400, N)), K)
    assert fidelity.rho == pytest.approx(0.0, abs=0.02)
    assert fidelity.overlap == pytest.approx(K / N, abs=0.02)
    assert fidelity.rank_of_best == pytest.approx(48.5, abs=1)
    assert fidelity.spread_gain == pytest.approx(1.0, abs=0.03)


def test_a_gaussian_copula_of_the_published_correlation() -> None:
    rng = np.random.default_rng(2)
    pearson = 2 * np.sin(np.pi * 0.927 / 6)
    pairs = stats.multivariate_normal([0, 0], [[1, pearson], [pearson, 1]]).rvs(
        (400, N), random_state=rng
    )
    fidelity = rank_fidelity(pairs[..., 0], pairs[..., 1], K)
    assert fidelity.rho == pytest.approx(0.927, abs=0.01)
    assert fidelity.overlap == pytest.approx(0.75, abs=0.02)
    assert fidelity.rank_of_best == pytest.approx(9.0, abs=0.4)
    assert fidelity.rank_of_worst == pytest.approx(88.0, abs=0.4)
    assert fidelity.spread_gain == pytest.approx(1.65, abs=0.03)


@pytest.mark.parametrize(("candidates", "rho", "tau_b"), [(N, 0.024, 0.031), (24, 0.056, 0.073)])
def test_the_standard_error_of_one_group_that_the_bounds_of_watch_allow_for(
    candidates: int, rho: float, tau_b: float
) -> None:
    rng = np.random.default_rng(3)
    pearson = 2 * np.sin(np.pi * 0.9 / 6)
    pairs = stats.multivariate_normal([0, 0], [[1, pearson], [pearson, 1]]).rvs(
        (600, candidates), random_state=rng
    )
    groups = [rank_fidelity(pair[None, :, 0], pair[None, :, 1], 6) for pair in pairs]
    assert np.std([group.rho for group in groups]) == pytest.approx(rho, rel=0.1)
    assert np.std([group.tau_b for group in groups]) == pytest.approx(tau_b, rel=0.1)


def test_a_group_without_contrast_counts_as_no_correlation() -> None:
    true = np.stack([np.arange(N, dtype=float), np.ones(N)])
    assert rank_fidelity(true, true, K).rho == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("proxy", "true", "keep_pairs"),
    [(np.ones((1, 8)), np.ones((1, 9)), 2), (np.ones((1, 8)), np.ones((1, 8)), 5)],
    ids=["shapes", "too-many-kept"],
)
def test_what_cannot_be_compared_is_refused(
    proxy: np.ndarray, true: np.ndarray, keep_pairs: int
) -> None:
    with pytest.raises(ValueError, match=r"must both be|cannot keep"):
        rank_fidelity(proxy, true, keep_pairs)

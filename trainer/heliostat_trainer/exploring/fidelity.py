"""How well cheap rewards rank a group's candidates as their true rewards do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from heliostat_trainer.types import Fidelity

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


PUBLISHED = Fidelity(0.927, 0.798, 0.75, 9.0, 88.0, 1.65)
"""rho and tau-b as published; the rest from a Gaussian copula of that rho."""


def rank_fidelity(
    proxy: NDArray[np.float64], true: NDArray[np.float64], keep_pairs: int
) -> Fidelity:
    """Compare proxy[G, N] with true[G, N] rewards of G groups, keeping K best and K worst.

    Groups without contrast in either count as rank correlation 0.

    Raises:
        ValueError: the shapes differ, or 2 K exceeds N.
    """
    if proxy.shape != true.shape or proxy.ndim != 2:
        raise ValueError(f"proxy {proxy.shape} and true {true.shape} must both be [groups, N]")
    if not 0 < 2 * keep_pairs <= true.shape[1]:
        raise ValueError(f"cannot keep {keep_pairs} pairs of {true.shape[1]} candidates")
    groups = [_one_group(p, t, keep_pairs) for p, t in zip(proxy, true, strict=True)]
    return Fidelity(*np.nanmean(np.array(groups), axis=0).tolist())


def rank_correlation(proxy: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Spearman's of proxy[N] with true[N]; 0 without contrast in either."""
    return _correlation(stats.spearmanr, proxy, true)


def _one_group(
    proxy: NDArray[np.float64], true: NDArray[np.float64], keep_pairs: int
) -> tuple[float, ...]:
    by_proxy = np.argsort(proxy, kind="stable")
    by_truth = np.argsort(true, kind="stable")
    worst, best = by_proxy[:keep_pairs], by_proxy[-keep_pairs:]
    hits = np.isin(best, by_truth[-keep_pairs:]).sum() + np.isin(worst, by_truth[:keep_pairs]).sum()
    ranks = stats.rankdata(-true)
    spread = true.std(ddof=1)
    picked = true[np.concatenate([worst, best])].std(ddof=1)
    return (
        rank_correlation(proxy, true),
        _correlation(stats.kendalltau, proxy, true),
        hits / (2 * keep_pairs),
        ranks[best].mean(),
        ranks[worst].mean(),
        picked / spread if spread > 0 else np.nan,
    )


def _correlation(
    measure: Callable[..., Any], proxy: NDArray[np.float64], true: NDArray[np.float64]
) -> float:
    if np.ptp(proxy) == 0 or np.ptp(true) == 0:
        return 0.0  # scipy would warn on the console
    value = float(measure(proxy, true).statistic)
    return 0.0 if np.isnan(value) else value

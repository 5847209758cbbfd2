from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from heliostat_trainer.tuning import (
    PRIOR_GROUPS,
    PRIOR_RHO,
    WORTH_CHANGING,
    Bounds,
    Prices,
    Ranking,
    Shape,
    choose,
    mean_distance,
    signal,
)

SECONDS = st.floats(1e-4, 10)
PRICES = st.builds(
    Prices,
    fixed=SECONDS,
    evaluation=SECONDS,
    look=SECONDS,
    reward=SECONDS,
    redraw=SECONDS,
    training=SECONDS,
)
SHAPES = st.builds(
    Shape,
    prompts=st.integers(1, 64),
    candidates=st.sampled_from([24, 48, 96]),
    keep_pairs=st.integers(1, 12),
    score_after=st.integers(1, 6),
)
BOUNDS = st.builds(
    Bounds,
    batch=st.sampled_from([1, 8, 24]),
    most_candidates=st.sampled_from([24, 48, 96]),
    most_prompts=st.integers(1, 100),
)
RHO = st.lists(st.floats(-1, 1), min_size=6, max_size=6)
RANKINGS = st.builds(lambda rows: Ranking(6, rows), st.lists(RHO, max_size=5))


@pytest.mark.parametrize(("candidates", "pairs"), [(96, 12), (96, 2), (24, 2), (24, 1), (4, 2)])
def test_the_distance_of_the_kept_is_that_of_normal_rewards(candidates: int, pairs: int) -> None:
    drawn = np.sort(np.random.default_rng(0).normal(size=(20_000, candidates)), axis=1)
    best = drawn[:, -pairs:].mean()
    assert mean_distance(candidates, pairs) == pytest.approx(best, rel=0.02)


@given(SHAPES, st.floats(0.01, 1))
def test_signal_grows_with_prompts_and_with_how_well_is_ranked(shape: Shape, rho: float) -> None:
    twice = Shape(2 * shape.prompts, shape.candidates, shape.keep_pairs, shape.score_after)
    assert signal(twice, rho) == pytest.approx(2 * signal(shape, rho))
    assert signal(shape, rho / 2) < signal(shape, rho)
    assert signal(shape, 0) == 0


def test_the_best_pair_teaches_more_a_sample_than_twelve() -> None:
    few, many = Shape(1, 96, 2, 6), Shape(1, 96, 12, 6)
    assert signal(few, 1) < signal(many, 1) < 3 * signal(few, 1)


def test_what_was_watched_outweighs_what_was_expected() -> None:
    known = Ranking(6)
    assert [known.after(after) for after in range(1, 7)] == pytest.approx(PRIOR_RHO)
    seen = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    half = Ranking(6, [seen] * PRIOR_GROUPS)
    assert half.after(2) == pytest.approx((PRIOR_RHO[1] + 0.3) / 2)
    much = Ranking(6, [seen] * 1000)
    assert much.after(2) == pytest.approx(0.3, abs=0.01)
    assert Ranking(4).after(4) == PRIOR_RHO[-1]
    assert Ranking(4).after(2) == pytest.approx(PRIOR_RHO[2])
    assert Ranking(6, [seen[:4]]).after(1) == PRIOR_RHO[0]  # of another number of steps


@given(SHAPES, RANKINGS, PRICES, BOUNDS, st.booleans())
def test_a_choice_teaches_more_a_second_and_fits(
    wanted: Shape, ranking: Ranking, prices: Prices, bounds: Bounds, beside: bool
) -> None:
    assume(wanted.kept <= wanted.candidates)
    enough = signal(wanted, Ranking(6).after(wanted.score_after))

    def a_second(shape: Shape) -> float:
        taught = min(enough, signal(shape, ranking.after(shape.score_after)))
        return taught / prices.step(shape, beside=beside)

    choice = choose(wanted, wanted, ranking, prices, bounds, beside=beside)
    if choice is None:
        return
    shape = choice.shape
    assert a_second(shape) * WORTH_CHANGING > a_second(wanted)
    assert choice.seconds == prices.step(shape, beside=beside)
    assert shape.kept <= shape.candidates <= bounds.most_candidates
    assert shape.candidates % bounds.batch == 0
    assert 1 <= shape.prompts <= bounds.most_prompts
    assert 1 <= shape.score_after <= 6
    assert choose(wanted, shape, ranking, prices, bounds, beside=beside) is None
    assert str(shape) in choice.why


DEAR_TRAINING = Prices(fixed=1, evaluation=0.001, look=0.001, reward=0.001, redraw=1, training=10)
DEAR_EXPLORING = Prices(fixed=1, evaluation=1, look=0.1, reward=0.1, redraw=1, training=1)


def test_dear_training_keeps_few_and_dear_exploring_looks_at_few() -> None:
    wanted, ranking, bounds = Shape(8, 96, 12, 6), Ranking(6), Bounds(8, 96, 100)
    trains = choose(wanted, wanted, ranking, DEAR_TRAINING, bounds, beside=False)
    explores = choose(wanted, wanted, ranking, DEAR_EXPLORING, bounds, beside=False)
    assert trains is not None
    assert explores is not None
    assert trains.shape.keep_pairs < wanted.keep_pairs
    pool_a_kept = explores.shape.candidates / explores.shape.kept
    assert pool_a_kept < trains.shape.candidates / trains.shape.kept
    assert explores.shape.score_after < 6


@pytest.mark.parametrize("groups", [4, 8, 20, 200])
def test_a_reward_that_early_scores_cannot_rank_is_scored_late_by_no_fewer_prompts(
    groups: int,
) -> None:
    blind = Ranking(6, [[0, 0, 0, 0, 0.7, 0.9]] * groups)
    wanted = Shape(8, 24, 2, 4)
    choice = choose(wanted, wanted, blind, DEAR_EXPLORING, Bounds(8, 96, 1000), beside=False)
    if groups > 8:
        assert choice is not None
        assert choice.shape.score_after == 6
        taught = signal(choice.shape, blind.after(6))
        assert taught > 0.9 * signal(wanted, Ranking(6).after(4))


def test_where_nothing_ranks_all_stays() -> None:
    hopeless = Ranking(6, [[-1.0] * 6] * 100)
    wanted = Shape(8, 24, 2, 4)
    assert choose(wanted, wanted, hopeless, DEAR_TRAINING, Bounds(8, 96, 16), beside=False) is None


def test_beside_each_other_the_slower_side_counts() -> None:
    prices = Prices(fixed=1, evaluation=1, look=0, reward=0, redraw=0, training=100)
    shape = Shape(1, 10, 1, 1)
    assert prices.step(shape, beside=True) == 201
    assert prices.step(shape, beside=False) == 211

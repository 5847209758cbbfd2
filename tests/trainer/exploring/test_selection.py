from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat_trainer.exploring.selection import select
from heliostat_trainer.settings.recipe import SelectionName
from tests.trainer.fake_server import make_group

rewards = st.lists(
    st.one_of(st.floats(-10, 10), st.sampled_from([0.0, 1.0])), min_size=4, max_size=40
)


def random() -> np.random.Generator:
    return np.random.default_rng(0)


@given(rewards, st.sampled_from(SelectionName), st.data())
def test_keeps_as_many_distinct_candidates_as_asked(values, how, data) -> None:
    keep = 2 * data.draw(st.integers(1, len(values) // 2))
    kept = select(make_group(values), how, keep, random()).kept
    assert len(set(kept)) == keep
    assert set(kept) <= set(range(len(values)))


@given(rewards, st.data())
def test_best_worst_leaves_nothing_more_extreme_behind(values, data) -> None:
    pairs = data.draw(st.integers(1, len(values) // 2))
    kept = select(make_group(values), SelectionName.BEST_WORST, 2 * pairs, random()).kept
    worst, best = kept[:pairs], kept[pairs:]
    left = [values[row] for row in set(range(len(values))) - set(kept)]
    assert all(values[row] <= min(left, default=np.inf) for row in worst)
    assert all(values[row] >= max(left, default=-np.inf) for row in best)


@given(
    rewards, st.sampled_from([SelectionName.BEST_WORST, SelectionName.MEAN_DEVIATION]), st.randoms()
)
def test_the_order_of_candidates_does_not_matter(values, how, shuffle) -> None:
    group = make_group(values)
    order = list(range(len(values)))
    shuffle.shuffle(order)
    shuffled = make_group([values[row] for row in order], order)
    chosen = select(group, how, 2, random())
    assert chosen.seeds == select(shuffled, how, 2, random()).seeds


def test_ties_go_by_seed() -> None:
    group = make_group([1.0, 1.0, 1.0, 1.0], seeds=[9, 3, 7, 1])
    assert select(group, SelectionName.BEST_WORST, 2, random()).seeds == (1, 9)


def test_mean_deviation_takes_the_farthest() -> None:
    group = make_group([0.0, 5.0, 5.0, 5.0, 6.0, 20.0])
    assert set(select(group, SelectionName.MEAN_DEVIATION, 2, random()).kept) == {0, 5}


def test_random_follows_its_generator() -> None:
    group = make_group(list(range(30)))
    kept = [
        select(group, SelectionName.RANDOM, 8, np.random.default_rng(seed)).kept
        for seed in (0, 0, 1)
    ]
    assert kept[0] == kept[1] != kept[2]


def test_spread_is_of_the_kept() -> None:
    selection = select(make_group([0.0, 1.0, 2.0, 3.0]), SelectionName.BEST_WORST, 2, random())
    assert selection.spread == 1.5


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot keep 4 of 2"):
        select(make_group([0.0, 1.0]), SelectionName.BEST_WORST, 4, random())

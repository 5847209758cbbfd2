from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat_trainer.exploring.selection import least_flat, not_flat, select
from heliostat_trainer.rewards import RewardSum
from heliostat_trainer.settings.recipe import SelectionName
from heliostat_trainer.types import Group, GroupRequest, Selection
from tests.trainer.fake_server import make_group

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_trainer.settings.config import TrainConfig

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


def kept_of(*rewards: float, row: int = 0) -> Selection:
    """The best and the worst of a group at this row of the step."""
    request = GroupRequest(row, "a prompt", tuple(range(len(rewards))), 2, RewardSum.single("r"))
    group = Group.rewarded(request, np.array(rewards)[:, None])
    return select(group, SelectionName.BEST_WORST, 2, random())


def test_flat_groups_are_left_out_and_those_of_the_spread_asked_for_are_not(
    configure: Callable[..., TrainConfig],
) -> None:
    groups = [kept_of(0.0, 2.0), kept_of(0.0, 1.0), kept_of(0.5, 0.5)]  # deviations 1, 0.5 and 0
    assert not_flat(configure("--prompts.min_spread", "0.5"), groups) == groups[:2]
    assert not_flat(configure("--prompts.min_spread", "2"), groups) == []
    assert not_flat(configure(), groups) == groups


def test_of_nothing_but_flat_groups_the_widest_is_taken_and_the_first_of_several() -> None:
    narrow, wide, as_wide = kept_of(0.0, 1.0), kept_of(0.0, 2.0, row=1), kept_of(1.0, 3.0, row=2)
    assert least_flat([narrow, as_wide, wide]) is wide

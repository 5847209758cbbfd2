"""What a gain costs: the arithmetic, and whether its intervals hold what they should."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat_trainer.compare.costs import Line, cost_of, cost_to, ratio_to

FRACTIONS = st.floats(0.01, 1.5)
GAINS = st.just(0.0) | st.floats(1e-6, 1)
"""Of rewards, not of numbers that underflow."""
RISES = st.lists(GAINS, min_size=1, max_size=8)
SLOPES = st.lists(GAINS | GAINS.map(lambda gain: -gain), min_size=1, max_size=8)


def line(*rows: list[float], unit: float = 1.0, seeds: tuple[int, ...] | None = None) -> Line:
    """Gains of each seed, evaluated after 0, 1, 2, ... steps of `unit` each."""
    gains = np.array(rows)
    costs = np.tile(unit * np.arange(gains.shape[1]), (len(rows), 1))
    return Line(seeds or tuple(range(len(rows))), gains, costs)


def mean(fraction: float, own: Line, first: Line) -> float:
    cost = cost_to(fraction, own, first)
    return math.inf if cost is None else cost.mean


def rising(slopes: list[float]) -> Line:
    return line([0.0, *np.cumsum(slopes)])


def test_between_two_evaluations_the_line_is_straight() -> None:
    curve = np.array([0.0, 0.2, 0.1, 0.5])
    assert cost_of(0.1, curve, [0, 10, 20, 30]) == pytest.approx(5)
    assert cost_of(0.3, curve, [0, 10, 20, 30]) == pytest.approx(25)
    assert cost_of(0.5, curve, [0, 10, 20, 30]) == 30
    assert cost_of(0.6, curve, [0, 10, 20, 30]) is None
    assert cost_of(-1.0, curve, [3, 10, 20, 30]) == 3


def test_twice_as_steep_costs_half() -> None:
    first, own = line([0.0, 0.1, 0.2]), line([0.0, 0.2, 0.4])
    for fraction in (0.5, 0.75, 1.0):
        assert mean(fraction, own, first) == pytest.approx(fraction)
        ratio = ratio_to(fraction, own, first)
        assert ratio is not None
        assert ratio.mean == pytest.approx(0.5)
        assert ratio.low is None  # of one seed each nothing is known


def test_what_is_not_reached_has_no_cost() -> None:
    first, own = line([0.0, 0.2]), line([0.0, 0.1])
    assert cost_to(0.5, own, first) is not None
    assert cost_to(1.0, own, first) is None
    assert ratio_to(1.0, own, first) is None
    assert cost_to(0.5, own, line([0.0, -0.2])) is None


def test_costs_that_are_not_known_are_not_reached() -> None:
    own = line([0.0, 0.1, 0.2])
    cut = replace(own, costs=np.array([[0.0, 1.0, np.nan]]))
    assert mean(0.5, cut, own) == 1
    assert cost_to(1.0, cut, own) is None


@given(SLOPES, SLOPES, FRACTIONS, FRACTIONS)
def test_more_of_the_gain_never_costs_less(
    own: list[float], first: list[float], some: float, other: float
) -> None:
    less, more = sorted((some, other))
    assert mean(less, rising(own), rising(first)) <= mean(more, rising(own), rising(first))


@given(RISES, RISES, FRACTIONS, st.floats(0.01, 1000))
def test_costs_are_in_the_unit_and_ratios_are_not(
    own: list[float], first: list[float], fraction: float, unit: float
) -> None:
    plain, dear = rising(own), rising(first)
    other = tuple(replace(each, costs=unit * each.costs) for each in (plain, dear))
    assert mean(fraction, *other) == pytest.approx(unit * mean(fraction, plain, dear))
    ratios = ratio_to(fraction, plain, dear), ratio_to(fraction, *other)
    assert (ratios[0] is None) == (ratios[1] is None)
    if ratios[0] and ratios[1]:
        assert ratios[1].mean == pytest.approx(ratios[0].mean)


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), min_size=1, max_size=4))
def test_a_run_costs_once_what_it_costs(slopes: list[list[float]]) -> None:
    first = line(*([0.0, *np.cumsum(row)] for row in slopes))
    for own in (first, replace(first)):
        ratio = ratio_to(1.0, own, first)
        assert ratio is not None
        assert ratio.mean == 1
        if ratio.low is not None and ratio.high is not None:
            assert ratio.low <= 1 <= ratio.high


def test_of_several_seeds_the_mean_curve_counts_and_the_interval_is_students() -> None:
    own = line([0.0, 1.0, 2.0], [0.0, 3.0, 6.0])
    cost = cost_to(0.5, own, own)
    assert cost is not None
    assert cost.mean == 1  # half of the mean's 4 at the end
    assert cost_to(1.0, own, own) == replace(cost, mean=2, low=2, high=2)
    first = line([0.0, 2.0, 4.0], [0.0, 2.0, 4.0], seeds=(7, 8))
    cost = cost_to(0.5, own, first)
    assert cost is not None
    # Without one seed the other's line needs 2/3 or 2 times as long.
    error = math.sqrt(0.5) * math.hypot(math.log(2), math.log(2 / 3))
    half = 12.7062 * error
    assert (cost.low, cost.high) == pytest.approx((math.exp(-half), math.exp(half)), rel=1e-3)


def test_a_gain_that_hangs_on_one_seed_has_no_interval() -> None:
    first = line([0.0, 1.0], [0.0, 1.0])
    cost = cost_to(0.9, line([0.0, 2.0], [0.0, 0.1]), first)
    assert cost is not None
    assert (cost.low, cost.high) == (None, None)


def draws(rng: np.random.Generator, luck: np.ndarray, steepness: float) -> list[list[float]]:
    """Lines of seeds whose steepness is partly theirs and partly chance."""
    own = steepness * np.exp(luck + 0.05 * rng.standard_normal(len(luck)))
    return [list(slope * np.arange(30)) for slope in own]


def test_the_interval_holds_the_true_ratio_and_pairing_makes_it_narrow() -> None:
    rng = np.random.default_rng(0)
    holds, widths = {True: 0, False: 0}, {True: 0.0, False: 0.0}
    trials = 200
    for _ in range(trials):
        luck = 0.2 * rng.standard_normal((2, 5))
        for is_paired in (True, False):
            first = line(*draws(rng, luck[0], 1.0))
            seeds = first.seeds if is_paired else tuple(range(10, 15))
            own = line(*draws(rng, luck[0 if is_paired else 1], 2.0), seeds=seeds)
            ratio = ratio_to(0.5, own, first)
            assert ratio is not None
            assert ratio.low is not None
            assert ratio.high is not None
            holds[is_paired] += ratio.low <= 0.5 <= ratio.high
            widths[is_paired] += math.log(ratio.high / ratio.low)
    assert all(count / trials >= 0.9 for count in holds.values())
    assert widths[True] < widths[False] / 2

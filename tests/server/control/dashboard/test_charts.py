from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat_server.control.dashboard.charts import chart, charts, spark
from heliostat_server.control.dashboard.curves import Axis, Outcome, points, reward_names
from heliostat_server.control.dashboard.frame import HEIGHT, WIDTH, number

START = datetime(2026, 1, 1, tzinfo=UTC)
REWARDS = st.floats(-1e6, 1e6, allow_nan=False)
OUTCOMES = st.lists(
    st.tuples(st.integers(0, 10**5), st.integers(0, 300), st.tuples(REWARDS, REWARDS, REWARDS)),
    min_size=1,
    max_size=40,
).map(lambda rows: [outcome(*row) for row in sorted(rows)])


def outcome(second: int, version: int, rewards: tuple[float, float, float]) -> Outcome:
    worst, mean, best = sorted(rewards)
    return Outcome(
        "1-1", START + timedelta(seconds=second), version, {"judge": (mean, best, worst)}
    )


@given(OUTCOMES, st.sampled_from(Axis))
def test_whatever_the_rewards_the_chart_stays_in_its_box(
    outcomes: list[Outcome], axis: Axis
) -> None:
    drawn = chart(outcomes, "judge", axis)
    corners = [
        [float(number) for number in corner.split(",")]
        for corner in (drawn.band + " " + drawn.line).split()
    ]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in corners)
    assert all(0 <= tick.at <= WIDTH for tick in drawn.frame.x_ticks)
    assert 2 <= len(drawn.frame.y_ticks) <= 8
    assert all(math.isfinite(dot.y) for dot in drawn.dots)


@given(OUTCOMES, st.sampled_from(Axis))
def test_every_group_counts_once(outcomes: list[Outcome], axis: Axis) -> None:
    shown = points(outcomes, "judge", axis)
    assert sum(point.groups for point in shown) == len(outcomes)
    assert [point.x for point in shown] == sorted({point.x for point in shown})
    if axis is Axis.TIME:
        assert len(shown) <= 61


def test_a_point_is_the_mean_of_its_groups() -> None:
    (point,) = points([outcome(0, 2, (1, 2, 6)), outcome(1, 2, (3, 4, 8))], "judge", Axis.VERSION)
    assert (point.x, point.worst, point.mean, point.best, point.groups) == (2, 2, 3, 7, 2)


@pytest.mark.parametrize("axis", Axis)
def test_a_group_that_is_scored_anew_counts_once(axis: Axis) -> None:
    whole, early = outcome(0, 2, (1, 2, 6)), outcome(9, 2, (0, 0, 0))
    again = [replace(each, drawn=2**40) for each in (whole, early)]
    (point,) = points(again, "judge", axis)
    assert (point.mean, point.groups) == (2, 1)


def test_the_latest_reward_comes_first() -> None:
    old = Outcome("1-1", START, 1, {"old": (0, 0, 0)})
    new = Outcome("2-1", START, 1, {"new": (0, 0, 0), "other": (0, 0, 0)})
    assert reward_names([old, new]) == ["new", "other", "old"]


def test_sparks_show_the_last_values() -> None:
    assert spark([1.0]) == "2,14"
    assert len(spark(list(range(100))).split()) == 40


def test_numbers_have_the_digits_that_count() -> None:
    assert [number(value) for value in (0.12345, -0.5, 12.3456, 1234567.0)] == [
        "0.123",
        "-0.500",
        "12.35",
        "1.235e+06",
    ]


def test_two_runs_charts_have_the_same_axes() -> None:
    few, many = [outcome(0, 1, (0, 1, 2))], [outcome(0, 9, (5, 6, 20))]
    left, right = charts([few, many], "judge", Axis.VERSION)
    assert left.frame is right.frame
    assert left.dots[0].x < right.dots[0].x
    assert left.dots[0].y > right.dots[0].y

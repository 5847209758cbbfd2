"""Whose seconds are whose step's, what steps are made of, and the pictures of both."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat_server.control.dashboard.charts import Line, line_charts
from heliostat_server.control.dashboard.curves import Outcome
from heliostat_server.control.dashboard.frame import WIDTH
from heliostat_server.control.dashboard.stacks import (
    MAX_BARS,
    MIN_BAR,
    SERVER,
    STACK_HEIGHT,
    TRAINER,
    stacks,
)
from heliostat_server.control.dashboard.steps import (
    StepTimes,
    fidelity_lines,
    made,
    reports,
    spread_lines,
    step_times,
)
from heliostat_server.store.stations import Spent, Station
from heliostat_server.store.steps import KeptStep, PublishedStep
from heliostat_wire.steps import Decision, Phase, Shape, StepReport
from tests.wire.test_steps import REPORT

AT = datetime(2026, 1, 1, tzinfo=UTC)
BARE = replace(REPORT, fidelity=None, decision=None)
SECONDS = st.floats(0, 1e6)


def told(step: int, version: int, **changes: object) -> StepReport:
    return replace(BARE, step=step, version=version, **changes)  # type: ignore[arg-type]


def kept(*published: PublishedStep) -> list[KeptStep]:
    return [KeptStep(f"{number}-0", each) for number, each in enumerate(published, 1)]


def drawn(version: int, asked_at: float, drawn_at: float, **seconds: float) -> Outcome:
    spent = Spent(asked_at, drawn_at, {Station(name): each for name, each in seconds.items()})
    return Outcome("1-1", AT, version, {}, spent=spent)


def test_the_servers_seconds_are_those_of_the_version_that_explored_the_step() -> None:
    steps = kept(
        PublishedStep(1, 0.5),
        PublishedStep(2, 0.25, told(1, 1)),
        PublishedStep(3, 0.75, told(2, 2)),
    )
    outcomes = [
        drawn(1, 100, 102, denoise=1.5, encode=0.25, reward=1.0),
        # Asked for together, drawn one after another: waiting counts once.
        drawn(2, 110, 112, denoise=1.0),
        drawn(2, 110, 114, denoise=2.0, decode=0.5),
        # Scored anew, later: what lies between is nobody's queue.
        drawn(2, 200, 201, denoise=0.5),
        Outcome("1-1", AT, 2, {}),  # drawn before it was kept what one took
    ]
    first, second = step_times(steps, outcomes)
    assert (first.step, first.trainer) == (1, BARE.seconds)
    assert first.server == {
        Station.DENOISE: 1.5,
        Station.ENCODE: 0.25,
        Station.REWARD: 1.0,
        Station.QUEUE: pytest.approx(0.25),
        Station.REFIT: 0.5,
    }
    assert second.server == {
        Station.DENOISE: 3.5,
        Station.DECODE: 0.5,
        Station.QUEUE: pytest.approx(1.5),
        Station.REFIT: 0.25,
    }


def test_steps_that_share_a_version_share_its_seconds() -> None:
    steps = kept(PublishedStep(2, 0.0, told(1, 1)), PublishedStep(3, 0.0, told(2, 1)))
    times = step_times(steps, [drawn(1, 0, 4, denoise=4.0)])
    assert [each.server[Station.DENOISE] for each in times] == [2.0, 2.0]


def test_a_step_that_a_resumed_run_made_again_counts_as_it_was_made_last() -> None:
    steps = kept(
        PublishedStep(2, 0.0, told(1, 1)),
        PublishedStep(3, 0.0, told(2, 2, kept_spread=1.0)),
        PublishedStep(4, 0.0),
        PublishedStep(5, 0.0, told(2, 4, kept_spread=2.0)),
        PublishedStep(6, 0.0, told(2**62, 5)),
        PublishedStep(7, 0.0, told(0, 5)),
    )
    assert [(each.step, each.version) for each in reports(steps)] == [(1, 1), (2, 4)]
    assert [line.values for line in spread_lines(reports(steps))] == [
        [(1, BARE.kept_spread), (2, 2.0)]
    ]


def test_what_steps_are_made_of_is_told_with_the_reason() -> None:
    few = Shape(2, 8, 1, 3)
    steps = [
        told(1, 1),
        told(2, 2, decision=Decision(4, few, "dear")),
        told(3, 3),
        told(4, 4, shape=few),
        told(5, 5, shape=replace(few, score_after=4)),
    ]
    rows = made(steps)
    assert [(row.step, row.shape.prompts, row.why) for row in rows] == [
        (1, 4, "as the settings say"),
        (4, 2, "dear"),
        (5, 2, "the watch asked for more steps"),
    ]
    *_, to_come = made(steps[:3])
    assert (to_come.step, to_come.shape, to_come.is_to_come) == (4, few, True)
    assert made([]) == []


def test_only_watched_steps_have_a_fidelity() -> None:
    assert fidelity_lines([told(1, 1)]) == []
    lines = fidelity_lines([told(1, 1), replace(REPORT, step=2)])
    assert [(line.name, line.values) for line in lines] == [
        ("rho", [(2, 0.9)]),
        ("tau-b", [(2, 0.75)]),
        ("overlap", [(2, 0.7)]),
    ]


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 10**9 - 1),
            st.dictionaries(st.sampled_from(Phase), SECONDS),
            st.dictionaries(st.sampled_from(Station), SECONDS),
        ),
        min_size=1,
        max_size=70,
        unique_by=lambda row: row[0],
    )
)
def test_whatever_the_seconds_the_bars_stay_in_their_box(
    rows: list[tuple[int, dict[Phase, float], dict[Station, float]]],
) -> None:
    (picture,) = stacks([[StepTimes(*row) for row in sorted(rows, key=lambda row: row[0])]])
    for end, is_above in ((picture.trainer, True), (picture.server, False)):
        assert 1 <= len(end.bars) <= MAX_BARS
        for bar in end.bars:
            assert bar.width >= MIN_BAR
            assert 0 <= bar.x + bar.width / 2 <= WIDTH
            for piece in bar.pieces:
                assert 0 <= piece.y <= piece.y + piece.height <= STACK_HEIGHT
                middle = piece.y + piece.height / 2
                assert middle <= picture.line_y if is_above else middle >= picture.line_y


def test_each_end_has_its_parts_one_upon_another() -> None:
    times = [StepTimes(1, {Phase.EXPLORE: 1.0, Phase.OPTIMISE: 3.0}, {Station.DENOISE: 2.0})]
    (picture,) = stacks([times])
    (bar,) = picture.trainer.bars
    below, above = bar.pieces
    assert (below.colour, above.colour) == ("wait", "train")
    assert below.y + below.height == picture.line_y
    assert above.y + above.height == below.y
    assert above.height == pytest.approx(3 * below.height, abs=0.2)
    assert bar.text == "step 1, trainer: waiting for candidates 1 s, training 3 s"
    (denoising,) = picture.server.legend
    assert (denoising.label, denoising.seconds) == ("denoising", 2.0)
    assert picture.summary.startswith(
        "a step took the trainer 4 s in the mean, most of it training"
    )


def test_every_phase_and_every_station_has_a_part() -> None:
    assert {part.key for part in TRAINER} == set(Phase)
    assert {part.key for part in SERVER} == set(Station)


def test_runs_beside_each_other_have_the_same_axes() -> None:
    quick = [StepTimes(step, {Phase.REDRAW: 1.0}, {Station.DENOISE: 1.0}) for step in (1, 2)]
    slow = [StepTimes(step, {Phase.REDRAW: 4.0}, {Station.DENOISE: 2.0}) for step in range(1, 9)]
    one, other = stacks([quick, slow])
    assert one.frame is other.frame
    heights = [picture.trainer.bars[0].pieces[0].height for picture in (one, other)]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.3)
    left, right = line_charts([[Line("rho", [(1, 0.5)])], [Line("rho", [(9, 0.9)])]])
    assert left.frame is right.frame
    assert left.lines[0].dots[0].x < right.lines[0].dots[0].x
    assert left.lines[0].dots[0].y > right.lines[0].dots[0].y

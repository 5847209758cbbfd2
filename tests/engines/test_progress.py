from __future__ import annotations

import io
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from heliostat_engines.progress import Stage, Stages, Ticker, duration, shown

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_a_stage_says_what_is_left_at_the_pace_so_far() -> None:
    stage = Stage("draw", since=100.0, done=48, total=128, unit="images", counted=130.0)
    assert stage.sentence(130.0) == "draw: 48 of 128 images, 0:50 left"
    assert stage.sentence(140.0) == "draw: 48 of 128 images, 0:40 left"
    assert stage.sentence(500.0) == "draw: 48 of 128 images, 0:00 left"


def test_a_part_of_a_stage_tells_what_is_left_of_the_whole() -> None:
    half = Stage("guidance 3", since=0.0, done=1, total=2, counted=60.0, low=1 / 3, high=1.0)
    assert half.share == pytest.approx(2 / 3)
    assert half.sentence(60.0) == "guidance 3: 1 of 2, 0:30 left"


def test_what_cannot_be_counted_says_how_long_it_has_taken() -> None:
    assert Stage("load", since=10.0).sentence(75.0) == "load: 1:05 so far"
    done = Stage("score", since=10.0, done=4, total=4, counted=20.0)
    assert done.sentence(75.0) == "score: 4 of 4, 1:05 so far"


def test_the_innermost_stage_is_what_is_under_way() -> None:
    stages = Stages()
    assert stages.sentence() is None
    stages.count(1, 2)  # of nothing
    with stages.during("evaluate"):
        with stages.during("encode"):
            stages.count(1, 4, "prompts")
            assert str(stages.sentence()).startswith("encode: 1 of 4 prompts, ")
        stages.part("evaluate the base", 0.5, 1.0)
        (stage,) = stages.open()
        assert (stage.name, stage.share) == ("evaluate the base", 0.5)
    assert stages.open() == ()


def test_entering_is_a_stage_and_what_is_entered_stays_open() -> None:
    stages, names = Stages(), []

    @contextmanager
    def server() -> Iterator[str]:
        names.extend(stage.name for stage in stages.open())
        yield "here"
        names.append("closed")

    with stages.entering("start", server()) as where:
        assert (where, names, stages.open()) == ("here", ["start"], ())
    assert names == ["start", "closed"]


def test_a_stage_ends_with_an_error_in_it() -> None:
    stages = Stages()
    with pytest.raises(ValueError, match="no"), stages.during("load"):
        raise ValueError("no")
    assert stages.open() == ()


def test_counted_stages_begin_and_end_by_themselves() -> None:
    stages = Stages()
    stages("weights", 0, 3)
    stages("compile", 1, 2)
    assert [stage.name for stage in stages.open()] == ["weights", "compile"]
    stages("weights", 3, 3)
    assert [stage.count for stage in stages.open()] == ["1 of 2"]


def test_the_ticker_speaks_only_where_nobody_else_does() -> None:
    said: list[str] = []
    sentences = iter(["one", None, "two"])
    with Ticker(lambda: next(sentences, None), said.append, every_s=0.02) as ticker:
        deadline = time.monotonic() + 20
        while said != ["one", "two"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert said == ["one", "two"]
        ticker.spoke()
    assert said == ["one", "two"]
    with Ticker(lambda: "again", said.append, every_s=60.0):
        pass
    assert said == ["one", "two"]


def test_no_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliostat_engines.progress.REPORT_S", 0.05)
    console = Console(file=io.StringIO())
    with shown(console) as stages, stages.during("a long stage"):
        deadline = time.monotonic() + 20
        while not console.file.getvalue() and time.monotonic() < deadline:  # type: ignore[attr-defined]
            time.sleep(0.01)
    assert "a long stage: 0:00 so far\n" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_gets_a_bar_for_each_stage() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with shown(console) as stages, stages.during("export"):
        stages("weights", 30, 120)
        time.sleep(0.4)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "export" in text
    assert "30 of 120" in text


def test_durations_read_as_a_clock_does() -> None:
    assert duration(None) == "unknown time"
    assert [duration(seconds) for seconds in (0.4, 59.6, 3661)] == ["0:00", "1:00", "1:01:01"]

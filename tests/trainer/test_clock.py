from __future__ import annotations

import pytest

from heliostat_trainer.clock import Meter, Phase, PhaseClock


def test_the_clock_charges_the_innermost_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = PhaseClock()
    with clock.phase(Phase.EXPLORE), clock.phase(Phase.SCORE):
        pass
    seconds = clock.lap()
    assert (seconds["explore"], seconds["score"]) == (2.0 + 4.0, 3.0)


def test_a_meter_counts_time_in_which_anything_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 4.0, 6.0, 7.0, 9.0, 10.0, 11.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    meter = Meter()
    with meter.running(), meter.running():
        pass
    assert meter.lap() == 6.0
    with meter.running():
        assert meter.lap() == 1.0

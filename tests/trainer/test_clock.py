from __future__ import annotations

import pytest

from heliostat_trainer.clock import Meter, Phase, PhaseClock, RunClock


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


def test_a_step_says_how_busy_both_sides_were(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = RunClock(elapsed_s=100.0)
    with clock.beside_training(), clock.phase(Phase.EVALUATE):
        now[0] += 50.0
    clock.begin_step()
    with clock.waiting(Phase.SCORE):
        now[0] += 3.0
    with clock.phase(Phase.OPTIMISE):
        now[0] += 7.0
    times = clock.lap()
    assert (times.server_busy, times.trainer_busy) == (0.3, 0.7)
    assert (times.seconds["score"], times.seconds["optimise"]) == (3.0, 7.0)
    assert times.seconds["evaluate"] == 50.0
    assert times.elapsed_s == 110.0
    assert clock.lap().seconds["optimise"] == 0.0

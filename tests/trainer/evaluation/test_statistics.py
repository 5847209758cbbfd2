from __future__ import annotations

import io
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from heliostat_trainer.clock import Meter, Phase, PhaseClock
from heliostat_trainer.display.progress import LineProgress, LiveProgress, open_progress
from heliostat_trainer.evaluation.results import prompt_interval
from heliostat_trainer.evaluation.statistics import (
    Interval,
    brightness,
    colour_entropy,
    diversity,
    edge_density,
    interval,
)
from heliostat_trainer.exploring.fidelity import PUBLISHED
from heliostat_trainer.prompts.sources import step_prompts
from heliostat_trainer.randomness import Purpose, candidate_seeds, torch_stream
from heliostat_trainer.types import Outlook, StepMetrics


def test_brightness_weighs_colours() -> None:
    images = torch.zeros(3, 3, 4, 4)
    images[1] = 1.0
    images[2, 1] = 1.0
    assert brightness(images).tolist() == pytest.approx([0.0, 1.0, 0.587], abs=1e-5)


def test_entropy_counts_colours() -> None:
    images = torch.zeros(2, 3, 4, 4)
    images[1, 0, :, 2:] = 1.0
    assert colour_entropy(images).tolist() == pytest.approx([0.0, 1.0], abs=1e-5)


def test_edges_are_where_luma_jumps() -> None:
    images = torch.zeros(2, 3, 5, 5)
    images[1, :, :, 2:] = 1.0
    assert edge_density(images).tolist() == [0.0, 0.25]


def test_diversity_is_zero_for_copies_and_one_for_opposites() -> None:
    images = torch.zeros(2, 3, 4, 4)
    assert diversity(images) == 0.0
    images[1] = 1.0
    assert diversity(images) == 1.0


def test_the_interval_is_students() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    result = interval(values)
    assert (result.mean, result.low, result.high) == pytest.approx((2.5, 0.4458, 4.5542), abs=1e-4)
    assert result.is_above_zero
    assert not interval(-values).is_above_zero
    assert interval(-values).is_below_zero


def test_a_single_draw_has_no_interval() -> None:
    single = interval(torch.tensor([0.5]))
    assert single == Interval(0.5, None, None)
    assert single.half_width is None
    assert not single.is_above_zero
    assert not single.is_below_zero


def test_intervals_are_over_prompts_not_images() -> None:
    same_prompt = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    assert prompt_interval(same_prompt).high == pytest.approx(0.5)


def test_each_epoch_visits_every_prompt_once() -> None:
    prompts = tuple("abcdef")
    epoch = [step_prompts(prompts, 2, 0, step) for step in (1, 2, 3)]
    assert sorted(sum(epoch, ())) == list(prompts)
    later = [step_prompts(prompts, 2, 0, step) for step in (4, 5, 6)]
    assert sorted(sum(later, ())) == list(prompts)
    assert epoch != later
    assert step_prompts(prompts, 2, 0, 5) == later[1]


def test_random_numbers_depend_on_the_position_alone() -> None:
    seeds = candidate_seeds(1, Purpose.CANDIDATES, 96, 3, 4)
    assert len(set(seeds)) == 96
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seeds == candidate_seeds(1, Purpose.CANDIDATES, 96, 3, 4)
    assert not set(seeds) & set(candidate_seeds(1, Purpose.CANDIDATES, 96, 4, 3))
    assert not set(seeds) & set(candidate_seeds(1, Purpose.EVALUATION, 96, 3, 4))
    assert torch_stream(0, Purpose.TRAINING_NOISE, 1).device.type == "cpu"


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


METRICS = StepMetrics(
    step=3, seconds={"explore": 1.0, "optimise": 2.5}, adapter_version=3, version_lag=1,
    bound_modules=15, server_busy=0.93, trainer_busy=0.7,
    explored=16, explore_images_per_s=120.0, proxy_reward_mean=0.5, proxy_reward_std=0.1,
    kept_proxy_spread=0.2, reward_mean=0.6, reward_std=0.1, kept_spread=0.15,
    zero_contrast_groups=0, loss=1.0, kl=None, policy_drift=0.0, grad_norm=0.1, lr=1e-3,
    old_decay=0.003, ema_decay=0.3, elapsed_s=30.0,
)  # fmt: skip


def test_elsewhere_than_on_a_terminal_a_step_is_a_line() -> None:
    console = Console(file=io.StringIO(), width=40)
    with open_progress(console, Outlook(0, 10, 0.0, None)) as progress:
        assert isinstance(progress, LineProgress)
        with progress.phase(Phase.EXPLORE):
            progress.explored(8, 16)
        progress.step(METRICS, Outlook(3, 10, 30.0, None))
    assert console.file.getvalue() == (  # type: ignore[attr-defined]
        "step 3 of 10: reward 0.6000 (kept spread 0.1500), explored 0.5000, explored 16 at 120 "
        "images/s, adapter 3, 1 behind, busy: server 93%, trainer 70%, 3.5 s, 1:10 left\n"
    )


def test_a_watched_step_shows_its_figures_and_the_panel_keeps_them() -> None:
    watched = replace(METRICS, fidelity=PUBLISHED)
    lines, panel = io.StringIO(), io.StringIO()
    LineProgress(Console(file=lines)).step(watched, Outlook(3, 10, 30.0, None))
    assert "1 behind, rho 0.927, tau-b 0.798, busy:" in lines.getvalue()
    console = Console(file=panel, force_terminal=True, width=100)
    live = LiveProgress(console, Outlook(0, 10, 0.0, None))
    for metrics in (watched, replace(METRICS, step=4)):
        live.step(metrics, Outlook(metrics.step, 10, 30.0, None))
    console.print(live._panel())
    assert "rho 0.927, tau-b 0.798" in panel.getvalue()


def test_a_terminal_gets_a_live_panel() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with open_progress(console, Outlook(0, 10, 0.0, 8.0)) as progress:
        assert isinstance(progress, LiveProgress)
        with progress.phase(Phase.REGENERATE):
            progress.stages.count(24, 96, "images")
            progress.explored(8, 16)
            console.print(progress._panel())
        progress.step(METRICS, Outlook(3, 10, 30.0, 8.0))
        progress.say("a sentence")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "regenerate: 24 of 96 images, 0:00 left, 8 of 16 candidates explored" in text
    assert "a sentence" in text
    assert "step 4 of 10" in text


def test_elsewhere_than_on_a_terminal_what_takes_long_is_a_line() -> None:
    console = Console(file=io.StringIO(), width=40)
    with LineProgress(console, every_s=0.05) as progress:
        with progress.phase(Phase.EVALUATE):
            progress.stages.part("evaluate the base policy, guidance 3", 0.5, 1.0)
            progress.stages.count(48, 128, "images")
            deadline = time.monotonic() + 20
            while not console.file.getvalue() and time.monotonic() < deadline:  # type: ignore[attr-defined]
                time.sleep(0.01)
        said = console.file.getvalue()  # type: ignore[attr-defined]
        time.sleep(0.2)  # nothing is under way
    assert said.startswith("evaluate the base policy, guidance 3: 48 of 128 images, 0:00 left\n")
    assert console.file.getvalue().count("\n") <= said.count("\n") + 1  # type: ignore[attr-defined]


def test_the_outlook_goes_by_steps_or_minutes_whichever_ends_first() -> None:
    assert Outlook(5, 10, 100.0, None).remaining_s == 100.0
    assert Outlook(5, 1000, 100.0, 2.0).remaining_s == 20.0
    assert Outlook(5, 1000, 60.0, 2.0).share == 0.5
    assert Outlook(0, 10, 1.0, None).remaining_s is None


def test_the_outlook_says_how_many_steps_the_minutes_will_do() -> None:
    outlook = Outlook(1, 1000, 11.2, 8.0)
    assert outlook.end == "of about 43"
    assert "a step takes 11.2 s on this machine: expect about 43 in the 8 min" in outlook.promise
    assert Outlook(10, 1000, 100.0, 8.0).end == "of about 48"
    assert Outlook(50, 1000, 481.0, 8.0).end == "of about 50"
    assert Outlook(1, 20, 11.2, 8.0).end == "of 20"
    assert Outlook(0, 20, 0.0, 8.0).end == Outlook(5, 20, 9.0, None).end == "of 20"

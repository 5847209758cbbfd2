from __future__ import annotations

import io
import time
from dataclasses import replace

from rich.console import Console

from heliostat_trainer.clock import Phase
from heliostat_trainer.display.progress import LineProgress, LiveProgress, open_progress
from heliostat_trainer.exploring.fidelity import PUBLISHED
from heliostat_trainer.forecast.outlook import Outlook
from heliostat_trainer.types import StepMetrics

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
        with progress.phase(Phase.REDRAW):
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

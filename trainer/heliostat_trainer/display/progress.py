"""What a run shows while it goes on: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from heliostat_engines.progress import REPORT_S, Stages, Ticker, duration

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from heliostat_trainer.clock import Phase
    from heliostat_trainer.evaluation.results import Evaluation
    from heliostat_trainer.evaluation.statistics import Interval
    from heliostat_trainer.forecast.outlook import Outlook
    from heliostat_trainer.types import StepMetrics


class Progress(ABC):
    """Shows a run; every method is cheap."""

    def __init__(self) -> None:
        self.stages = Stages()
        """What the run is doing, from loading the model to writing the LoRA."""
        self._explored = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027
        """Leave the terminal as it was."""

    @abstractmethod
    def say(self, sentence: str) -> None:
        """Something the user should know."""

    def phase(self, phase: Phase) -> AbstractContextManager[None]:
        """A phase of the loop, as long as the block."""
        return self.stages.during(str(phase))

    def explored(self, done: int, total: int) -> None:
        """So many of a step's candidates have come back."""
        self._explored = f"{done} of {total} candidates explored"

    @abstractmethod
    def step(self, metrics: StepMetrics, outlook: Outlook) -> None:
        """A training step is complete."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """An evaluation is complete."""
        rewards = ", ".join(f"{name} {_mean(mean)}" for name, mean in evaluation.means.items())
        self.say(
            f"step {evaluation.step}: held-out, {evaluation.policy} policy, guidance "
            f"{evaluation.guidance:g}: {rewards}"
        )

    def _doing(self) -> str | None:
        """What is under way, and how far; None between two things."""
        sentence = self.stages.sentence()
        return sentence and ", ".join(filter(None, (sentence, self._explored)))


def open_progress(console: Console, outlook: Outlook) -> Progress:
    """A live panel if the console is a terminal, else lines."""
    return LiveProgress(console, outlook) if console.is_terminal else LineProgress(console)


class LineProgress(Progress):
    """A line a step, and one of what is under way where a step, or anything else, takes long."""

    def __init__(self, console: Console, every_s: float = REPORT_S) -> None:
        super().__init__()
        self._console = console
        self._ticker = Ticker(self._doing, self.say, every_s)

    def __enter__(self) -> Self:
        self._ticker.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._ticker.__exit__()

    def say(self, sentence: str) -> None:
        """Print it."""
        self._ticker.spoke()
        self._console.print(Text(sentence), soft_wrap=True)

    def step(self, metrics: StepMetrics, outlook: Outlook) -> None:
        """Show the step."""
        self._explored = ""
        self.say(
            f"step {metrics.step} {outlook.end}: {_rewards(metrics)}, "
            f"explored {metrics.explored} {_speed(metrics)}, {_adapter(metrics)}, "
            f"{_fidelity(metrics)}{_busy(metrics)}, {sum(metrics.seconds.values()):.1f} s, "
            f"{duration(outlook.remaining_s)} left"
        )


class LiveProgress(Progress):
    """A panel of four lines that is redrawn in place; sentences scroll above it."""

    def __init__(self, console: Console, outlook: Outlook) -> None:
        super().__init__()
        self._console = console
        self._outlook = outlook
        self._since = time.monotonic()
        self._metrics: StepMetrics | None = None
        self._fidelity = ""
        self._live = Live(
            get_renderable=self._panel, console=console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, sentence: str) -> None:
        """Print it."""
        self._console.print(Text(sentence), soft_wrap=True)

    def step(self, metrics: StepMetrics, outlook: Outlook) -> None:
        """Show the step."""
        self._metrics, self._outlook = metrics, outlook
        self._fidelity = _fidelity(metrics) or self._fidelity  # most steps have none
        self._since = time.monotonic()
        self._explored = ""

    def _panel(self) -> Group:
        now = replace(
            self._outlook,
            elapsed_s=self._outlook.elapsed_s + time.monotonic() - self._since,
        )
        current = min(now.step + 1, self._outlook.expected or now.steps)
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"step {current} {self._outlook.end}", style="bold"),
            ProgressBar(total=1.0, completed=now.share, width=30),
            Text(f"{duration(now.remaining_s)} left", style="dim"),
        )
        lines = [Text(self._doing() or "", style="cyan")]
        if self._metrics is not None:
            metrics = self._metrics
            lines += [
                Text(_rewards(metrics)),
                Text(
                    f"explored {_speed(metrics)}, {_adapter(metrics)}, "
                    f"{self._fidelity}{_busy(metrics)}, "
                    f"{sum(metrics.seconds.values()):.1f} s a step",
                    style="dim",
                ),
            ]
        return Group(head, *lines)


def _mean(interval: Interval) -> str:
    if interval.low is None:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def _rewards(metrics: StepMetrics) -> str:
    skipped = f", {metrics.skipped_groups} flat groups skipped" if metrics.skipped_groups else ""
    if len(metrics.rewards) > 1:
        each = ", ".join(f"{name} {mean:.4f}" for name, mean in metrics.rewards.items())
        explored = ", ".join(f"{mean:.4f}" for mean in metrics.proxy_rewards.values())
        return f"rewards {each} (kept spread of the sum {metrics.kept_spread:.4f}), explored {explored}{skipped}"
    return (
        f"reward {metrics.reward_mean:.4f} (kept spread {metrics.kept_spread:.4f}), "
        f"explored {metrics.proxy_reward_mean:.4f}{skipped}"
    )


def _speed(metrics: StepMetrics) -> str:
    speed = metrics.explore_images_per_s
    return "by the trainer" if speed is None else f"at {speed:.0f} images/s"


def _adapter(metrics: StepMetrics) -> str:
    lag = f", {metrics.version_lag} behind" if metrics.version_lag else ""
    return f"adapter {metrics.adapter_version}{lag}"


def _fidelity(metrics: StepMetrics) -> str:
    fidelity = metrics.fidelity
    return f"rho {fidelity.rho:.3f}, tau-b {fidelity.tau_b:.3f}, " if fidelity else ""


def _busy(metrics: StepMetrics) -> str:
    return f"busy: server {metrics.server_busy:.0%}, trainer {metrics.trainer_busy:.0%}"

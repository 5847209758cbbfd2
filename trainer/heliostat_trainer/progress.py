"""What a run shows while it goes on: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from heliostat_trainer.clock import Phase
    from heliostat_trainer.evaluate import Evaluation
    from heliostat_trainer.statistics import Interval
    from heliostat_trainer.types import StepMetrics


@dataclass(frozen=True)
class Outlook:
    """How far a run has come, and how far it will go."""

    step: int
    """Completed steps."""
    steps: int
    elapsed_s: float
    minutes: float | None
    """Time budget."""

    @property
    def share(self) -> float:
        """0..1, by steps or by time, whichever is further."""
        by_steps = self.step / self.steps
        by_time = self.elapsed_s / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    @property
    def remaining_s(self) -> float | None:
        """Seconds to the end at the pace so far; None before the first step."""
        if not self.step:
            return None
        by_steps = self.elapsed_s / self.step * (self.steps - self.step)
        by_time = 60 * self.minutes - self.elapsed_s if self.minutes else by_steps
        return max(0.0, min(by_steps, by_time))


class Progress(ABC):
    """Shows a run; every method is cheap."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027
        """Leave the terminal as it was."""

    @abstractmethod
    def say(self, sentence: str) -> None:
        """Something the user should know."""

    @abstractmethod
    def phase(self, phase: Phase) -> None:
        """A phase begins."""

    @abstractmethod
    def explored(self, done: int, total: int) -> None:
        """So many of a step's candidates have come back."""

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


def open_progress(console: Console, outlook: Outlook) -> Progress:
    """A live panel if the console is a terminal, else lines."""
    return LiveProgress(console, outlook) if console.is_terminal else LineProgress(console)


class LineProgress(Progress):
    """A line a step."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, sentence: str) -> None:
        """Print it."""
        self._console.print(Text(sentence), soft_wrap=True)

    def phase(self, phase: Phase) -> None:
        """Lines show whole steps only."""

    def explored(self, done: int, total: int) -> None:
        """Lines show whole steps only."""

    def step(self, metrics: StepMetrics, outlook: Outlook) -> None:
        """Show the step."""
        self.say(
            f"step {metrics.step}/{outlook.steps}: {_rewards(metrics)}, "
            f"explored {metrics.explored} {_speed(metrics)}, {_adapter(metrics)}, "
            f"{_fidelity(metrics)}{_busy(metrics)}, {sum(metrics.seconds.values()):.1f} s, "
            f"{duration(outlook.remaining_s)} left"
        )


class LiveProgress(Progress):
    """A panel of four lines that is redrawn in place; sentences scroll above it."""

    def __init__(self, console: Console, outlook: Outlook) -> None:
        self._console = console
        self._outlook = outlook
        self._since = time.monotonic()
        self._phase = "starting"
        self._explored = ""
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

    def phase(self, phase: Phase) -> None:
        """Show the phase."""
        self._phase = str(phase)

    def explored(self, done: int, total: int) -> None:
        """Show the count."""
        self._explored = f"{done} of {total} candidates"

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
        current = min(now.step + 1, now.steps)
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"step {current} of {now.steps}", style="bold"),
            ProgressBar(total=1.0, completed=now.share, width=30),
            Text(f"{duration(now.remaining_s)} left", style="dim"),
        )
        lines = [Text(f"{self._phase}  {self._explored}", style="cyan")]
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


def duration(seconds: float | None) -> str:
    """Minutes and seconds, and hours where there are some."""
    if seconds is None:
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

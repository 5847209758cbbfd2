"""How fast a run has been, from what it has left in its folder. Reads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heliostat_trainer.folder.layout import RunFolder
from heliostat_trainer.folder.metrics import read_metrics
from heliostat_trainer.folder.resuming import CONTENTS
from heliostat_trainer.folder.run_file import read_settings
from heliostat_trainer.forecast.outlook import Outlook
from heliostat_trainer.settings.compare import completed, first_change, flatten

if TYPE_CHECKING:
    from heliostat_trainer.settings.config import TrainConfig


@dataclass(frozen=True)
class Pace:
    """Of a run that has completed a step; evaluations are left out of all times."""

    outlook: Outlook
    change: str | None
    """The first setting that differs from those it was measured with, in words."""

    @property
    def step_s(self) -> float:
        """Seconds of a step, on average."""
        return self.outlook.elapsed_s / self.outlook.step


def measured_pace(config: TrainConfig) -> Pace | None:
    """The pace of the run in the folder that the settings name; None where no step was completed.

    Raises:
        RunFolderError: the run's settings cannot be read.
    """
    path, run = config.run.path, config.run
    lines: list[dict[str, Any]] = list(read_metrics(RunFolder(path).metrics))
    if not lines:
        return None
    last = lines[-1]
    outlook = Outlook(int(last["step"]), run.steps, float(last["elapsed_s"]), run.minutes)
    before = completed(read_settings(path))
    # Where files lie costs no time.
    return Pace(outlook, first_change(before, flatten(config), CONTENTS))

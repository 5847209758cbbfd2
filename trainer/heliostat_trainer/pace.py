"""How fast a run has been, from what it has left in its folder. Reads no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heliostat_trainer.config import TrainConfig, first_change, flatten
from heliostat_trainer.errors import RunFolderError
from heliostat_trainer.metrics import read_metrics
from heliostat_trainer.progress import Outlook
from heliostat_trainer.resuming import CONTENTS

if TYPE_CHECKING:
    from pathlib import Path


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
        RunFolderError: the folder cannot be read.
    """
    path, run = config.run.path, config.run
    try:
        lines: list[dict[str, Any]] = list(read_metrics(path / "metrics.jsonl"))
        if not lines:
            return None
        last = lines[-1]
        outlook = Outlook(int(last["step"]), run.steps, float(last["elapsed_s"]), run.minutes)
        # Where files lie costs no time.
        return Pace(outlook, first_change(_settings(path), flatten(config), CONTENTS))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"cannot read {path}: {error}") from error


def _settings(run: Path) -> dict[str, object]:
    content = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return flatten(TrainConfig.model_validate(content["config"]))

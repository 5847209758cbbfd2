"""Whole runs without a server: what serving costs is measured elsewhere (`serving.py`)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console

from heliostat.in_process import demo_service
from heliostat_trainer.display.progress import open_progress
from heliostat_trainer.folder.layout import RunFolder, kept_steps
from heliostat_trainer.forecast.outlook import Outlook
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.run import build_trainer, open_run
from heliostat_trainer.workshop import choose_device

if TYPE_CHECKING:
    from heliostat_server.rewards.definitions import RewardDefinitions
    from heliostat_trainer.settings.config import TrainConfig


def train_in_process(
    config: TrainConfig, *, batch: int = 48, rewards: RewardDefinitions | None = None
) -> None:
    """Train a run of the demo's model, or go on with it; `batch` candidates are denoised together.

    `rewards` are defined besides the built-in ones, as by `heliostat serve --rewards`.
    """
    resume = bool(kept_steps(RunFolder(config.run.path).checkpoints))
    device = str(choose_device(config.run.device))
    service = demo_service(device, batch=batch, rewards=rewards)
    console, outlook = Console(file=io.StringIO()), Outlook(0, config.run.steps, 0.0, None)
    with open_progress(console, outlook) as progress:
        checkpoints = open_run(config, resume=resume)
        trainer = build_trainer(
            config,
            read_prompt_sets(config),
            service,
            checkpoints,
            progress,
            Interrupts(),
            resume=resume,
        )
        trainer.train()
        trainer.conclude()

"""A rollout server for as long as a block runs: the demo's, or one for a single run on the trainer's device."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from heliostat.credentials import remember
from heliostat_engines.machine.hardware import AUTO
from heliostat_server.control.validation import first_problem
from heliostat_server.errors import ServerStartError
from heliostat_server.launcher.background import background_server
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.settings import DEVICE_VARIABLE, AskedLimits, ServeSettings
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.folder.layout import RunFolder
from heliostat_trainer.rollouts.service import Serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from heliostat_engines.progress import Stages
    from heliostat_trainer.prompts.sets import PromptSets
    from heliostat_trainer.settings.config import TrainConfig

OWN_SLOTS = 2
"""The adapter that a single run explores with, and the one that is tried."""
FREE_PORTS = {"port": 0, "http_port": 0}
DEVICES = {"auto": AUTO, "cpu": "cpu", "cuda": "gpu", "cuda:0": "gpu"}
"""What a server calls the trainer's device: its models run on the first card."""


@contextmanager
def running_server(settings: ServeSettings, stages: Stages) -> Iterator[Serving]:
    """Run a server; yields where it is and stops it in the end.

    The stages hear what it loads. It runs in a session of its own, so that Ctrl-C reaches the
    trainer first, and ends with this thread.

    Raises:
        FilesError: the state folder is none of a server's.
        ServerStartError: with the reason that the server gave.
    """
    with stages.entering(
        "start the rollout server", background_server(settings, stages.part)
    ) as record:
        url = f"grpc://{record.control}"
        token = StateFolder(settings.state).read_admin_token()
        remember(url, token)
        yield Serving(url, token)


def demo_settings(state: Path) -> ServeSettings:
    """The demo's server: as it is by default, on free ports. Raises ServerStartError."""
    return _settings({"state": state, "device": _device(AUTO), **FREE_PORTS})


def run_settings(config: TrainConfig, prompts: PromptSets) -> ServeSettings:
    """The server of a single run, which serves what it asks for and takes turns with its trainer.

    Raises:
        ConfigError: it cannot be on the trainer's device.
        ServerStartError: HELIOSTAT_DEVICE is none.
    """
    model, recipe = config.model, config.recipe
    if config.run.device not in DEVICES:
        raise ConfigError(
            f"run.device = {config.run.device!r}, but --serve serves on the first card: set it to cuda, and "
            "choose the card with CUDA_VISIBLE_DEVICES"
        )
    usual = AskedLimits()
    most_steps = max(recipe.steps, recipe.explore_steps, config.watch.max_explore_steps or 0)
    longest = max(map(len, (*prompts.train, *prompts.heldout)))
    return _settings(
        {
            "family": model.family,
            "checkpoint": model.checkpoint,
            "resolution_px": model.resolution_px,
            "max_rank": config.lora.rank,
            "slots": OWN_SLOTS,
            "device": _device(DEVICES[config.run.device]),
            "threads": config.run.threads,
            "state": RunFolder(config.run.path).server.absolute(),
            "sleep": True,
            "limits": {
                "batch": _batch(config),
                "max_steps": max(usual.max_steps, most_steps),
                "max_prompt_chars": max(usual.max_prompt_chars, longest),
                "resolutions_px": tuple(dict.fromkeys(prompts.sizes.values())),
            },
            **FREE_PORTS,
        }
    )


def _batch(config: TrainConfig) -> int:
    """Candidates drawn at once: the family's number, or the largest below that pools are a multiple of."""
    from heliostat_engines.families import get_family  # imports torch

    usual = get_family(config.model.family).explore_batch
    return max(batch for batch in range(1, usual + 1) if config.recipe.pool % batch == 0)


def _device(asked: str) -> str:
    """As `heliostat serve` takes it where nothing is asked for."""
    return os.environ.get(DEVICE_VARIABLE) or AUTO if asked == AUTO else asked


def _settings(given: dict[str, Any]) -> ServeSettings:
    try:
        return ServeSettings.model_validate(given)
    except ValidationError as error:
        problems = error.errors()
        # The device alone is taken from the environment; all else is the run's.
        is_device = problems[0]["loc"] == ("device",)
        source = DEVICE_VARIABLE if is_device else "the run's own server"
        raise ServerStartError(f"{source}: {first_problem(problems)}") from error

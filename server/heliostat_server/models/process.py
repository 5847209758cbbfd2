"""Starting a model's process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from heliostat_server.logs import configure_logs
from heliostat_server.models.orphan import die_with_parent
from heliostat_server.settings import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Mapping


def start_model(arguments: Mapping[str, str]) -> ModelSettings:
    """Read the settings file that the model's config names; set logs and threads; end with the server."""
    die_with_parent()
    config = json.loads(arguments["model_config"])
    settings = read_settings(
        Path(arguments["model_repository"]).parent
        / config["parameters"]["settings"]["string_value"]
    )
    configure_logs(colours=False)
    # Rewards promise float32; cuDNN would round convolutions' inputs to ten bits.
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(getattr(settings.threads, arguments["model_name"]))
    return settings


def read_settings(path: Path) -> ModelSettings:
    """The settings file; a relative engine folder is taken from where the file is."""
    settings = ModelSettings.model_validate_json(path.read_text())
    if settings.engine is None:
        return settings
    return settings.model_copy(update={"engine": path.parent / settings.engine})

"""A model's process: how it starts, and that it ends with its tritonserver."""

from __future__ import annotations

import json
import locale
import os
import time
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import torch

from heliostat_server.logs import configure_logs
from heliostat_server.settings import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Mapping


def start_model(arguments: Mapping[str, str]) -> ModelSettings:
    """Read the settings file that the model's config names; set logs and threads; end with the server."""
    die_with_parent()
    # Triton starts Python in C's locale, whatever ours is, and torch.compile reads files of UTF-8 by the locale.
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
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


CHECK_INTERVAL_S = 0.5
GRACE_S = 1.0
"""Triton's own stub ends by itself within this time, unless a thread waits for another model."""


def die_with_parent() -> None:
    """End this process soon after its parent; not by PR_SET_PDEATHSIG, which would follow the
    thread that loaded the model and not the server.
    """
    Thread(target=_watch, args=(os.getppid(),), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(CHECK_INTERVAL_S)
    time.sleep(GRACE_S)
    os._exit(1)

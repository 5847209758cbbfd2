"""Triton's model repository, written from the packaged one for a server's settings."""

from __future__ import annotations

import compileall
import shutil
from pathlib import Path
from py_compile import PycInvalidationMode
from string import Template
from typing import TYPE_CHECKING

import heliostat_server
from heliostat_engines.files.atomic import SECRET_MODE, atomic_text
from heliostat_wire.names import Model

if TYPE_CHECKING:
    from heliostat_server.settings import ModelSettings

PACKAGED = Path(heliostat_server.__file__).parent / "model_repository"
MODELS = tuple(model.value for model in Model)
"""In the order in which one needs another."""
DECOUPLED = frozenset({Model.EXPLORE.value})
"""Models that answer later than they are asked. If the process of one dies, Triton never ends
the requests that it had: only a new tritonserver does."""

FILES = frozenset(f"{model}/{file}" for model in MODELS for file in ("config.pbtxt", "1/model.py"))
COMPILED = tuple(f"{model}/1/__pycache__/*.pyc" for model in MODELS)


def stage_repository(
    draft: Path, target: Path, settings_path: Path, settings: ModelSettings, latent_axes: int
) -> None:
    """Write the model repository and the settings file that its models read.

    Args:
        draft: an empty folder.
        target: what the draft is going to be.
        settings_path: where the settings go; a relative one lies in the repository, which can
            then be moved.
        settings: what the models are to do.
        latent_axes: axes of a batch of latents.

    Raises:
        FilesError: the settings cannot be written.
    """
    # They may name a password: that of Redis.
    atomic_text(draft / settings_path, settings.model_dump_json(indent=2), SECRET_MODE)
    words = {
        "kind": f"KIND_{settings.device.upper()}",
        # Else Triton starts an instance for each card that it sees.
        "cards": "gpus: [ 0 ] " if settings.device == "gpu" else "",
        "settings": str(settings_path),
        "latent_dims": ", ".join(["-1"] * latent_axes),
    }
    for model in MODELS:
        shutil.copytree(PACKAGED / model / "1", draft / model / "1", ignore=_no_caches)
        template = Template((PACKAGED / model / "config.pbtxt").read_text())
        (draft / model / "config.pbtxt").write_text(template.safe_substitute(words))
    # Now, for Triton would take a model for changed when Python adds its compiled file.
    compileall.compile_dir(
        draft,
        quiet=1,
        stripdir=draft,
        prependdir=target,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )


_no_caches = shutil.ignore_patterns("__pycache__")

"""From a run's TOML and the command line to its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heliostat_engines.settings.reading import (
    folder_beside,
    override,
    parse_overrides,
    read_toml,
    require_tables,
    resolve_paths,
    validated,
)
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.objectives import DiffusionNftSettings
from heliostat_trainer.settings.prompts import HUB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

EXAMPLE = "--run.steps 100"
"""Of a setting on the command line."""


def load_config(
    path: Path, overrides: Sequence[str] = (), options: Sequence[str] = ()
) -> TrainConfig:
    """Read a run's TOML; not the prompts that it names.

    Args:
        path: the file; relative prompt files and checkpoints in it are relative to its folder.
        overrides: command-line arguments, `--section.key value` or `--section.key=value`;
            values are read as TOML where they can be, else as text; paths are relative to the
            working directory. Another objective.name takes the place of the file's [objective]:
            what that sets is meant for its own.
        options: the command's own, one of which may be meant by what is no setting.

    Raises:
        ConfigError: one sentence that names the key.
    """
    settings = _resolved(read_toml(path), path.resolve().parent)
    changes = list(parse_overrides(TrainConfig, overrides, options, example=EXAMPLE))
    require_tables(TrainConfig, settings, path)
    named = settings.get("objective", {}).get("name", DiffusionNftSettings().name)
    if any(change[:2] == ("objective", "name") and change[2] != named for change in changes):
        settings["objective"] = {}
    override(settings, changes)
    return validated(TrainConfig, settings, f"{path}: ")


def _resolved(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """With the TOML's own relative paths made absolute; a checkpoint only if there is such a folder."""

    def source(value: object) -> object:
        return _resolved_source(value, folder)

    return resolve_paths(
        settings,
        {
            "prompts.train": source,
            "prompts.heldout": source,
            "model.checkpoint": lambda value: folder_beside(value, folder),
        },
    )


def _resolved_source(source: object, folder: Path) -> object:
    """A prompt source with its path made absolute; a data set's only if there is such a folder."""
    if isinstance(source, dict) and "dataset" in source:
        return source | {"dataset": folder_beside(source["dataset"], folder)}
    if isinstance(source, str) and not source.startswith(HUB):
        return str(folder / source)
    return source

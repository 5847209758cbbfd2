"""Sizes of images that prompts of a JSONL file ask for: `{"prompt": ..., "resolution": [832, 1216]}`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_core import PydanticCustomError

from heliostat_engines.errors import ResolutionError
from heliostat_engines.files.text import lines_of, parse_json, read_text
from heliostat_engines.resolution import read_resolution, written
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.settings.objectives import GrpoSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heliostat_engines.families.family import Family
    from heliostat_engines.resolution import Resolution
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.settings.prompts import HubPrompts


def read_sizes(
    config: TrainConfig, source: Path | HubPrompts, setting: str
) -> Mapping[str, Resolution]:
    """Of the prompts of a source, those that have a size of their own, with it.

    It was read before: each line is a prompt's. `setting` names it.

    Raises:
        ConfigError: naming file and line of a size that is none, is not the family's, or is a prompt's
            second; or it is trained on by trajectories, which have one schedule.
    """
    if not isinstance(source, Path) or source.suffix.lower() != ".jsonl":
        return {}
    sizes: dict[str, Resolution] = {}
    for number, line in enumerate(lines_of(read_text(source)), start=1):
        where = f"{setting}: {source}, line {number}"
        asked = parse_json(line, where) if line.strip() else {}
        if "resolution" not in asked:
            continue
        prompt, size = asked["prompt"].strip(), _size(config, asked["resolution"], where)
        if source == config.prompts.train:
            _check_objective(config, size, where)
        if sizes.setdefault(prompt, size) != size:
            raise ConfigError(
                f"{where}: the prompt was to be of {written(sizes[prompt])} px before, here of "
                f"{written(size)}: give it one resolution"
            )
    return sizes


def _size(config: TrainConfig, asked: object, where: str) -> Resolution:
    try:
        size = read_resolution(asked)
    except PydanticCustomError as error:
        raise ConfigError(f"{where}: resolution = {asked!r}: {error.message()}") from error
    family = _family(config)
    try:
        family.resolutions.check(family.name, size, "resolution to")
    except ResolutionError as error:
        raise ConfigError(f"{where}: {error}") from error
    return size


def _check_objective(config: TrainConfig, size: Resolution, where: str) -> None:
    own = config.model.resolution_of(_family(config))
    if isinstance(config.objective, GrpoSettings) and size != own:
        raise ConfigError(
            f"{where}: objective.name = {config.objective.name!r} trains on images of one size: leave "
            "resolution out, or choose another objective"
        )


def _family(config: TrainConfig) -> Family:
    from heliostat_engines.families import get_family  # torch: a dry run needs none without sizes

    return get_family(config.model.family)

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

    from heliostat_engines.resolution import Resolution
    from heliostat_trainer.settings.config import TrainConfig


def read_sizes(config: TrainConfig) -> Mapping[str, Resolution]:
    """Of the prompts that are trained on, those that have a size of their own, with it.

    Their source was read before: each line is a prompt's.

    Raises:
        ConfigError: naming file and line of a size that is none, is not the family's, or is a prompt's
            second; or the objective trains on trajectories, which have one schedule.
    """
    source = config.prompts.train
    if not isinstance(source, Path) or source.suffix.lower() != ".jsonl":
        return {}
    sizes: dict[str, Resolution] = {}
    for number, line in enumerate(lines_of(read_text(source)), start=1):
        where = f"prompts.train: {source}, line {number}"
        asked = parse_json(line, where) if line.strip() else {}
        if "resolution" not in asked:
            continue
        prompt, size = asked["prompt"].strip(), _size(config, asked["resolution"], where)
        if sizes.setdefault(prompt, size) != size:
            raise ConfigError(
                f"{where}: the prompt was to be of {written(sizes[prompt])} px before, here of "
                f"{written(size)}: give it one resolution"
            )
    return sizes


def _size(config: TrainConfig, asked: object, where: str) -> Resolution:
    from heliostat_engines.families import get_family  # torch: a dry run needs none without sizes

    try:
        size = read_resolution(asked)
    except PydanticCustomError as error:
        raise ConfigError(f"{where}: resolution = {asked!r}: {error.message()}") from error
    family = get_family(config.model.family)
    try:
        family.resolutions.check(family.name, size, "resolution to")
    except ResolutionError as error:
        raise ConfigError(f"{where}: {error}") from error
    if isinstance(config.objective, GrpoSettings) and size != config.model.resolution_of(family):
        raise ConfigError(
            f"{where}: objective.name = {config.objective.name!r} trains on images of one size: leave "
            "resolution out, or choose another objective"
        )
    return size

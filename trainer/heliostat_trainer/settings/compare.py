"""The settings that a run was made with, and which of them a resumed one may change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from heliostat_engines.settings.places import flat, nested
from heliostat_engines.settings.reading import validated
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.settings.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

FREE_TO_CHANGE = (
    "run.name",
    "run.folder",
    "run.steps",
    "run.minutes",
    "run.threads",
    "model.sample_batch",
    "model.gradient_checkpointing",
    "model.shard",
    "optimiser.lr_steps",
    "watch.",
    "evaluation.",
    "guards.",
    "logging.",
    "checkpoint.",
    "server.",
)
"""Settings, or sections, that a resumed run may change."""


def flatten(config: TrainConfig) -> dict[str, object]:
    """section.key -> value as JSON has it."""
    return flat(config.model_dump(mode="json"))


def completed(flat: Mapping[str, object]) -> Mapping[str, object]:
    """Flattened settings with the defaults of keys that there were not when they were kept."""
    try:
        return flatten(kept_config(flat))
    except ConfigError:  # of keys that there are no longer
        return flat


def kept_config(flat: Mapping[str, object]) -> TrainConfig:
    """The settings that a run was made with, from its flattened ones.

    Raises:
        ConfigError: one of them is none that there is now; names it.
    """
    return validated(TrainConfig, nested(flat))


def first_change(
    before: Mapping[str, object], after: Mapping[str, object], left_out: Collection[str] = ()
) -> str | None:
    """The first flattened setting that differs and that a resumed run may not change, in words.

    Those in `left_out` may differ.
    """
    for key in sorted((before.keys() | after.keys()) - set(left_out)):
        if not key.startswith(FREE_TO_CHANGE) and before.get(key) != after.get(key):
            was, now = json.dumps(before.get(key)), json.dumps(after.get(key))
            return f"{key} was {was} and is now {now}"
    return None

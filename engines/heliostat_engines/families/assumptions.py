"""What a family's driver takes for granted of a checkpoint's configuration, checked when it is loaded.

Models that share a class may still need another driver: a checkpoint whose configuration says so is
refused, since it would load and then fail, or draw nonsense.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from heliostat_engines.errors import CheckpointError
from heliostat_engines.families.checkpoint import optional_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

TRANSFORMER_CONFIG = "transformer/config.json"
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
VAE_CONFIG = "vae/config.json"
OTHER = "choose the family that the checkpoint belongs to, or another checkpoint"
ABSENT = object()


@dataclass(frozen=True)
class Assumption:
    """One field of one of a checkpoint's files, and which of its values the driver is made for."""

    file: str
    """In diffusers' layout, such as transformer/config.json."""
    field: str
    accepts: Callable[[Any], bool]
    wanted: str
    """Those values, in words."""
    advice: str = OTHER


def equal(file: str, advice: str = OTHER, **fields: Any) -> tuple[Assumption, ...]:
    """Fields that have to have a value, or one of a tuple of values."""
    return tuple(
        Assumption(file, field, partial(_is_one_of, values), _spelled(values), advice)
        for field, given in fields.items()
        for values in [given if isinstance(given, tuple) else (given,)]
    )


def at_least(file: str, field: str, least: float) -> Assumption:
    """A number that must not be smaller."""
    return Assumption(file, field, partial(_is_at_least, least), f"at least {least}")


def entries(file: str, field: str, count: int) -> Assumption:
    """A list of so many entries."""
    return Assumption(file, field, partial(_has_entries, count), f"a list of {count}")


def check_assumptions(family: str, checkpoint: str, assumptions: Iterable[Assumption]) -> None:
    """Refuse a checkpoint with a value that the driver is not made for.

    A file that is not there is not checked: a trainer may have the transformer alone. A field that
    is not there has the default of the file's class.

    Raises:
        CheckpointError: names file and field, and says what to do.
    """
    configs: dict[str, Mapping[str, Any] | None] = {}
    for one in assumptions:
        if one.file not in configs:
            configs[one.file] = optional_config(checkpoint, one.file)
        config = configs[one.file]
        value = ABSENT if config is None else config.get(one.field, _default(config, one.field))
        if value is ABSENT or one.accepts(value):
            continue
        raise CheckpointError(
            f"{checkpoint}/{one.file}: {one.field} = {json.dumps(value)}, and {family} is driven with "
            f"{one.wanted}: {one.advice}"
        )


def _default(config: Mapping[str, Any], field: str) -> object:
    import diffusers

    named = getattr(diffusers, str(config.get("_class_name")), None)
    if named is None:
        return ABSENT
    parameter = inspect.signature(named.__init__).parameters.get(field)
    if parameter is None or parameter.default is inspect.Parameter.empty:
        return ABSENT
    default = parameter.default
    return list(default) if isinstance(default, tuple) else default


def _is_one_of(values: tuple[object, ...], value: object) -> bool:
    return value in values


def _is_at_least(least: float, value: object) -> bool:
    return isinstance(value, int | float) and value >= least


def _has_entries(count: int, value: object) -> bool:
    return isinstance(value, list) and len(value) == count


def _spelled(values: tuple[object, ...]) -> str:
    return " or ".join(json.dumps(value) for value in values)

"""What is wrong with a setting, in one sentence that names it and the nearest that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.settings.marks import Secret, marks
from heliostat_engines.settings.models import UNKNOWN
from heliostat_engines.settings.places import field_at, known_fields, places, variants
from heliostat_engines.suggestions import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails


def unknown_setting(model: type[BaseModel], location: Sequence[str]) -> str:
    """A sentence on a section, or a section and a key of it, that there is not: the nearest there is."""
    *parents, key = location
    prefix = "".join(f"{parent}." for parent in parents)
    known = known_fields(model, parents)
    close = nearest(key, known)
    if close:
        return f"unknown setting {prefix}{key}: did you mean {prefix}{close}?"
    meant = [name for name, meaning in known.items() if key.replace("_", " ") in meaning.lower()]
    near = f"{prefix}{meant[0]}" if meant else _near_elsewhere(model, key, prefix)
    hint = f"the nearest is {near}" if near else f"known here are {', '.join(known)}"
    return f"unknown setting {prefix}{key}: {hint}"


def _near_elsewhere(model: type[BaseModel], key: str, prefix: str) -> str | None:
    known = places(model)
    # Of the same key in a section, as in batch for limits.batch.
    same = [place for place in known if place.endswith(f".{key}")]
    return same[0] if same and not prefix else nearest(f"{prefix}{key}", known, cutoff=0.5)


def sentence(model: type[BaseModel], error: ErrorDetails) -> str:
    """One of `model`'s validation errors in words, with the key and, if it is unknown, the nearest."""
    location = [str(part) for part in error["loc"]]
    if error["type"] == "union_tag_invalid":
        names = ", ".join(variants(model, location[0]))
        return f"{location[0]}.name = {error['ctx']['tag']!r}: choose from {names}"
    if error["type"] == UNKNOWN:
        location.append(error["ctx"]["key"])
    variant = location.pop(1) if location[2:] and variants(model, location[0]) else None
    key = ".".join(location)
    if error["type"] == UNKNOWN:
        if variant is not None:
            return _not_of(model, location[0], variant, location[-1])
        return unknown_setting(model, location)
    if error["type"] == "missing":
        meaning = known_fields(model, location[:-1])[location[-1]]
        return f"{key} is missing: {meaning}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return message
    field = field_at(model, location)
    given = "" if field is not None and marks(field, Secret) else f" = {error['input']!r}"
    return f"{key}{given}: {message[0].lower()}{message[1:]}"


def _not_of(model: type[BaseModel], section: str, variant: str, key: str) -> str:
    """A sentence on a key of a section that the named kind of it does not have."""
    kinds = variants(model, section)
    own = kinds[variant].model_fields
    close = nearest(key, own, cutoff=0.75)
    others = [name for name, kind in kinds.items() if key in kind.model_fields]
    if others and not close:
        return (
            f"{section}.{key} is a setting of {' and '.join(others)}, not of {variant}: leave it "
            f"out, or set {section}.name"
        )
    hint = f"did you mean {section}.{close}?" if close else f"it has {', '.join(own)}"
    return f"unknown setting {section}.{key} of {variant}: {hint}"

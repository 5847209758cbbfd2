"""Every setting of a run's TOML as its models define it: for people to read. Reads no torch."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from heliostat_engines.settings.places import section_kinds
from heliostat_engines.settings.sentences import unknown_setting
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.recipe import UsedBy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
KINDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}


@dataclass(frozen=True)
class Setting:
    """One key."""

    key: str
    values: str
    """Which values it takes, in words."""
    default: str | None
    """As TOML has it, or "unset"; None: it has to be given."""
    meaning: str


@dataclass(frozen=True)
class SectionReference:
    """One section; of [objective] there is one for each objective."""

    name: str
    variant: str | None
    """The objective's name in [objective]."""
    meaning: str
    settings: tuple[Setting, ...]


def reference() -> tuple[SectionReference, ...]:
    """All sections, in the TOML's order."""
    return tuple(
        _section(name, kind)
        for name in TrainConfig.model_fields
        for kind in section_kinds(TrainConfig, name)
    )


def look_up(place: str | None) -> tuple[SectionReference, ...]:
    """The sections at SECTION, or with only one key at SECTION.KEY; all of them at None.

    Raises:
        ConfigError: there is no such section or key; names the nearest.
    """
    if place is None:
        return reference()
    name, _, key = place.partition(".")
    sections = [section for section in reference() if section.name == name]
    if not sections:
        raise ConfigError(unknown_setting(TrainConfig, [name]))
    if key:
        sections = [_only(section, key) for section in sections if _has(section, key)]
    if not sections:
        raise ConfigError(unknown_setting(TrainConfig, [name, key]))
    return tuple(sections)


def _has(section: SectionReference, key: str) -> bool:
    return any(setting.key == key for setting in section.settings)


def _only(section: SectionReference, key: str) -> SectionReference:
    settings = tuple(setting for setting in section.settings if setting.key == key)
    return replace(section, settings=settings)


def _section(name: str, kind: type[BaseModel]) -> SectionReference:
    schema = kind.model_json_schema()
    meaning = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0]
    required = schema.get("required", ())
    return SectionReference(
        name=name,
        variant=kind.model_fields["name"].default if name == "objective" else None,
        meaning=_meaning(meaning.removeprefix(f"[{name}]: "), TrainConfig.model_fields[name]),
        settings=tuple(
            Setting(
                key=key,
                values=_values(field, schema.get("$defs", {})),
                default=None if key in required else _toml(field["default"]),
                meaning=_meaning(field.get("description", ""), kind.model_fields[key]),
            )
            for key, field in schema["properties"].items()
        ),
    )


def _values(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Allowed values of a field's JSON schema, in words."""
    if "$ref" in field:
        return _values(definitions[field["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in field:
        kinds = [kind for kind in field["anyOf"] if kind.get("type") != "null"]
        return " or ".join(_values(kind, definitions) for kind in kinds)
    if "enum" in field:
        return " | ".join(field["enum"])
    if "const" in field:
        return str(field["const"])
    if "prefixItems" in field:
        each = ", ".join(_values(item, definitions) for item in field["prefixItems"])
        return f"[{each}]"
    if field["type"] == "object" and "properties" in field:
        return f"table with {', '.join(field['properties'])}"
    if field["type"] == "object":
        return f"table of {_values(field['additionalProperties'], definitions)}"
    if field["type"] == "array":
        return f"list of {_values(field['items'], definitions)}"
    if field.get("format") == "path":
        return "path"
    return " ".join((KINDS[field["type"]], *_limits(field)))


def _limits(field: Mapping[str, Any]) -> Iterator[str]:
    bounds = [f"{sign} {field[name]}" for name, sign in BOUNDS.items() if name in field]
    if bounds:
        yield " and ".join(bounds)
    if "pattern" in field:
        yield f"like {field['pattern']}"


def _toml(default: object) -> str:
    return "unset" if default is None else json.dumps(default)


def _meaning(text: str, field: FieldInfo) -> str:
    """In one line, with the recipes that pay heed to it where not all do."""
    marks = [mark for mark in field.metadata if isinstance(mark, UsedBy)]
    used = [f"Used by {', '.join(mark.recipes)}." for mark in marks]
    return " ".join([*text.split(), *used])

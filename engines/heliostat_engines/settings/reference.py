"""Every setting of a model of settings as its fields define it: for people to read."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from heliostat_engines.errors import ConfigError
from heliostat_engines.settings.marks import Mark, marks
from heliostat_engines.settings.places import is_plain, section_kinds, table_kinds, tag_of
from heliostat_engines.settings.sentences import unknown_setting
from heliostat_engines.settings.writing import literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
KINDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}
ABOVE = ""
"""Stands for the name of a section: the keys above all sections."""


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
    """One section; of one that has several kinds, as [objective] and [rewards.NAME] have, one for each."""

    name: str
    variant: str | None
    """Which kind; of one that goes by several names, all of them: a | b."""
    meaning: str
    settings: tuple[Setting, ...]
    tag: str = "name"
    """The key that says which kind."""
    of_tables: bool = False
    """Whether there are several, each a table [name.NAME]."""

    @property
    def heading(self) -> str:
        """As in TOML, with the kind behind it; empty above all sections."""
        table = f"[{self.name}.NAME]" if self.of_tables else f"[{self.name}]"
        values = (self.variant or "").replace(" | ", '" | "')
        kind = f' {self.tag} = "{values}"' if values else ""
        return f"{table}{kind}" if self.name else ""


def reference(model: type[BaseModel]) -> tuple[SectionReference, ...]:
    """What stands above all sections, if there is anything, then these in the TOML's order."""
    plain = {name for name in model.model_fields if is_plain(model, name)}
    above = [_section(ABOVE, model, _summary(model), plain)] if plain else []
    return (*above, *(each for name in model.model_fields for each in _sections(model, name)))


def look_up(model: type[BaseModel], place: str | None) -> tuple[SectionReference, ...]:
    """The sections at SECTION, or with only one key at SECTION.KEY or KEY; all of them at None.

    Raises:
        ConfigError: there is no such section or key; names the nearest.
    """
    if place is None:
        return reference(model)
    if is_plain(model, place):
        return tuple(_only(above, place) for above in reference(model) if above.name == ABOVE)
    name, _, key = place.partition(".")
    sections = [section for section in reference(model) if name and section.name == name]
    if not sections:
        raise ConfigError(unknown_setting(model, [place if is_plain(model, name) else name]))
    if key:
        sections = [_only(section, key) for section in sections if _has(section, key)]
    if not sections:
        raise ConfigError(unknown_setting(model, [name, key]))
    return tuple(sections)


def _has(section: SectionReference, key: str) -> bool:
    return any(setting.key == key for setting in section.settings)


def _only(section: SectionReference, key: str) -> SectionReference:
    settings = tuple(setting for setting in section.settings if setting.key == key)
    return replace(section, settings=settings)


def _sections(model: type[BaseModel], name: str) -> Iterator[SectionReference]:
    field = model.model_fields[name]
    tables = table_kinds(model, name)
    kinds = tables or section_kinds(model, name)
    for kind in kinds:
        meaning = _meaning(_summary(kind).removeprefix(f"[{name}]: "), field)
        tag, variant = tag_of(model, name, kind)
        # Of a table, the heading has it, and it may be left out where NAME says the same.
        keys = kind.model_fields.keys() - ({tag} if tables else set())
        section = _section(name, kind, meaning, keys)
        yield replace(section, variant=variant, tag=tag, of_tables=bool(tables))


def _summary(kind: type[BaseModel]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0]


def _section(name: str, kind: type[BaseModel], meaning: str, keys: set[str]) -> SectionReference:
    schema = kind.model_json_schema()
    required = schema.get("required", ())
    settings = tuple(
        Setting(
            key=key,
            values=_values(field, schema.get("$defs", {})),
            default=None if key in required else _default(field, kind.model_fields[key]),
            meaning=_meaning(field.get("description", ""), kind.model_fields[key]),
        )
        for key, field in schema["properties"].items()
        if key in keys
    )
    return SectionReference(name, None, meaning, settings)


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
        inner = field["additionalProperties"]
        return "table" if inner is True else f"table of {_values(inner, definitions)}"
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


def _default(schema: Mapping[str, Any], field: FieldInfo) -> str:
    value = schema.get("default", field.get_default(call_default_factory=True))
    return "unset" if value is None else literal(value)


def _meaning(text: str, field: FieldInfo | None = None) -> str:
    """In one line, with what the field's marks say."""
    notes = [mark.note for mark in marks(field, Mark)] if field is not None else []
    return " ".join([*text.split(), *notes])

"""Where a setting stands: its section and key, read from any model of settings.

A model's fields are its sections, whose fields are the keys; or keys themselves, above all sections; or tables,
sections [field.NAME] as many as are named. A section may be of several kinds, which its key `name`, of tables `kind`,
tells apart: models of the same field, each with its own values of that key.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic.fields import FieldInfo


def section_kinds(model: type[BaseModel], field: str) -> tuple[type[BaseModel], ...]:
    """The sections that a field may hold: one or several kinds, none for a plain value and for tables."""
    annotation = model.model_fields[field].annotation
    return () if get_origin(annotation) is dict else tuple(_models_in(annotation))


def table_kinds(model: type[BaseModel], field: str) -> tuple[type[BaseModel], ...]:
    """What each of the tables [field.NAME] may be; empty for every other field."""
    annotation = model.model_fields[field].annotation
    return tuple(_models_in(annotation)) if get_origin(annotation) is dict else ()


def is_plain(model: type[BaseModel], field: str) -> bool:
    """Whether a field is a key above all sections."""
    known = field in model.model_fields
    return known and not (section_kinds(model, field) or table_kinds(model, field))


def path_keys(model: type[BaseModel]) -> list[str]:
    """The keys above all sections that are paths."""
    return [
        name
        for name, field in model.model_fields.items()
        if Path in (field.annotation, *get_args(field.annotation))
    ]


def tag_of(model: type[BaseModel], field: str, kind: type[BaseModel]) -> tuple[str, str | None]:
    """The key that tells kinds of a section apart, and its values of this kind; None of a single kind."""
    tag = "kind" if table_kinds(model, field) else "name"
    if len(section_kinds(model, field) or table_kinds(model, field)) < 2:
        return tag, None
    return tag, " | ".join(get_args(kind.model_fields[tag].annotation))


def variants(model: type[BaseModel], field: str) -> Mapping[str, type[BaseModel]]:
    """By `name`, the kinds of a section that has several; empty for every other."""
    kinds = section_kinds(model, field) if field in model.model_fields else ()
    if len(kinds) < 2:
        return {}
    return {kind.model_fields["name"].default: kind for kind in kinds}


def known_fields(model: type[BaseModel], parents: Sequence[str]) -> Mapping[str, str]:
    """Field name -> description, of the section that `parents` name (none: the sections)."""
    kinds: tuple[type[BaseModel], ...] = (model,)
    for parent in parents:
        kinds = section_kinds(kinds[0], parent) or table_kinds(kinds[0], parent)
    return {
        name: " ".join((field.description or "").split())
        for kind in kinds
        for name, field in kind.model_fields.items()
    }


def field_at(model: type[BaseModel], location: Sequence[str]) -> FieldInfo | None:
    """The field at a key, or at a section and its key; None where there is none, and in tables."""
    kinds: tuple[type[BaseModel], ...] = (model,)
    for parent in location[:-1]:
        kinds = section_kinds(kinds[0], parent) if parent in kinds[0].model_fields else ()
        if not kinds:
            return None
    return kinds[0].model_fields.get(location[-1])


def places(model: type[BaseModel]) -> list[str]:
    """section.key, or key, of every setting but those of tables, whose names nobody knows."""
    return [
        place
        for name in model.model_fields
        if not table_kinds(model, name)
        for place in (
            [name]
            if is_plain(model, name)
            else [f"{name}.{key}" for key in known_fields(model, [name])]
        )
    ]


def flat(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """section.key -> value."""
    return {
        f"{section}.{key}": value
        for section, keys in sections.items()
        for key, value in keys.items()
    }


def nested(flat: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Section -> key -> value, of section.key -> value."""
    sections: dict[str, dict[str, object]] = {}
    for place, value in flat.items():
        section, _, key = place.partition(".")
        sections.setdefault(section, {})[key] = value
    return sections


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that a type is made of, in its order: of a union, and behind annotations."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
        elif kind is not annotation:
            yield from _models_in(kind)

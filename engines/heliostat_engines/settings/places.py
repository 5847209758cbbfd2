"""Where a setting stands: its section and key, read from any model of settings.

A model's fields are its sections, whose fields are the keys. A section may be of several kinds, which its
key `name` tells apart: models of the same field, each with its own default of `name`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def section_kinds(model: type[BaseModel], field: str) -> tuple[type[BaseModel], ...]:
    """The sections that a field may hold: one or several kinds, none for a plain value."""
    return tuple(_models_in(model.model_fields[field].annotation))


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
        kinds = section_kinds(kinds[0], parent)
    return {
        name: " ".join((field.description or "").split())
        for kind in kinds
        for name, field in kind.model_fields.items()
    }


def places(model: type[BaseModel]) -> list[str]:
    """section.key of every setting."""
    return [
        f"{section}.{key}"
        for section in model.model_fields
        for key in known_fields(model, [section])
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

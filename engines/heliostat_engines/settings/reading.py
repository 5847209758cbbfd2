"""From a TOML file and `--section.key value` to a model of settings that is checked."""

from __future__ import annotations

import itertools
import os
import re
import tomllib
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from heliostat_engines.errors import ConfigError, FileError
from heliostat_engines.files.text import read_text
from heliostat_engines.settings.models import Settings
from heliostat_engines.settings.places import is_plain, places, table_kinds
from heliostat_engines.settings.sentences import sentence
from heliostat_engines.suggestions import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pydantic import BaseModel

M = TypeVar("M", bound=Settings)

SETTING = re.compile(
    r"--(?P<section>[a-z_]+(?:\.[a-z_][a-z0-9_]*)*)\.(?P<key>[a-z_]+)(?:=(?P<value>.*))?", re.DOTALL
)


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tables.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_text(path))
    except FileError as error:
        raise ConfigError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def resolve_paths(
    settings: Mapping[str, Any], resolvers: Mapping[str, Callable[[object], object]]
) -> dict[str, Any]:
    """The settings, with the values at some section.key, or key, as its resolver has them."""
    resolved = {
        section: dict(keys) if isinstance(keys, dict) else keys
        for section, keys in settings.items()
    }
    for place, resolve in resolvers.items():
        section, _, key = place.rpartition(".")
        table = resolved.get(section) if section else resolved
        if isinstance(table, dict) and key in table:
            table[key] = resolve(table[key])
    return resolved


def path_beside(name: str, folder: Path) -> Path:
    """A path as it is taken from `folder`; `~` is whose home it says, where there is such a user."""
    return folder / os.path.expanduser(name)  # noqa: PTH111 (Path's refuses unknown users)


def folder_beside(name: object, folder: Path) -> object:
    """A name in `folder` if there is such a folder, else as it is: it may be one of the hub."""
    if isinstance(name, str) and (folder / name).is_dir():
        return str(folder / name)
    return name


def require_tables(model: type[BaseModel], settings: Mapping[str, object], path: Path) -> None:
    """Refuse a plain value where the model has a section. Raises ConfigError."""
    for section in settings.keys() & model.model_fields.keys():
        if is_plain(model, section) or isinstance(settings[section], dict):
            continue
        # What should be tables may hold anything, a secret too, as [[rewards]] would.
        heading, given = (
            (f"[{section}.NAME]", section)
            if table_kinds(model, section)
            else (f"[{section}]", f"{section} = {settings[section]!r}")
        )
        raise ConfigError(
            f"{path}: {given} is no section: write {heading}, and its settings below it"
        )


def override(settings: dict[str, Any], changes: Iterable[tuple[str, str, object]]) -> None:
    """Set what `parse_overrides` has read, in place; a change of no section is one above them all."""
    for section, key, value in changes:
        table: Any = settings
        for part in filter(None, section.split(".")):
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
        if isinstance(table, dict):  # else it is no section at all, which `validated` says
            table[key] = value


def validated(model: type[M], settings: Mapping[str, object], where: str = "") -> M:
    """The settings as their model.

    Args:
        model: of sections.
        settings: section -> key -> value.
        where: begins the sentence, as in "run.toml: ".

    Raises:
        ConfigError: one sentence that names the key.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{where}{sentence(model, error.errors()[0])}") from error


def parse_overrides(
    model: type[BaseModel],
    arguments: Sequence[str],
    options: Sequence[str] = (),
    *,
    example: str = "",
) -> Iterator[tuple[str, str, object]]:
    """(section, key, value) of each `--section.key value` or `--section.key=value`.

    Of a table, the section is `tables.name`. Values are read as TOML where they can be, else as text.

    Args:
        model: whose settings may be meant by what is none.
        arguments: of the command line.
        options: the command's own, one of which may be meant.
        example: of a setting and a value on the command line.

    Raises:
        ConfigError: an argument is neither; names the setting or the option of the command that is
            nearest.
    """
    words = iter(arguments)
    for word in words:
        match = SETTING.fullmatch(word)
        if match is None or not _may_be(model, match["section"]):
            raise ConfigError(f"{word!r} is no setting: {_meant(model, word, options, example)}")
        value = next(words, None) if match["value"] is None else match["value"]
        if value is None:
            raise ConfigError(f"{word} needs a value")
        yield match["section"], match["key"], _toml_value(value)


def split_tables(model: type[BaseModel], arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those arguments that set a key of a table, `--tables.name.key value`, and all others."""
    own: list[str] = []
    others: list[str] = []
    words = iter(arguments)
    for word in words:
        match = SETTING.fullmatch(word)
        if match is None or not _is_table(model, match["section"]):
            others.append(word)
            continue
        own += [word] if match["value"] is not None else [word, *itertools.islice(words, 1)]
    return own, others


def _may_be(model: type[BaseModel], section: str) -> bool:
    return "." not in section or _is_table(model, section)


def _is_table(model: type[BaseModel], section: str) -> bool:
    field, dot, name = section.partition(".")
    known = bool(dot) and field in model.model_fields and "." not in name
    return known and bool(table_kinds(model, field))


def _meant(model: type[BaseModel], word: str, options: Sequence[str], example: str) -> str:
    name = word.partition("=")[0]
    settings = [f"--{place}" for place in places(model)]
    # Of the same key in several sections, that of the first one, as in --steps for --run.steps.
    by_key = {f"--{setting.partition('.')[2]}": setting for setting in reversed(settings)}
    near = nearest(name, (*options, *settings, *by_key), cutoff=0.75)
    if near is None or not name.startswith("-"):
        return f"write --section.key value, e.g. {example}"
    return f"did you mean {by_key.get(near, near)}?"


def _toml_value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text

"""From a server.toml and what goes before it to the server's settings, and back. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from heliostat_engines.settings.marks import Secret, marks
from heliostat_engines.settings.places import path_keys
from heliostat_engines.settings.reading import (
    folder_beside,
    override,
    path_beside,
    read_toml,
    require_tables,
    resolve_paths,
    validated,
)
from heliostat_engines.settings.writing import toml_text
from heliostat_server.rewards.definitions import definitions_of
from heliostat_server.settings import ServeSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heliostat_server.rewards.definitions import RewardDefinitions

REWARDS = "rewards"


def load_settings(
    path: Path | None,
    changes: Iterable[tuple[str, str, object]] = (),
    rewards: RewardDefinitions | None = None,
) -> ServeSettings:
    """The settings of a server.toml, with what goes before it.

    Args:
        path: the file; relative paths in it are relative to its folder. None: there is none.
        changes: (section, key, value) of the environment and the command line; the section is empty
            for a key above all sections, and rewards.NAME for one of a reward. Relative paths are
            relative to the working directory.
        rewards: defined elsewhere; they go before the file's of the same name, and after `changes`.

    Raises:
        ConfigError: one sentence that names file and key.
        RewardSettingsError: the same, of a reward.
    """
    file, where = ({}, "") if path is None else (_read(path), f"{path}: ")
    defined: RewardDefinitions = {}
    if path is not None and REWARDS in file:
        defined = definitions_of({REWARDS: file[REWARDS]}, path.parent, where)
    override(file, changes := list(changes))
    defined |= rewards or {}
    settings = file | {REWARDS: defined | _changed(defined, changes)}
    return validated(ServeSettings, settings, where)


def settings_toml(settings: ServeSettings) -> str:
    """The settings as a server.toml with all paths absolute; what is secret is only named, in a comment."""
    checkpoint = folder_beside(settings.checkpoint, Path.cwd())
    hidden: list[str] = []
    shown = _shown(settings.model_copy(update={"checkpoint": checkpoint}), "", hidden)
    note = f"# Not printed, or not in full: {', '.join(hidden)}\n" if hidden else ""
    return note + toml_text(shown)


def _read(path: Path) -> dict[str, Any]:
    settings, folder = read_toml(path), path.absolute().parent
    require_tables(ServeSettings, settings, path)

    def beside(value: object) -> object:
        return str(path_beside(value, folder)) if isinstance(value, str) else value

    resolvers = dict.fromkeys(path_keys(ServeSettings), beside)
    return resolve_paths(
        settings, resolvers | {"checkpoint": lambda value: folder_beside(value, folder)}
    )


def _changed(
    defined: RewardDefinitions, changes: Iterable[tuple[str, str, object]]
) -> RewardDefinitions:
    """The rewards that changes are of, with them."""
    tables: dict[str, dict[str, object]] = {}
    for section, key, value in changes:
        field, _, name = section.partition(".")
        if field == REWARDS:
            before = defined[name].model_dump(exclude_unset=True) if name in defined else {}
            tables.setdefault(name, before)[key] = value
    return definitions_of({REWARDS: tables}, Path.cwd())


def _shown(settings: BaseModel, place: str, hidden: list[str]) -> dict[str, Any]:
    """What may be printed of each setting that is set, by key; `hidden` gets the places of secrets."""
    shown = {}
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        for secret in marks(field, Secret) if value else ():
            given, value = value, secret.shown(value) if secret.shown is not None else None
            hidden += [] if value == given else [f"{place}{key}"]
        if value is not None and value != {}:
            shown[key] = _plain(value, f"{place}{key}.", hidden)
    return shown


def _plain(value: Any, place: str, hidden: list[str]) -> Any:
    if isinstance(value, BaseModel):
        return _shown(value, place, hidden)
    if isinstance(value, dict):
        return {key: _plain(inner, f"{place}{key}.", hidden) for key, inner in value.items()}
    return str(value.absolute()) if isinstance(value, Path) else value

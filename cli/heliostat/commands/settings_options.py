"""The options that a command has of a model of settings: a setting is declared once, in the model."""

from __future__ import annotations

import inspect
from functools import cached_property
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo


class SettingsCommand(TyperCommand):
    """A command whose options are those of a model of settings, and its function's.

    They are made when they are asked for, as importing the model takes longer than all other help. A key may be
    written as in TOML, `--max_rank` for `--max-rank`, and keys of tables are given as `--rewards.NAME.key value`.
    What is given of the settings is the context's `obj`: (section, key, value), the section empty above all.
    """

    def model(self) -> type[BaseModel]:
        """The settings; a subclass imports them here."""
        raise NotImplementedError

    @cached_property
    def settings(self) -> list[Any]:
        """An option for each setting."""
        return _made(self.model())

    def get_params(self, ctx: Any) -> list[Any]:
        """The settings, then the function's parameters and --help."""
        return [*self.settings, *super().get_params(ctx)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take out what is said of tables, which have no options, before all else is parsed."""
        from heliostat_engines.settings.reading import parse_overrides, split_tables

        of_tables, others = split_tables(self.model(), args)
        ctx.obj = list(parse_overrides(self.model(), of_tables))
        keys = {f"--{key}": f"--{key.replace('_', '-')}" for key in self.model().model_fields}
        return super().parse_args(ctx, [_respelt(word, keys) for word in others])

    def invoke(self, ctx: Any) -> Any:
        """Take the settings out of what the function is called with."""
        for place in (option.name for option in self.settings):
            value = ctx.params.pop(place)
            if ctx.get_parameter_source(place).name != "DEFAULT":
                section, _, key = place.rpartition(BETWEEN)
                ctx.obj.append((section, key, value))
        return super().invoke(ctx)


def _respelt(word: str, spellings: Mapping[str, str]) -> str:
    name, equals, value = word.partition("=")
    return f"{spellings.get(name, name)}{equals}{value}"


BETWEEN = "__"
"""Stands in a parameter's name between section and key."""


def setting_options(model: type[BaseModel]) -> Mapping[str, inspect.Parameter]:
    """An option for each setting, by its place: `key` or `section__key`. Tables have none."""
    return {option.name: option for option in _options(model, "")}


def _options(model: type[BaseModel], section: str) -> Iterator[inspect.Parameter]:
    for key, field in model.model_fields.items():
        kind = _kind(field.annotation)
        if hasattr(kind, "model_fields"):
            yield from _options(kind, key)
        elif get_origin(kind) is not dict:
            yield _option(key, section, field, kind)


def _option(key: str, section: str, field: FieldInfo, kind: Any) -> inspect.Parameter:
    from heliostat_engines.settings.marks import Flag, marks

    flag = f"--{section}.{key}" if section else f"--{key.replace('_', '-')}"
    others = marks(field, Flag)
    flags = [flag, *(other.flag for other in others if other.flag)]
    variable = next((other.variable for other in others if other.variable), None)
    if kind is bool:
        flags = [f"{each}/--no-{each[2:]}" for each in flags]
    meaning = " ".join((field.description or "").split())
    option = typer.Option(*flags, envvar=variable, help=meaning)
    optional = field.default is None
    return inspect.Parameter(
        f"{section}{BETWEEN}{key}" if section else key,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=Annotated[kind | None if optional else kind, option],
    )


def _kind(annotation: Any) -> Any:
    """The type below `Annotated[...]` and `... | None`; of one of several kinds text, which the model reads."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin is tuple:  # one option for each
        return list[_kind(get_args(annotation)[0])]  # type: ignore[misc]
    if origin not in {Union, UnionType}:
        return annotation
    kinds = [each for each in get_args(annotation) if each is not NoneType]
    return _kind(kinds[0]) if len(kinds) == 1 else str


def _made(model: type[BaseModel]) -> list[Any]:
    """The options as typer makes them of a function's signature."""

    def settings() -> None: ...

    signature = inspect.Signature(list(setting_options(model).values()))
    settings.__signature__ = signature  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command()(settings)
    return typer.main.get_command(app).params

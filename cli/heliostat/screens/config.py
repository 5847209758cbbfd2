"""`heliostat config`: every setting of a run's TOML or a server's, with its values, default and meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.text import Text

from heliostat.screens.console import table_console
from heliostat_engines.settings.reference import look_up

if TYPE_CHECKING:
    from pydantic import BaseModel

    from heliostat_engines.settings.reference import SectionReference, Setting


def show(model: type[BaseModel], place: str | None, *, explain: bool) -> None:
    """Print a model's settings at SECTION, SECTION.KEY or KEY, or all; `explain`: with their meanings.

    Raises:
        ConfigError: there is no such section or key.
    """
    console = table_console()
    for number, section in enumerate(look_up(model, place)):
        if number:
            console.print()
        console.print(_heading(section))
        for setting in section.settings:
            console.print(Padding.indent(_line(setting), 2))
            if explain:
                console.print(Padding.indent(Text(setting.meaning), 6))


def _heading(section: SectionReference) -> Text:
    title = ((section.heading, "bold cyan"), "  ") if section.heading else ()
    return Text.assemble(*title, section.meaning)


def _line(setting: Setting) -> Text:
    default = ("required", "yellow") if setting.default is None else f"= {setting.default}"
    return Text.assemble((setting.key, "bold"), " ", default, "  ", (setting.values, "dim"))

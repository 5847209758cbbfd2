"""`heliostat config`: every setting of a run's TOML, with its values, default and meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.text import Text

from heliostat.screens.console import table_console
from heliostat_trainer.settings.reference import look_up

if TYPE_CHECKING:
    from heliostat_trainer.settings.reference import SectionReference, Setting


def show(place: str | None, *, explain: bool) -> None:
    """Print the settings at SECTION or SECTION.KEY, or all; `explain`: with their meanings.

    Raises:
        ConfigError: there is no such section or key.
    """
    console = table_console()
    for number, section in enumerate(look_up(place)):
        if number:
            console.print()
        console.print(_heading(section))
        for setting in section.settings:
            console.print(Padding.indent(_line(setting), 2))
            if explain:
                console.print(Padding.indent(Text(setting.meaning), 6))


def _heading(section: SectionReference) -> Text:
    title = f"[{section.name}]" + (f' name = "{section.variant}"' if section.variant else "")
    return Text.assemble((title, "bold cyan"), "  ", section.meaning)


def _line(setting: Setting) -> Text:
    default = ("required", "yellow") if setting.default is None else f"= {setting.default}"
    return Text.assemble((setting.key, "bold"), " ", default, "  ", (setting.values, "dim"))

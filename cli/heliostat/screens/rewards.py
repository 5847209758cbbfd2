"""`heliostat rewards`: a table of all rewards. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import filesize
from rich.table import Table
from rich.text import Text

from heliostat.screens.console import table_console
from heliostat_server.rewards.registry import Offer, offered_rewards
from heliostat_server.server_toml import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from heliostat_server.rewards.entry import RewardEntry
    from heliostat_server.rewards.weights import Weights


def show(definitions: Path | None, family: str | None) -> None:
    """Print every reward of this installation and of a server.toml, which may have rewards alone.

    Raises:
        ConfigError: the file is none of a server's.
        RewardSettingsError: it defines a reward that cannot work.
    """
    defined = load_settings(definitions).rewards if definitions else {}
    shown = [
        entry
        for entry in offered_rewards(Offer(family, defined))
        if family is None or entry.family in {None, family}
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("reward", "rates", "scale", "weights", "licence", "source", "here"):
        table.add_column(column, no_wrap=column == "reward")
    for entry in shown:
        table.add_row(*_row(entry, family, changed=entry.name in defined))
    console = table_console()
    console.print(table)
    commands = dict.fromkeys(
        part.command for entry in shown if entry.name not in defined for part in _missing(entry)
    )
    if commands:
        console.print("\nTo fetch what is not there:", style="bold")
        for command in commands:
            console.print(f"  {command}", soft_wrap=True, highlight=False)
    console.print(
        "\nA judge behind a language model's server, weighted sums, successes and HTTP scorers are "
        "defined in a file for `heliostat serve`: docs/rewards.md.",
        style="dim",
        highlight=False,
    )


def _row(entry: RewardEntry, family: str | None, *, changed: bool) -> tuple[str | Text, ...]:
    card = entry.card
    weights = Text("as defined", "dim") if changed and card.weights else _weights(entry)
    here = Text("yes", "green") if changed else _here(entry, family)
    return (
        Text(entry.name, "bold"),
        card.rates,
        card.scale,
        weights,
        card.licence,
        card.source,
        here,
    )


def _weights(entry: RewardEntry) -> Text:
    parts = entry.card.weights
    if not parts:
        return Text("none to fetch", "dim")
    here = "not there" if _missing(entry) else "there"
    known = all(part.bytes for part in parts)
    size = f"{filesize.decimal(sum(part.bytes for part in parts))}, " if known else ""
    return Text(size + here)


def _here(entry: RewardEntry, family: str | None) -> Text:
    reason = entry.why_not(family)
    if reason is not None:
        return Text(f"no: {reason}", "red")
    return Text("fetch weights", "yellow") if _missing(entry) else Text("yes", "green")


def _missing(entry: RewardEntry) -> list[Weights]:
    return [part for part in entry.card.weights if part.find() is None]

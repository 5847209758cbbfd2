"""`heliostat compare`: runs side by side, as tables here and as a page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from heliostat.screens.console import table_console
from heliostat_engines.files.atomic import atomic_text
from heliostat_engines.files.ownership import require_own_file
from heliostat_engines.progress import shown
from heliostat_trainer.compare import Comparison, Counting, compare_runs, write_page
from heliostat_trainer.compare.comparison import FRACTIONS
from heliostat_trainer.compare.page import require_page
from heliostat_trainer.compare.wording import (
    METHOD,
    cost_text,
    gain_text,
    minutes_text,
    no_gain_text,
    range_text,
    ratio_text,
    value_text,
)
from heliostat_trainer.errors import CompareError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from heliostat_trainer.compare.comparison import Cost

JSON_SIGN = '"made_by": "heliostat compare"'
"""In every file of numbers that we wrote."""


def compare(
    runs: Sequence[Path],
    counting: Counting,
    reward: str | None,
    out: Path,
    json_out: Path | None,
    say: Callable[[str], None],
) -> None:
    """Print the tables; write the page, and the numbers if a file is named for them.

    Raises:
        CompareError: the runs do not compare; says why.
        FilesError: a folder is no run, or a file cannot be written.
    """
    require_page(out)
    if json_out is not None:
        if json_out.resolve() == out.resolve():
            raise CompareError(f"--out and --json both name {out}: give each a file of its own")
        require_own_file(json_out, JSON_SIGN, "give another file with --json")
    with shown(Console(stderr=True)) as stages:
        with stages.during("read the runs"):
            comparison = compare_runs(runs, counting, reward, say)
        with stages.during("write the comparison"):
            write_page(comparison, out, say)
            if json_out is not None:
                numbers = {"made_by": "heliostat compare"} | comparison.numbers()
                atomic_text(json_out, json.dumps(numbers, indent=1))
    _print(comparison)
    typer.echo(f"Comparison: {out}")


def _print(comparison: Comparison) -> None:
    console = table_console()
    console.print(_results(comparison))
    if comparison.differences:
        console.print(_differences(comparison))
    for reward in comparison.rewards:
        if comparison.gains(reward):
            console.print(_costs(comparison, reward))
        else:
            console.print(Text(no_gain_text(comparison, reward)))
    console.print(METHOD, style="dim", highlight=False)


def _results(comparison: Comparison) -> Table:
    table = _table("Result", ("runs", "steps", "minutes"))
    for reward in comparison.rewards:
        table.add_column(Text(reward), justify="right")
        table.add_column("gain", justify="right")
    for group in comparison.groups:
        results = [comparison.result(group, reward) for reward in comparison.rewards]
        cells = [text for each in results for text in (f"{each.mean:.4f}", gain_text(each))]
        minutes = minutes_text(comparison.minutes(group))
        counts = str(len(group.runs)), str(group.steps[-1])
        table.add_row(Text(group.label), *counts, minutes, *cells)
    return table


def _differences(comparison: Comparison) -> Table:
    table = _table("What differs", [group.label for group in comparison.groups])
    for key, values in comparison.differences.items():
        table.add_row(Text(key), *(Text(value_text(value)) for value in values))
    return table


def _costs(comparison: Comparison, reward: str) -> Table:
    """A cell a cost, with the ratio to the first group's below it."""
    share = f"share of {comparison.reference.label}'s gain"
    table = _table(f"{reward}, {share}", ("", *(unit.name for unit in comparison.units)))
    for fraction in FRACTIONS:
        table.add_section()
        for group in comparison.groups:
            costs = [comparison.cost(group, reward, unit, fraction) for unit in comparison.units]
            is_first = group is comparison.reference
            name = f"{fraction:.0%}" if is_first else ""
            table.add_row(
                name, Text(group.label), *(_cell(cost, is_first=is_first) for cost in costs)
            )
    return table


def _cell(cost: Cost, *, is_first: bool) -> Text:
    text = f"{cost_text(cost)} {range_text(cost.cost)}".rstrip()
    if not is_first:
        text += f"\n{ratio_text(cost)} {range_text(cost.ratio)}".rstrip()
    return Text(text)


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(Text(title))
    for heading in headings:
        table.add_column(Text(heading), justify="right")
    return table

"""`heliostat engine inspect`: the linears of a family's transformer as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import filesize
from rich.table import Table

from heliostat.screens.console import table_console
from heliostat_engines.families import get_family
from heliostat_engines.families.inspection import inspect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heliostat_engines.families.inspection import InspectedLinear, Inspection
    from heliostat_engines.precisions import MapName, Precision


@dataclass(frozen=True)
class Line:
    """Alike linears of repeated blocks, or one linear."""

    name: str
    linears: tuple[InspectedLinear, ...]


def show(family_name: str, map_name: MapName, precision: Precision, *, every: bool) -> None:
    """Print every linear of a family (`every`), or alike ones of repeated blocks as one line.

    Raises:
        UnknownFamilyError: there is no such family.
    """
    inspection = inspect(get_family(family_name), map_name, precision)
    lines = each(inspection.linears) if every else folded(inspection.linears)
    console = table_console()
    console.print(_table(inspection, lines))
    console.print(_summary(inspection))


def each(linears: Iterable[InspectedLinear]) -> list[Line]:
    """One line a linear."""
    return [Line(linear.plan.name, (linear,)) for linear in linears]


def folded(linears: Iterable[InspectedLinear]) -> list[Line]:
    """One line for all linears that differ in nothing but the block they are in."""
    groups: dict[tuple[object, ...], list[InspectedLinear]] = {}
    for linear in linears:
        plan = linear.plan
        key = (
            _folded_name(linear),
            plan.in_features,
            plan.out_features,
            plan.precision,
            plan.carries_lora,
            linear.rows,
        )
        groups.setdefault(key, []).append(linear)
    return [Line(_folded_name(alike[0]), tuple(alike)) for alike in groups.values()]


def _folded_name(linear: InspectedLinear) -> str:
    if not linear.in_block:
        return linear.plan.name
    blocks, _, inside = linear.plan.name.split(".", 2)
    return f"{blocks}.*.{inside}"


def _table(inspection: Inspection, lines: list[Line]) -> Table:
    table = Table(
        title=f"{inspection.family}, {inspection.map_name} precision map, one image of "
        f"{inspection.resolution_px} px",
        title_justify="left",
    )
    table.add_column("module", no_wrap=True)
    for heading in ("count", "in", "out", "rows"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    table.add_column("LoRA", no_wrap=True)
    table.add_column("weights", justify="right", no_wrap=True)
    table.add_column("FLOPs", justify="right", no_wrap=True)
    table.add_column("reason")
    for line in lines:
        first = line.linears[0]
        table.add_row(
            line.name,
            str(len(line.linears)),
            str(first.plan.in_features),
            str(first.plan.out_features),
            str(first.rows),
            first.plan.runs_in(inspection.precision),
            "LoRA" if first.plan.carries_lora else "",
            filesize.decimal(sum(linear.bytes for linear in line.linears)),
            f"{sum(linear.flops for linear in line.linears) / inspection.flops:.2%}",
            first.plan.reason,
        )
    return table


def _summary(inspection: Inspection) -> Table:
    table = Table(show_header=False, box=None)
    format_name = inspection.precision.format_name
    for name, value in (
        (
            f"FLOPs of block linears in {format_name}",
            f"{inspection.share(blocks_only=True):.1%}",
        ),
        (
            f"FLOPs of all linears in {format_name}",
            f"{inspection.share(blocks_only=False):.1%}",
        ),
        ("weights in BF16", filesize.decimal(inspection.bf16_bytes)),
        ("weights under this map", filesize.decimal(inspection.bytes)),
        ("linears that carry LoRA", str(inspection.lora_sites)),
    ):
        table.add_row(name, value)
    return table

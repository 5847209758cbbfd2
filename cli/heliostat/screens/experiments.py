"""`heliostat experiment list` and `show`: experiments as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import filesize
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import RenderableType

    from heliostat_proto import control_pb2


def experiments_table(experiments: Iterable[control_pb2.Experiment]) -> Table:
    """A line each."""
    table = Table("experiment", "", "weight", "priority", "version", box=SIMPLE_HEAD)
    for heading in ("images", "evaluations", "engine"):
        table.add_column(heading, justify="right")
    for each in experiments:
        share, usage = each.share, each.usage
        table.add_row(
            each.name,
            "paused" if share.paused else "",
            f"{share.weight:g}",
            str(share.priority),
            str(each.latest_version or "none"),
            f"{usage.images:,}",
            f"{usage.nfes:,}",
            f"{usage.seconds:,.0f} s",
        )
    return table


def details(
    experiment: control_pb2.Experiment, events: Iterable[control_pb2.Event]
) -> Iterator[RenderableType]:
    """Terms and usage, versions, events."""
    yield experiments_table([experiment])
    yield (
        f"created {experiment.created[:19]} UTC; may have {experiment.share.max_queued_images:,} "
        "images waiting"
    )
    if experiment.tuned:
        yield Text(f"decided last: {experiment.tuned}")
    versions = Table("version", "sha256", "size", "", box=SIMPLE_HEAD)
    for each in experiment.versions:
        versions.add_row(
            str(each.version),
            each.sha256[:12],
            filesize.decimal(each.bytes),
            "pinned" if each.pinned else "",
        )
    yield versions
    happened = Table("at (UTC)", "event", "", box=SIMPLE_HEAD)
    for event in events:
        happened.add_row(event.at[:19], event.what, event.detail)
    yield happened

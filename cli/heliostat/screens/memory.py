"""What lies on a card, part by part: a table that `--dry-run` and `heliostat doctor` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import filesize
from rich.table import Table

from heliostat.own_server import OWN_SLOTS
from heliostat_engines.doctor.memory import EMULATED, Serving, ways_to_serve
from heliostat_server.rewards.memory import weight_bytes
from heliostat_server.settings import ServeSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from heliostat_engines.doctor.memory import ServerMemory
    from heliostat_engines.families.family import Family
    from heliostat_engines.resolution import Resolution
    from heliostat_trainer.forecast.work import TrainerMemory

LEGEND = (
    "A server by its defaults, with torch (NVFP4 emulated) or with an engine compiled in a precision. "
    "CUDA itself, some 0.5 GB a process, and what kernels need while they run come on top. In turns (heliostat train "
    "--serve) server and trainer have the card one after the other; torch alone can give its memory back."
)


@dataclass(frozen=True)
class Card:
    """What a card would hold: of a trainer if there is one, and of each way to serve."""

    ways: Mapping[str, ServerMemory]
    trainer: TrainerMemory | None = None
    free: int | None = None
    """Bytes; None: there is no card here."""
    own: ServerMemory | None = None
    """Of a server that takes turns with the trainer (`heliostat train --serve`)."""

    def total(self, way: str) -> int:
        """Of trainer and server on one card."""
        return self.ways[way].total + (self.trainer.total if self.trainer else 0)

    def fits(self, way: str) -> bool | None:
        """Whether that has room here; None without a card."""
        return None if self.free is None else self.total(way) <= self.free

    @property
    def in_turns(self) -> int | None:
        """The most that trainer and its own server hold, one after the other; None: there are not both."""
        if self.trainer is None or self.own is None:
            return None
        return max(self.own.in_turns + self.trainer.at_rest, self.trainer.total)

    @property
    def host(self) -> int | None:
        """Host memory that their weights then wait in; None as `in_turns`."""
        if self.trainer is None or self.own is None:
            return None
        return self.own.weights + self.trainer.transformer

    def fits_in_turns(self, way: str) -> bool:
        """Whether both have room here so, on a runtime that can give its memory back."""
        taken = self.in_turns if way == EMULATED else None
        return self.free is not None and taken is not None and taken <= self.free


def count_servers(
    family: Family,
    rewards: Iterable[str] = (),
    *,
    resolution_px: Resolution | None = None,
    rank: int = 0,
) -> dict[str, ServerMemory]:
    """By way to serve, what a server by its default settings holds; `rank` is one that it has to take."""
    settings = ServeSettings()
    serving = Serving(
        precision_map=settings.precision_map,
        max_rank=max(settings.max_rank, rank),
        slots=settings.slots,
        resolution_px=resolution_px,
    )
    return ways_to_serve(family, serving, weight_bytes(rewards))


def own_server(ways: Mapping[str, ServerMemory], rank: int) -> ServerMemory:
    """Of `count_servers` for a LoRA of some rank, what a server holds that serves this run alone."""
    usual, torch = ServeSettings(), ways[EMULATED]
    share = OWN_SLOTS * rank / (usual.slots * max(usual.max_rank, rank))
    return torch.model_copy(update={"slots": round(share * torch.slots)})


def memory_table(card: Card, title: str) -> Table:
    """A row a part, a column a way to serve; sums below, and whether it fits."""
    headings = (["trainer"] if card.trainer else []) + list(card.ways)
    table = Table("", title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right")
    server = {name: _server_parts(memory) for name, memory in card.ways.items()}
    own = _trainer_parts(card.trainer) if card.trainer else {}
    for part in dict.fromkeys([*own, *next(iter(server.values()))]):
        held = [own.get(part)] if card.trainer else []
        table.add_row(part, *map(_size, [*held, *(parts.get(part) for parts in server.values())]))
    table.add_section()
    ways = list(card.ways)
    if card.trainer:
        totals = [card.trainer.total, *(card.ways[way].total for way in ways)]
        table.add_row("a card each", *map(_size, totals))
    both = ["", *(_size(card.total(way)) for way in ways)] if card.trainer else []
    table.add_row("all on one card", *(both or [_size(card.total(way)) for way in ways]))
    if card.own:
        table.add_row("in turns on one card", "", _size(card.in_turns))
        table.add_row("  with host memory", "", _size(card.host))
    if card.free is not None:
        verdicts = [_verdict(card, way) for way in ways]
        cell = f"{_size(card.free)} are free here"
        table.add_row(cell, *([""] if card.trainer else []), *verdicts)
    return table


def _server_parts(memory: ServerMemory) -> dict[str, int]:
    return {
        "transformer": memory.transformer,
        "  while it is loaded": memory.loading,
        "LoRA slots": memory.slots,
        "exploring a batch": memory.exploring,
        "text encoders": memory.text_encoders,
        "decoder": memory.decoder,
        "decoding": memory.decoding,
        "rewards": memory.rewards,
    }


def _trainer_parts(memory: TrainerMemory) -> dict[str, int]:
    return {
        "transformer": memory.transformer,
        "LoRA of three policies": memory.lora,
        "optimiser": memory.optimiser,
        "activations of a micro-batch": memory.activations,
        "or redrawing": memory.redrawing,
    }


def _verdict(card: Card, way: str) -> str:
    if card.fits(way):
        return "[green]fits[/green]"
    return "[green]in turns[/green]" if card.fits_in_turns(way) else "[red]does not fit[/red]"


def _size(taken: int | None) -> str:
    return "" if taken is None else filesize.decimal(taken)

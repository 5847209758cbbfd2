from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from heliostat.screens.memory import Card, count_servers, memory_table
from heliostat_engines.families import get_family
from heliostat_trainer.forecast.work import TrainerMemory

TRAINER = TrainerMemory(1_000_000, 1000, 4, activations=2_000_000, redrawing=3_000_000)


def shown(card: Card) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(memory_table(card, "memory"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_both_sides_of_a_card_are_added_up() -> None:
    card = Card(count_servers(get_family("demo"), ["demo_judge"]), TRAINER)
    for way, memory in card.ways.items():
        assert memory.rewards > 0
        assert card.total(way) == memory.total + TRAINER.total
        assert card.fits(way) is None
    assert "are free" not in shown(card)
    roomy = replace(card, free=10**12)
    assert all(roomy.fits(way) for way in roomy.ways)
    tight = replace(card, free=TRAINER.total)
    assert "does not fit" in shown(tight)
    assert " fits" not in shown(tight)
    assert "does not fit" not in shown(roomy)

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


def test_in_turns_a_card_holds_the_larger_side_and_the_trainers_lora() -> None:
    card = Card(count_servers(get_family("demo"), ["demo_judge"]), TRAINER)
    server = card.ways["torch"]
    assert card.in_turns("torch") == server.total + TRAINER.at_rest
    assert TRAINER.at_rest == (3 * 4 + 2 * 4) * 1000
    assert card.host("torch") == server.weights + TRAINER.transformer
    assert server.weights < server.total
    trains_more = replace(card, trainer=replace(TRAINER, activations=10**12))
    assert trains_more.in_turns("torch") == trains_more.trainer.total
    between = replace(card, free=card.in_turns("torch"))
    assert between.fits_in_turns("torch")
    assert not between.fits("torch")
    assert " in turns " in shown(between).splitlines()[-2]


def test_a_compiled_engine_takes_no_turns() -> None:
    card = Card(count_servers(get_family("demo"), ["demo_judge"]), TRAINER, free=10**12)
    assert card.in_turns("nvfp4 engine") is None
    assert not card.fits_in_turns("nvfp4 engine")
    assert Card(card.ways).in_turns("torch") is None

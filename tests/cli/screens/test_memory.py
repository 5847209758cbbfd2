from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from heliostat.screens.memory import Card, count_servers, memory_table, own_server
from heliostat_engines.doctor.memory import ServerMemory
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
    ways = count_servers(get_family("demo"), ["demo_judge"])
    own = own_server(ways, rank=32)
    assert own.slots == ways["torch"].slots // 8  # two of eight, of half the rank
    card = Card(ways, TRAINER, own=own)
    assert card.in_turns == own.in_turns + TRAINER.at_rest
    assert TRAINER.at_rest == (3 * 4 + 2 * 4) * 1000
    assert card.host == own.weights + TRAINER.transformer
    assert own.weights < own.total
    trains_more = replace(TRAINER, activations=10**12)
    assert replace(card, trainer=trains_more).in_turns == trains_more.total
    between = replace(card, free=card.in_turns)
    assert between.fits_in_turns("torch")
    assert not between.fits("torch")
    assert not between.fits_in_turns("nvfp4 engine")  # a compiled engine keeps its memory
    assert " in turns " in shown(between).splitlines()[-2]


def test_a_server_in_turns_has_its_text_encoders_or_what_drawing_takes() -> None:
    server = ServerMemory(
        transformer=10,
        slots=2,
        exploring=5,
        text_encoders=20,
        decoder=1,
        decoding=4,
        rewards=3,
        loading=11,
    )
    assert (server.total, server.in_turns) == (45, 36)
    assert server.model_copy(update={"text_encoders": 6}).in_turns == 25


def test_without_a_trainer_there_are_no_turns() -> None:
    card = Card(count_servers(get_family("demo"), ["demo_judge"]), free=10**12)
    assert card.in_turns is None
    assert card.host is None
    assert "in turns" not in shown(card)

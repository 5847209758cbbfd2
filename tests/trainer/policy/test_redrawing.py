"""What is drawn together follows from the prompts' order, whenever groups come back."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from heliostat_trainer.clock import RunClock
from heliostat_trainer.policy.artist import Artist
from heliostat_trainer.policy.redrawing import Redrawing
from heliostat_trainer.tuning import Shape
from tests.trainer.fake_server import make_group

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.types import Group
    from tests.trainer.fake_server import FakeServer


def group(row: int) -> Group:
    plain = make_group([1.0, 2.0])
    return replace(plain, request=replace(plain.request, row=row))


@pytest.mark.parametrize(
    ("batch", "together"),
    [(4, [[0, 1], [2, 3], [4]]), (1, [[0], [1], [2], [3], [4]]), (100, [[0, 1, 2, 3, 4]])],
)
def test_neighbours_are_drawn_together_in_whatever_order_they_come(
    configure: Callable[..., TrainConfig],
    server: FakeServer,
    batch: int,
    together: list[list[int]],
) -> None:
    artist = Artist(None, server.family, 64, batch)  # type: ignore[arg-type]  # draws nothing here
    redrawing = Redrawing(configure(), artist, server, RunClock())
    shape = Shape(prompts=5, candidates=2, keep_pairs=1, score_after=1)
    for order in permutations(range(5)):
        drawn = list(redrawing.drawn_together((group(row) for row in order), shape))
        rows = [[each.request.row for each in groups] for groups in drawn]
        assert sorted(rows) == together

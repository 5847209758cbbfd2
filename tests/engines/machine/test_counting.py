from __future__ import annotations

import torch

from heliostat_engines.machine.counting import peak_bytes

WEIGHT = torch.ones(64, 64)


def chained() -> torch.Tensor:
    """By hand: two float32[64, 64] at once, in the middle; views and the weight count nothing."""
    rows = torch.ones(64, 64)
    for _ in range(4):
        rows = (rows @ WEIGHT.T).view(64, 64)
    return rows


def test_what_is_freed_is_not_counted_twice() -> None:
    assert peak_bytes(chained) == 2 * 64 * 64 * 4


def test_it_is_the_same_on_paper() -> None:
    def on_paper() -> torch.Tensor:
        rows = torch.ones(64, 64, device="meta")
        return (rows + rows).t() @ rows

    assert peak_bytes(on_paper) == 3 * 64 * 64 * 4


def test_what_was_there_before_and_changed_in_place_is_not_counted() -> None:
    held = torch.ones(8)
    assert peak_bytes(lambda: held.add_(1)) == 0

"""What a backward pass keeps: on paper, and as real tensors."""

from __future__ import annotations

import pytest
import torch

from heliostat_engines.families import FAMILIES, get_family
from heliostat_engines.families.family import Size
from heliostat_engines.families.precision import lora_targets, plan_linears
from heliostat_trainer.forecast.activations import drawing_bytes, saved_bytes, saved_in

NAMES = [family.name for family in FAMILIES if family.name != "demo"]


def counted(name: str, device: str, *, checkpointed: bool = False) -> int:
    family = get_family(name)
    transformer = family.build_transformer(Size.TINY, device=device)
    plans = plan_linears(transformer, family.precision_map, family.lora_targets)
    return saved_bytes(
        family,
        transformer,
        lora_targets(plans),
        rank=4,
        resolution_px=family.resolutions.smallest_px,
        checkpointed=checkpointed,
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_count_on_paper_is_that_of_real_tensors(name: str) -> None:
    assert counted(name, "meta") == pytest.approx(counted(name, "cpu"), rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_keeps_less(name: str) -> None:
    assert 0 < counted(name, "meta", checkpointed=True) < counted(name, "meta")


def test_a_linear_keeps_what_its_lora_needs() -> None:
    """By hand: x for A's gradient, A x for B's; frozen weights need no input."""
    linear = torch.nn.Linear(8, 8, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    down = torch.nn.Parameter(torch.zeros(2, 8, dtype=torch.bfloat16))
    up = torch.nn.Parameter(torch.zeros(8, 2, dtype=torch.bfloat16))
    rows = torch.zeros(3, 8, dtype=torch.bfloat16)
    weights = {value.untyped_storage()._cdata for value in (linear.weight, down, up)}
    output: list[torch.Tensor] = []
    saved = saved_in(lambda: output.append(linear(rows) + (rows @ down.T) @ up.T), weights)
    assert saved == 3 * 8 * 2 + 3 * 2 * 2


@pytest.mark.parametrize("name", NAMES)
def test_what_drawing_takes_on_paper_is_that_of_real_tensors(name: str) -> None:
    family = get_family(name)

    def counted_on(device: str) -> int:
        transformer = family.build_transformer(Size.TINY, device=device)
        px = family.resolutions.smallest_px
        return drawing_bytes(family, transformer, rows=3, resolution_px=px)

    assert counted_on("meta") == pytest.approx(counted_on("cpu"), rel=0.1)

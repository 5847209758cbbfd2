from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from heliostat_engines.adapters import LoraPair
from heliostat_engines.doctor.memory import zero_adapter
from heliostat_engines.families import get_family
from heliostat_engines.families.family import Size
from heliostat_engines.families.precision import lora_targets, plan_linears
from heliostat_engines.families.without_checkpoint import without_checkpoint
from heliostat_engines.linears import LastCall, LoraBranch, LoraSlot, shared_inputs, stack_downs
from heliostat_engines.precisions import MapName
from tests.engines.export.cases import FAMILIES

IN, OUT, RANK = 24, 16, 3


class Attention(nn.Module):
    """q, k and v read one input, and out another."""

    def __init__(self, slot: LoraSlot) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(
            {
                name: LoraBranch(name, nn.Linear(IN, OUT, dtype=torch.float64), slot)
                for name in ("q", "k", "v")
            }
        )
        self.branches["out"] = LoraBranch("out", nn.Linear(OUT, OUT, dtype=torch.float64), slot)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.branches[name](x) for name in ("q", "k", "v"))
        output: torch.Tensor = self.branches["out"](q * k + v)
        return output


def make_pairs(ranks: dict[str, int]) -> dict[str, LoraPair]:
    random = torch.Generator().manual_seed(0)
    return {
        name: LoraPair(
            torch.randn(rank, OUT if name == "out" else IN, generator=random).double(),
            torch.randn(OUT, rank, generator=random).double(),
        )
        for name, rank in ranks.items()
    }


def test_one_call_is_remembered_until_another_or_until_it_is_forgotten() -> None:
    remembered = LastCall(torch.clone)
    x = torch.ones(2)
    first = remembered(x)
    assert remembered(x) is first
    assert remembered(x.clone()) is not first
    again = remembered(x)
    remembered.forget()
    assert remembered(x) is not again


@torch.inference_mode()
@pytest.mark.parametrize("ranks", [(3, 3, 3, 3), (1, 4, 2, 3)])
def test_branches_that_share_a_product_are_each_their_own(ranks: tuple[int, ...]) -> None:
    """x of two and of three axes, and ranks that differ."""
    slot = LoraSlot()
    attention = Attention(slot)
    pairs = make_pairs(dict(zip(("q", "k", "v", "out"), ranks, strict=True)))
    for shape in ((5, IN), (2, 5, IN)):
        x = torch.randn(shape, dtype=torch.float64)
        slot.forget()
        with shared_inputs(attention.branches) as readers:
            base = attention(x)
        assert readers == [["q", "k", "v"], ["out"]]
        slot.active = stack_downs(pairs, readers)
        assert slot.active["q"].down is slot.active["k"].down is slot.active["v"].down

        def merged(name: str, value: torch.Tensor) -> torch.Tensor:
            linear = attention.branches[name].base
            assert isinstance(linear, nn.Linear)
            weight = linear.weight + pairs[name].up @ pairs[name].down
            return functional.linear(value, weight, linear.bias)

        expected = merged("out", merged("q", x) * merged("k", x) + merged("v", x))
        torch.testing.assert_close(attention(x), expected)
        slot.forget()
        assert torch.equal(attention(x), base)


@torch.inference_mode()
def test_a_branch_that_reads_another_input_than_it_did_is_still_right() -> None:
    slot = LoraSlot()
    attention = Attention(slot)
    slot.active = stack_downs(make_pairs({"q": 2, "k": 2, "v": 2, "out": 2}), [["q", "k"]])
    x, other = torch.randn(2, 4, IN, dtype=torch.float64)
    before = [attention.branches[name](value) for name, value in (("q", x), ("k", other), ("q", x))]
    slot.active = stack_downs(make_pairs({"q": 2, "k": 2, "v": 2, "out": 2}), [])
    after = [attention.branches[name](value) for name, value in (("q", x), ("k", other), ("q", x))]
    for ours, expected in zip(before, after, strict=True):
        torch.testing.assert_close(ours, expected)


@torch.inference_mode()
@pytest.mark.parametrize("name", FAMILIES)
def test_of_every_family_q_k_and_v_read_one_input(name: str) -> None:
    family = without_checkpoint(get_family(name), Size.TINY, "meta")
    transformer = family.load_transformer("", torch.bfloat16)
    targets = lora_targets(
        plan_linears(transformer, family.rules(MapName.PUBLISHED), family.lora_targets)
    )
    latents = torch.empty(1, *family.latent_shape(family.resolutions.smallest_px), device="meta")
    row = family.probe_conditioning(transformer).to(torch.bfloat16, torch.device("meta"))
    with shared_inputs({name: transformer.get_submodule(name) for name in targets}) as readers:
        family.velocity(transformer, latents, torch.empty(1, device="meta"), row)
    stacked = stack_downs(zero_adapter(targets, 2).pairs, readers)
    assert stacked.keys() == targets.keys()
    for module in targets:
        parent, _, child = module.rpartition(".")
        if child == "to_v":
            assert stacked[module].down is stacked[f"{parent}.to_k"].down
            of_text = name == "sana" and "attn2" in parent
            assert (stacked[module].down is stacked[f"{parent}.to_q"].down) is not of_text

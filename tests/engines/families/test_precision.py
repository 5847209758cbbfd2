from __future__ import annotations

from torch import nn

from heliostat_engines.families.precision import Keep, PrecisionMap, is_lora_target, plan_linears
from heliostat_engines.precisions import Precision


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.Linear(32, 64)
        self.norm10 = nn.Linear(32, 64)
        self.to_q = nn.Linear(32, 32)
        self.ragged = nn.Linear(20, 64)


RULES = PrecisionMap(keep=(Keep("norm1", "modulation"), Keep("to_q", "too small to gain")))


def test_every_linear_is_planned_with_a_reason() -> None:
    plan = {linear.name: linear for linear in plan_linears(Block(), RULES, ("to_q",))}
    assert plan["norm1"].precision is Precision.BF16
    assert plan["norm1"].reason == "modulation"
    assert plan["norm10"].precision is Precision.NVFP4
    assert plan["to_q"].precision is Precision.BF16
    assert plan["to_q"].reason == "too small to gain"
    assert "multiple of 16" in plan["ragged"].reason
    assert [name for name, linear in plan.items() if linear.carries_lora] == ["to_q"]


def test_lora_targets_match_whole_components() -> None:
    assert is_lora_target("blocks.0.attn.to_out.0", ("attn.to_out.0",))
    assert not is_lora_target("blocks.0.cross_attn.to_q", ("attn.to_q",))

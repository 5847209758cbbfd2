"""Which linears of a transformer run in NVFP4, which stay BF16, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from heliostat_engines.nvfp4.format import BLOCK
from heliostat_engines.precisions import Precision

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True)
class Keep:
    """Linears whose name has `part` as a dotted component sequence stay BF16, because of `reason`."""

    part: str
    reason: str

    def matches(self, name: str) -> bool:
        """Whether the dotted name contains the dotted part, whole components only."""
        return f".{self.part}." in f".{name}."


@dataclass(frozen=True)
class PrecisionMap:
    """A family's rules: the first `keep` that matches wins, else NVFP4.

    Rules go by name, so that one map fits a model of any width.
    """

    keep: tuple[Keep, ...] = ()

    def decide(self, name: str, linear: nn.Linear) -> tuple[Precision, str]:
        """Precision of one linear and the reason, for people to read."""
        for rule in self.keep:
            if rule.matches(name):
                return Precision.BF16, rule.reason
        if linear.in_features % BLOCK:
            return Precision.BF16, f"input width is no multiple of {BLOCK}"
        return Precision.NVFP4, "no rule keeps it"


@dataclass(frozen=True)
class LinearPlan:
    """What becomes of one linear of the transformer."""

    name: str
    in_features: int
    out_features: int
    precision: Precision
    """As the map has it: NVFP4 is what an engine quantises, in whatever it quantises to."""
    reason: str
    carries_lora: bool

    def runs_in(self, precision: Precision) -> Precision:
        """What the linear runs in, in an engine of that precision: BF16 if the map keeps it."""
        return precision if self.precision is Precision.NVFP4 else Precision.BF16


def plan_linears(
    transformer: nn.Module, rules: PrecisionMap, lora_targets: tuple[str, ...]
) -> tuple[LinearPlan, ...]:
    """A plan for every nn.Linear, in module order. `lora_targets` are name suffixes."""
    return tuple(
        LinearPlan(
            name,
            linear.in_features,
            linear.out_features,
            *rules.decide(name, linear),
            carries_lora=is_lora_target(name, lora_targets),
        )
        for name, linear in named_linears(transformer)
    )


def lora_targets(plans: Iterable[LinearPlan]) -> dict[str, tuple[int, int]]:
    """name -> (in_features, out_features) of the linears that carry LoRA."""
    return {plan.name: (plan.in_features, plan.out_features) for plan in plans if plan.carries_lora}


def named_linears(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Every nn.Linear with its dotted name, in module order."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear):
            yield name, child


def is_lora_target(name: str, lora_targets: tuple[str, ...]) -> bool:
    """Whether a dotted name ends in one of the targets, whole components only (as in PEFT)."""
    return any(name == target or name.endswith(f".{target}") for target in lora_targets)

"""What a family's transformer is made of, and what its precision map makes of it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from heliostat_engines.families.family import Size
from heliostat_engines.families.precision import named_linears, plan_linears
from heliostat_engines.nvfp4.format import BLOCK
from heliostat_engines.precisions import Precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from heliostat_engines.families.family import Family
    from heliostat_engines.families.precision import LinearPlan
    from heliostat_engines.precisions import MapName
    from heliostat_engines.resolution import Resolution

BF16_BYTES = 2
SCALE_BYTES = 4
"""Of one that is float32: NVFP4's global ones, FP8's."""


@dataclass(frozen=True)
class InspectedLinear:
    """One linear: what becomes of it, and what it costs for one image."""

    plan: LinearPlan
    precision: Precision
    """Of the engine; the linear's own is what it `runs_in`."""
    in_block: bool
    """Whether it is part of a repeated block."""
    has_bias: bool
    rows: int
    """Input rows an image: tokens of its stream, or 1 for modulation."""

    @property
    def flops(self) -> int:
        """Multiplications and additions of one evaluation of one image."""
        return 2 * self.rows * self.plan.in_features * self.plan.out_features

    @property
    def bf16_bytes(self) -> int:
        """Weight and bias in BF16."""
        return BF16_BYTES * (self._weights + self._biases)

    @property
    def bytes(self) -> int:
        """Weight and bias as the map has them, in an engine of that precision."""
        return weight_bytes(self.plan, self.precision) + BF16_BYTES * self._biases

    @property
    def _weights(self) -> int:
        return self.plan.in_features * self.plan.out_features

    @property
    def _biases(self) -> int:
        return self.plan.out_features if self.has_bias else 0


@dataclass(frozen=True)
class Inspection:
    """A family's transformer at its published size under one precision map, in an engine of one precision."""

    family: str
    map_name: MapName
    precision: Precision
    resolution_px: int
    linears: tuple[InspectedLinear, ...]
    other_bytes: int
    """All that is in no linear, in BF16: norms, convolutions, tables."""

    @property
    def lora_sites(self) -> int:
        """How many linears carry LoRA."""
        return sum(linear.plan.carries_lora for linear in self.linears)

    @property
    def bf16_bytes(self) -> int:
        """The whole transformer in BF16."""
        return self.other_bytes + sum(linear.bf16_bytes for linear in self.linears)

    @property
    def bytes(self) -> int:
        """The whole transformer under the map."""
        return self.other_bytes + sum(linear.bytes for linear in self.linears)

    @property
    def flops(self) -> int:
        """Of all linears, for one evaluation of one image."""
        return sum(linear.flops for linear in self.linears)

    def share(self, *, blocks_only: bool) -> float:
        """Share of the linears' FLOPs in `precision`, 0..1; of the blocks' linears or of all."""
        counted = [linear for linear in self.linears if linear.in_block or not blocks_only]
        own = sum(
            linear.flops
            for linear in counted
            if linear.plan.runs_in(self.precision) is self.precision
        )
        return own / sum(linear.flops for linear in counted)


def transformer_bytes(
    transformer: nn.Module, plans: Sequence[LinearPlan], precision: Precision
) -> int:
    """Bytes of a transformer's tensors in BF16, with the planned linears quantised to `precision`.
    Works on the meta device.
    """
    stored: int = sum(BF16_BYTES * tensor.numel() for tensor in transformer.state_dict().values())
    return stored - sum(
        BF16_BYTES * plan.in_features * plan.out_features - weight_bytes(plan, precision)
        for plan in plans
    )


def weight_bytes(plan: LinearPlan, precision: Precision) -> int:
    """Of one linear's weight in an engine of that precision, with its scales.

    NVFP4: half a byte each, a scale a block of 16, one for all. FP8: a byte each, a scale a row.
    """
    weights = plan.in_features * plan.out_features
    match plan.runs_in(precision):
        case Precision.NVFP4 | Precision.NVFP4_W4A16:
            return weights // 2 + weights // BLOCK + SCALE_BYTES
        case Precision.FP8:
            return weights + SCALE_BYTES * plan.out_features
        case Precision.BF16:
            return BF16_BYTES * weights


def inspect(
    family: Family, map_name: MapName, precision: Precision = Precision.NVFP4
) -> Inspection:
    """Look at the published transformer on the meta device; takes no memory for weights."""
    transformer = family.build_transformer(Size.PUBLISHED)
    rows = count_rows(family, transformer, family.default_resolution_px)
    linears = dict(named_linears(transformer))
    blocks = tuple(f"{name}." for name in family.block_counts)
    inspected = tuple(
        InspectedLinear(
            plan,
            precision,
            in_block=plan.name.startswith(blocks),
            has_bias=linears[plan.name].bias is not None,
            rows=rows[plan.name],
        )
        for plan in plan_linears(transformer, family.rules(map_name), family.lora_targets)
    )
    stored = sum(BF16_BYTES * tensor.numel() for tensor in transformer.state_dict().values())
    return Inspection(
        family.name,
        map_name,
        precision,
        family.default_resolution_px,
        inspected,
        other_bytes=stored - sum(linear.bf16_bytes for linear in inspected),
    )


def count_rows(family: Family, transformer: nn.Module, resolution_px: Resolution) -> dict[str, int]:
    """Input rows of each linear in one evaluation of one image, counted while it runs.

    Runs on the transformer's device, so on "meta" nothing is computed.
    """
    device = next(transformer.parameters()).device
    latents = torch.empty(1, *family.latent_shape(resolution_px), device=device)
    conditioning = family.probe_conditioning(transformer, family.text_tokens)
    with _counted_rows(transformer) as rows, torch.no_grad():
        family.velocity(
            transformer,
            latents,
            torch.ones(1, device=device),
            conditioning.to(torch.bfloat16, device),
        )
    return rows


@contextmanager
def _counted_rows(transformer: nn.Module) -> Iterator[dict[str, int]]:
    rows: dict[str, int] = {}

    def count(name: str, linear: nn.Linear) -> torch.utils.hooks.RemovableHandle:
        def record(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            rows[name] = rows.get(name, 0) + inputs[0].numel() // inputs[0].shape[-1]

        return linear.register_forward_pre_hook(record)

    handles = [count(name, linear) for name, linear in named_linears(transformer)]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()

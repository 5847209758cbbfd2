"""How much of a LoRA's effect survives beside an NVFP4 base, and how much when merged into it?

    python -m tests.benchmarks.lora_fidelity [--out lora_fidelity.json]

For W and a rank-32 delta of a given size, on random x, each way of applying the delta is compared
with the exact delta x D^T in float64:

    branch         y(adapter) - y(no adapter) of an engine's own NVFP4 linear with its BF16 branch,
                   where the branch is computed; "after the sum" reads it off the BF16 outputs, which
                   round the sum, as any BF16 layer does
    merge, NVFP4   x (Q(W + D) - Q(W))^T, requantised from the float32 master each time
    merge, BF16    x (bf16(W + D) - bf16(W))^T

Subtracting the same base excludes the base model's own quantisation error, which is common to all
ways and does not move with the delta; x is not quantised in the two merges, which favours them.
Weights: Gaussian at real widths, and every LoRA target of the demo's own transformer.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn

from heliostat_engines.adapters import LoraPair
from heliostat_engines.families import get_family
from heliostat_engines.families.precision import plan_linears
from heliostat_engines.linears import LoraBranch, LoraSlot, stack_downs
from heliostat_engines.nvfp4 import format as nvfp4
from heliostat_engines.nvfp4.linears import NVFP4Linear

RATIOS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
WIDTHS = {"SANA": (2240, 2240), "SD3.5-Large": (2432, 2432), "FLUX.1": (3072, 3072)}
RANK = 32
ROWS = 256
STD = 0.02


@dataclass(frozen=True)
class Fidelity:
    """Relative errors of the delta's effect on the output, and what is left of it in the codes."""

    branch: float
    branch_after_sum: float
    merge_nvfp4: float
    merge_bf16: float
    nvfp4_codes_unchanged: float
    bf16_weights_unchanged: float


@dataclass(frozen=True)
class Row:
    """The mean over a set of weights at one rms(delta) / rms(W)."""

    weights: str
    ratio: float
    fidelity: Fidelity


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("lora_fidelity.json"))
    options = parser.parse_args()
    sets = {
        f"Gaussian, {name} {shape[0]} x {shape[1]}": [torch.randn(shape, generator=_seeded()) * STD]
        for name, shape in WIDTHS.items()
    }
    demo = list(_demo_weights())
    sets[f"demo, {len(demo)} linears"] = demo
    rows = []
    with Progress() as progress:
        task = progress.add_task("applying deltas", total=len(sets) * len(RATIOS))
        for name, weights in sets.items():
            for ratio in RATIOS:
                rows.append(Row(name, ratio, _mean([_fidelity(w, ratio) for w in weights])))
                progress.advance(task)
    _print(rows)
    options.out.write_text(json.dumps([asdict(row) for row in rows], indent=2))


def _demo_weights() -> Iterator[torch.Tensor]:
    """Every NVFP4 linear of the demo that carries LoRA."""
    family = get_family("demo")
    transformer = family.load_transformer(family.default_checkpoint, torch.float32)
    for plan in plan_linears(transformer, family.precision_map, family.lora_targets):
        if plan.carries_lora:
            linear = transformer.get_submodule(plan.name)
            assert isinstance(linear, nn.Linear)
            yield linear.weight.detach()


def _fidelity(weight: torch.Tensor, ratio: float) -> Fidelity:
    outputs, inputs = weight.shape
    generator = _seeded()
    down = torch.randn(RANK, inputs, generator=generator)
    up = torch.randn(outputs, RANK, generator=generator)
    up *= ratio * weight.square().mean().sqrt() / (up @ down).square().mean().sqrt()
    x = torch.randn(ROWS, inputs, generator=generator).bfloat16()
    delta = up @ down
    exact = x.double() @ (up.double() @ down.double()).T
    before, after = nvfp4.quantise(weight), nvfp4.quantise(weight + delta)
    narrow_before, narrow_after = weight.bfloat16(), (weight + delta).bfloat16()

    def error(effect: torch.Tensor) -> float:
        return float((effect.double() - exact).norm() / exact.norm())

    def merged(change: torch.Tensor) -> float:
        return error(x.double() @ change.double().T)

    pair = LoraPair(down.bfloat16(), up.bfloat16())
    base, adapted = _outputs(weight, pair, x)
    return Fidelity(
        error(nn.functional.linear(nn.functional.linear(x, pair.down), pair.up)),
        error(adapted.double() - base.double()),
        merged(nvfp4.dequantise(after) - nvfp4.dequantise(before)),
        merged(narrow_after.float() - narrow_before.float()),
        _share_unchanged(before, after),
        float((narrow_before == narrow_after).float().mean()),
    )


def _outputs(
    weight: torch.Tensor, pair: LoraPair, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """y without and with the adapter, of the linear that the engine runs."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = weight
    slot = LoraSlot()
    branch = LoraBranch("linear", NVFP4Linear(linear), slot)
    with torch.inference_mode():
        base = branch(x).clone()
        slot.active = stack_downs({"linear": pair}, [])
        return base, branch(x)


def _share_unchanged(before: nvfp4.NVFP4Tensor, after: nvfp4.NVFP4Tensor) -> float:
    same = before.codes ^ after.codes
    return float(torch.stack([same & 0xF, same >> 4]).eq(0).float().mean())


def _mean(fidelities: list[Fidelity]) -> Fidelity:
    columns = zip(*(asdict(fidelity).values() for fidelity in fidelities), strict=True)
    return Fidelity(*(statistics.fmean(column) for column in columns))


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _print(rows: list[Row]) -> None:
    columns: dict[str, Callable[[Fidelity], str]] = {
        "branch": lambda f: f"{f.branch:.2%}",
        "branch, after the sum": lambda f: f"{f.branch_after_sum:.1%}",
        "merge, NVFP4": lambda f: f"{f.merge_nvfp4:.0%}",
        "codes unchanged": lambda f: f"{f.nvfp4_codes_unchanged:.2%}",
        "merge, BF16": lambda f: f"{f.merge_bf16:.1%}",
        "BF16 weights unchanged": lambda f: f"{f.bf16_weights_unchanged:.1%}",
    }
    table = Table("weights", "rms delta / rms W", *columns)
    for row in rows:
        table.add_row(
            row.weights,
            f"{row.ratio:.0e}",
            *(show(row.fidelity) for show in columns.values()),
            end_section=row.ratio == RATIOS[-1],
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()

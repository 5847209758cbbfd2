"""What does a LoRA branch cost beside the products that it stands by, on this CPU?

    python -m tests.benchmarks.lora_branch [--seconds 20] [--only flux] [--out lora_branch.json]

Each case is evaluated in three ways in turn, so that a machine that slows down slows all of them: without an adapter, with
branches of their own as plain torch has them, `y + linear(linear(x, A), B)`, and with the engine's. Times are of one thread on
its processor, the least of all rounds: what others do on the machine only adds to one.

Cases: whole evaluations by the torch engine, of the demo's transformer as it explores and of tiny ones of the families, where a
cost is what a way takes beyond the first, as a share of it; and the q, k, v and out of one attention, where the branches are
timed by themselves, on products that are there already: at FLUX.1's width they are too little of these to be told by difference.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from heliostat_engines.adapters import LoraPair, pack_adapter, parse_adapter
from heliostat_engines.families import get_family
from heliostat_engines.families.family import Size
from heliostat_engines.families.without_checkpoint import without_checkpoint
from heliostat_engines.fp8 import format as fp8
from heliostat_engines.fp8.linears import FP8Linear
from heliostat_engines.linears import LastCall, LoraBranch, LoraSlot, shared_inputs, stack_downs
from heliostat_engines.machine.arithmetic import compute_dtype
from heliostat_engines.nvfp4 import format as nvfp4
from heliostat_engines.nvfp4.linears import NVFP4Linear, SharedActivations
from heliostat_engines.precisions import Precision
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.noise import initial_noise

PRECISIONS = (Precision.BF16, Precision.NVFP4, Precision.FP8)
MODELS = (
    ("demo", Size.PUBLISHED, 24, 32),
    ("flux", Size.TINY, 8, 8),
    ("sd3.5-medium", Size.TINY, 8, 8),
    ("sana", Size.TINY, 8, 8),
)
"""Family, size, latents of its smallest resolution, rank."""
ATTENTIONS = ((192, 1536, 32), (3072, 1024, 32), (3072, 1024, 64))
"""Width, tokens, rank: the demo's 24 images, FLUX.1's."""
AMAX = 8.0
"""Any magnitude does."""
FEWEST_ROUNDS = 5
ATTENTION = "attention's linears"

Evaluate = Callable[[bool], object]
"""Evaluates a case, with its adapter or without. Of an attention with it: the branches alone."""


@dataclass(frozen=True)
class Cost:
    """Milliseconds without an adapter, and a branch's share of them."""

    case: str
    precision: str
    plain_ms: float
    apart: float
    ours: float
    rounds: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20, help="of rounds a case")
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--out", type=Path, default=Path("lora_branch.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    costs = []
    for name, precision, make in _cases():
        if options.only in name:
            costs.append(_measure(name, precision, make(), options.seconds))
            options.out.write_text(json.dumps([asdict(cost) for cost in costs], indent=2))
    _print(costs)


def _cases() -> Iterator[tuple[str, Precision, Callable[[], Evaluate]]]:
    for precision in PRECISIONS:
        for family, size, batch, rank in MODELS:
            name = f"{family}, {size}, {batch} latents, rank {rank}"
            yield name, precision, partial(_engine, family, size, batch, rank, precision)
        for width, tokens, rank in ATTENTIONS:
            name = f"{ATTENTION}, {width} wide, {tokens} tokens, rank {rank}"
            yield name, precision, partial(_attention, width, tokens, rank, precision)


def _engine(name: str, size: Size, batch: int, rank: int, precision: Precision) -> Evaluate:
    """One evaluation of a transformer of random weights."""
    family = without_checkpoint(get_family(name), size, "cpu")
    engine = TorchEngine(family, "random", precision=precision)
    random = torch.Generator().manual_seed(0)
    pairs = {
        module: (
            torch.randn(rank, inputs, generator=random) * inputs**-0.5,
            torch.randn(outputs, rank, generator=random),
        )
        for module, (inputs, outputs) in engine.describe().lora_targets.items()
    }
    adapter = parse_adapter(pack_adapter(pairs, alpha=rank))
    engine.make_resident(adapter)
    shape = family.latent_shape(family.resolutions.smallest_px)
    latents, sigma = initial_noise(range(batch), shape), torch.full((batch,), 0.5)
    row = family.probe_conditioning(family.build_transformer(size), 16).repeat(batch)
    return lambda adapted: engine.velocity(latents, sigma, row, adapter.sha256 if adapted else None)


class Ready(nn.Module):
    """A linear whose output is there already."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self._output = output

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return self._output


def _attention(width: int, tokens: int, rank: int, precision: Precision) -> Evaluate:
    """q, k and v of one input, and out of another."""
    slot, dtype = LoraSlot(), compute_dtype("cpu")
    random = torch.Generator().manual_seed(0)
    quantise = _quantiser(precision)
    linears: dict[str, nn.Module] = {}
    branches: dict[str, nn.Module] = {}
    pairs = {}
    for name in ("q", "k", "v", "out"):
        linear = nn.Linear(width, width, dtype=dtype).requires_grad_(False)
        linears[name] = quantise(linear)
        branches[name] = LoraBranch(name, Ready(torch.zeros(tokens, width, dtype=dtype)), slot)
        pairs[name] = LoraPair(
            torch.randn(rank, width, generator=random).to(dtype),
            torch.randn(width, rank, generator=random).to(dtype),
        )
    x, attended = torch.randn(2, tokens, width, generator=random).to(dtype)

    @torch.inference_mode()
    def run(modules: dict[str, nn.Module]) -> None:
        for name in ("q", "k", "v"):
            modules[name](x)
        modules["out"](attended)

    with shared_inputs(branches) as readers:
        run(branches)
    weights = stack_downs(pairs, readers)

    def evaluate(adapted: bool) -> None:
        slot.active = weights
        run(branches if adapted else linears)
        slot.forget()

    return evaluate


def _quantiser(precision: Precision) -> Callable[[nn.Linear], nn.Module]:
    if precision is Precision.FP8:
        by_rows = LastCall(fp8.quantise_unchecked)
        return lambda linear: FP8Linear(linear, by_rows)
    if precision is Precision.NVFP4:
        shared = SharedActivations(nvfp4.fake_quantise)
        return lambda linear: NVFP4Linear(linear, AMAX, shared)
    return lambda linear: linear


def _apart(self: LoraBranch, x: torch.Tensor) -> torch.Tensor:
    """A branch by itself, as plain torch has it."""
    output: torch.Tensor = self.base(x)
    if self._slot.active is None:
        return output
    weights = self._slot.active[self._name]
    projected = functional.linear(x, weights.down[weights.own])
    return output + functional.linear(projected, weights.up)


def _measure(name: str, precision: Precision, evaluate: Evaluate, seconds: float) -> Cost:
    as_torch_has_it = mock.patch.object(LoraBranch, "forward", _apart)
    taken: dict[str, list[float]] = {"plain": [], "apart": [], "ours": []}
    while len(taken["ours"]) < FEWEST_ROUNDS or sum(map(sum, taken.values())) < seconds:
        for way, times in taken.items():
            with as_torch_has_it if way == "apart" else nullcontext():
                began = time.thread_time()
                evaluate(way != "plain")
                times.append(time.thread_time() - began)
    plain, apart, ours = (min(times) for times in taken.values())
    rounds = len(taken["ours"])
    whole = 0 if name.startswith(ATTENTION) else 1
    return Cost(name, precision, plain * 1e3, apart / plain - whole, ours / plain - whole, rounds)


def _print(costs: list[Cost]) -> None:
    table = Table(
        "case", "precision", "without, ms", "branch apart", "branch of the engine", "rounds"
    )
    for cost in costs:
        shares = f"{cost.apart:+.1%}", f"{cost.ours:+.1%}"
        table.add_row(cost.case, cost.precision, f"{cost.plain_ms:.1f}", *shares, str(cost.rounds))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()

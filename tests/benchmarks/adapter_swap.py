"""What does a new adapter cost the torch runtime, from its bytes to its first batch?

    python -m tests.benchmarks.adapter_swap [--threads 2] [--out adapter_swap.json]

A swap is: parse and check the files, make it resident with its probe, and whatever the first velocity takes
beyond a later one. It is put beside one batch of 6 steps of the same model; the two are measured
in turn, and the share is taken within each round. The first adapter of an engine also draws the
base model's probe: it is listed by itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn

from heliostat_engines.adapters import AdapterFiles, pack_adapter, parse_adapter
from heliostat_engines.conditioning import Conditioning
from heliostat_engines.families import FAMILIES
from heliostat_engines.families.family import Family, Size
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.noise import initial_noise

STEPS = 6
RANK = 32
SIGMA = 0.7


@dataclass(frozen=True)
class Model:
    """An engine and what it draws."""

    name: str
    family: Family
    checkpoint: str | None
    resolution_px: int
    batch: int


@dataclass(frozen=True)
class Result:
    """Medians over rounds; `share` is swap over batch, with the lowest and highest round's."""

    model: str
    drawn: str
    adapter_bytes: int
    first_swap_ms: float
    swap_ms: float
    batch_ms: float
    share: float
    lowest_share: float
    highest_share: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("adapter_swap.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        models = _models(Path(folder), options.batch)
        task = progress.add_task("swapping", total=len(models))
        results = []
        for model in models:
            progress.update(task, description=model.name)
            results.append(_measure(model, options.rounds))
            progress.advance(task)
    _print(results)
    options.out.write_text(json.dumps([asdict(result) for result in results], indent=2))


def _models(folder: Path, batch: int) -> list[Model]:
    """The demo, every family's tiny checkpoint, and a block of each kind at published width."""
    families = [family() for family in FAMILIES]
    models = [
        Model("demo", family, None, 64, batch) for family in families if family.name == "demo"
    ]
    others = [family for family in families if family.name != "demo"]
    for family in others:
        family.write_tiny_checkpoint(folder / family.name)
        models.append(Model(f"{family.name}, tiny", family, str(folder / family.name), 512, batch))
    models += [
        Model(f"{family.name}, one block", _one_block(type(family)), None, 256, batch // 3)
        for family in others
    ]
    return models


def _one_block(family: type[Family]) -> Family:
    """The family with a published-width transformer of one block of each kind, random weights."""

    class OneBlock(family):  # type: ignore[misc, valid-type]
        def load_transformer(self, _checkpoint: str, _dtype: torch.dtype) -> nn.Module:
            built: nn.Module = self.build_transformer(Size.PUBLISHED, blocks=1, device="cpu")
            return built

    one_block: Family = OneBlock()
    return one_block


def _measure(model: Model, rounds: int) -> Result:
    engine = TorchEngine(model.family, model.checkpoint, slots=1)
    shape = model.family.latent_shape(model.resolution_px)
    noise = initial_noise(range(model.batch), shape)
    conditioning = model.family.probe_conditioning(engine._transformer)
    conditioning = conditioning.repeat(model.batch)
    draw = _drawer(engine, noise, conditioning)
    first, *later = (_adapter(engine, seed) for seed in range(rounds + 1))
    draw(None)
    first_s, _ = _swap(engine, first)
    swaps, batches = [], []
    for files in later:
        swap_s, sha256 = _swap(engine, files)
        velocities = [draw(sha256) for _ in range(STEPS)]
        beyond = velocities[0] - statistics.median(velocities[1:])
        # Not clamped at 0: noise would then count as cost.
        swaps.append(swap_s + beyond)
        batches.append(sum(velocities) - beyond)
    shares = [swap / batch for swap, batch in zip(swaps, batches, strict=True)]
    return Result(
        model.name,
        f"{model.batch} x {model.resolution_px} px",
        first.nbytes,
        first_s * 1e3,
        statistics.median(swaps) * 1e3,
        statistics.median(batches) * 1e3,
        statistics.median(shares),
        min(shares),
        max(shares),
    )


def _swap(engine: TorchEngine, files: AdapterFiles) -> tuple[float, str]:
    """Seconds from an adapter's bytes until the engine serves it, and its digest."""
    start = time.perf_counter()
    adapter = parse_adapter(files)
    engine.make_resident(adapter)
    return time.perf_counter() - start, adapter.sha256


def _drawer(
    engine: TorchEngine, noise: torch.Tensor, conditioning: Conditioning
) -> Callable[[str | None], float]:
    """Seconds of one velocity of the whole batch."""
    sigma = torch.full((len(noise),), SIGMA)

    def draw(adapter: str | None) -> float:
        start = time.perf_counter()
        engine.velocity(noise, sigma, conditioning, adapter)
        return time.perf_counter() - start

    return draw


def _adapter(engine: TorchEngine, seed: int) -> AdapterFiles:
    generator = torch.Generator().manual_seed(seed)
    return pack_adapter(
        {
            name: (
                torch.randn(RANK, inputs, generator=generator).bfloat16() / RANK,
                torch.randn(outputs, RANK, generator=generator).bfloat16() * 0.01,
            )
            for name, (inputs, outputs) in engine.describe().lora_targets.items()
        },
        alpha=2 * RANK,
    )


def _print(results: list[Result]) -> None:
    table = Table(
        "model", "drawn", "adapter", "first swap", "swap", f"batch of {STEPS} steps", "share"
    )
    for result in results:
        table.add_row(
            result.model,
            result.drawn,
            f"{result.adapter_bytes / 2**20:.1f} MiB",
            f"{result.first_swap_ms:.1f} ms",
            f"{result.swap_ms:.1f} ms",
            f"{result.batch_ms:.0f} ms",
            f"{result.share:.1%} ({result.lowest_share:.1%}, {result.highest_share:.1%})",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

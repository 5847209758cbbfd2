"""What do cores gain by taking rows of their own through the demo's transformer?

    python -m tests.benchmarks.lanes [--batch 24 12 8] [--rounds 30] [--out lanes.json]

An evaluation by the torch engine in NVFP4, as the server explores: with the cores sharing each product, and side by side
(`runtimes/lanes.py`), in turns, so that a machine that slows down slows both. Times are the least of all rounds, since what
others do on the machine only adds to one.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from unittest import mock

import torch

from heliostat_engines.families import get_family
from heliostat_engines.machine.arithmetic import compute_dtype, name_of
from heliostat_engines.machine.hardware import usable_cores
from heliostat_engines.runtimes.lanes import Lanes
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.noise import initial_noise
from tests.benchmarks.gradient_signal import cpu

FAMILY = get_family("demo")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[24, 12, 8])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(usable_cores())
    engine = TorchEngine(FAMILY)
    result = {
        "cpu": cpu(),
        "cores": usable_cores(),
        "arithmetic": name_of(compute_dtype("cpu")),
        "milliseconds": [measure(engine, batch, options.rounds) for batch in options.batch],
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


def measure(engine: TorchEngine, batch: int, rounds: int) -> dict[str, float]:
    """Milliseconds of an evaluation of so many images in each way."""
    encoder = FAMILY.load_text_encoder(FAMILY.default_checkpoint)
    conditioning = encoder.encode(["a red cat"]).repeat(batch)
    latents = initial_noise(range(batch), FAMILY.latent_shape(FAMILY.resolutions.smallest_px))
    sigma = torch.full((batch,), 0.7)

    def timed(*, shares: list[slice]) -> float:
        with mock.patch.object(Lanes, "shares", return_value=shares):
            begin = time.perf_counter()
            engine.velocity(latents, sigma, conditioning)
            return time.perf_counter() - begin

    cores = torch.get_num_threads()
    side_by_side = [
        slice(batch * core // cores, batch * (core + 1) // cores) for core in range(cores)
    ]
    times = [(timed(shares=[]), timed(shares=side_by_side)) for _ in range(rounds + 1)][1:]
    shared, lanes = (1000 * min(each) for each in zip(*times, strict=True))
    return {
        "batch": batch,
        "shared": round(shared, 1),
        "side_by_side": round(lanes, 1),
        "ratio": round(shared / lanes, 2),
    }


if __name__ == "__main__":
    main()

"""Does NVFP4, or FP8, at few steps rank candidates as BF16 at full steps does?

    python -m tests.benchmarks.fidelity [--prompts 16] [--candidates 96] [--early | --solvers | --decoders]
        [--out fidelity.json]

Arms on the same seeds, all scored by the demo's judge, each against BF16 at the full number of steps:
both changes together (what exploration does), each alone, and BF16 against itself in batches of
another size (the noise floor). In their place, --early scores exploration after each of its steps
(recipe.score_after), and --solvers explores in 3 to 10 steps, by each recipe.solver against its own BF16,
with the rewards' mean beside. --decoders explores with each decoder that the model has
(recipe.explore_decoder), against BF16 in full, and scored after each of its steps from half of them on. Prints a table, writes JSON.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from heliostat.examples import example
from heliostat_engines.decoders import DecoderName
from heliostat_engines.families import get_family
from heliostat_engines.precisions import Precision
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.euler import SAMPLERS, cut_after
from heliostat_engines.sampling.noise import initial_noise
from heliostat_engines.sampling.solvers import Solver
from heliostat_server.rewards.registry import RewardBook
from heliostat_trainer.exploring.fidelity import PUBLISHED, rank_fidelity
from heliostat_trainer.prompts.sources import read_prompts
from heliostat_trainer.types import Fidelity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Arm:
    """One way to draw the candidates."""

    name: str
    precision: Precision
    steps: int
    score_after: int | None = None
    solver: Solver = Solver.EULER
    decoder: DecoderName = DecoderName.FULL
    batch: int = 48


@dataclass(frozen=True)
class Result:
    """What an arm's rewards come to."""

    mean: float
    fidelity: Fidelity


def early_arms(explore_steps: int, steps: int) -> tuple[Arm, ...]:
    """The truth first, then exploration scored after each of its steps."""
    scored = range(1, explore_steps + 1)
    return (
        Arm(f"bf16, {steps} steps", Precision.BF16, steps),
        *(
            Arm(f"nvfp4, scored after {s} of {explore_steps}", Precision.NVFP4, explore_steps, s)
            for s in scored
        ),
    )


def solver_arms(solver: Solver, steps: int) -> tuple[Arm, ...]:
    """The truth first, then exploration in 3 to that many steps by the same solver."""
    return (
        Arm(f"bf16, {steps} steps of {solver}", Precision.BF16, steps, solver=solver),
        *(
            Arm(f"nvfp4, {number} steps of {solver}", Precision.NVFP4, number, solver=solver)
            for number in range(3, steps + 1)
        ),
    )


def decoder_arms(explore_steps: int, steps: int) -> tuple[Arm, ...]:
    """The truth first, then exploration by each decoder, the two beside each other."""
    scored = range((explore_steps + 1) // 2, explore_steps + 1)
    family = get_family("demo")
    return (
        Arm(f"bf16, {steps} steps", Precision.BF16, steps),
        *(
            Arm(
                f"nvfp4, after {after} of {explore_steps} steps, {decoder}",
                Precision.NVFP4,
                explore_steps,
                after,
                decoder=decoder,
            )
            for after in scored
            for decoder in family.decoders(family.default_checkpoint)
        ),
    )


def arms(explore_steps: int, steps: int) -> tuple[Arm, ...]:
    """The truth first."""
    return (
        Arm(f"bf16, {steps} steps", Precision.BF16, steps),
        Arm(f"nvfp4, {explore_steps} steps (explore)", Precision.NVFP4, explore_steps),
        Arm(f"nvfp4, {steps} steps (precision alone)", Precision.NVFP4, steps),
        Arm(f"fp8, {explore_steps} steps (explore)", Precision.FP8, explore_steps),
        Arm(f"fp8, {steps} steps (precision alone)", Precision.FP8, steps),
        Arm(f"bf16, {explore_steps} steps (steps alone)", Precision.BF16, explore_steps),
        Arm(f"bf16, {steps} steps, other batches (noise floor)", Precision.BF16, steps, batch=32),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--candidates", type=int, default=96)
    parser.add_argument("--keep-pairs", type=int, default=12)
    parser.add_argument("--explore-steps", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--reward", default="demo_judge")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--early", action="store_true", help="by recipe.score_after")
    only.add_argument("--solvers", action="store_true", help="by recipe.solver and steps")
    only.add_argument("--decoders", action="store_true", help="by recipe.explore_decoder")
    parser.add_argument("--out", type=Path, default=Path("fidelity.json"))
    options = parser.parse_args()
    prompts = read_prompts(example("prompts/demo_heldout.txt"), "prompts")[: options.prompts]
    found = [_found(compared, prompts, options) for compared in _compared(options)]
    results = {name: result for part in found for name, result in part.items()}
    _print(results)
    options.out.write_text(
        json.dumps({name: asdict(result) for name, result in results.items()}, indent=2)
    )


def _found(
    compared: Sequence[Arm], prompts: Sequence[str], options: argparse.Namespace
) -> dict[str, Result]:
    """By arm, the mean reward, and how well it ranks as the first of them does."""
    rewards = {}
    with Progress() as progress:
        for arm in compared:
            task = progress.add_task(arm.name, total=len(prompts))
            rewards[arm.name] = _rewards_of(
                arm, prompts, options.candidates, options.reward, partial(progress.advance, task)
            )
    truth, *_ = rewards.values()
    return {
        name: Result(float(own.mean()), rank_fidelity(own, truth, options.keep_pairs))
        for name, own in rewards.items()
    }


def _compared(options: argparse.Namespace) -> list[tuple[Arm, ...]]:
    """Each truth with what is compared with it."""
    if options.solvers:
        return [solver_arms(solver, options.steps) for solver in Solver]
    choose = early_arms if options.early else decoder_arms if options.decoders else arms
    return [choose(options.explore_steps, options.steps)]


def _rewards_of(
    arm: Arm, prompts: Sequence[str], candidates: int, reward: str, on_group: Callable[[], None]
) -> np.ndarray:
    """rewards[prompts, candidates]."""
    family = get_family("demo")
    engine = TorchEngine(family, precision=arm.precision)
    encoder = family.load_text_encoder(family.default_checkpoint)
    decoder = family.load_decoder(family.default_checkpoint, arm.decoder)
    scorer = RewardBook(family.name).get(reward)
    rows = []
    for row, prompt in enumerate(prompts):
        conditioning = encoder.encode([prompt])
        group = []
        for start in range(0, candidates, arm.batch):
            seeds = range(
                row * candidates + start, row * candidates + min(start + arm.batch, candidates)
            )
            several = conditioning.repeat(len(seeds))
            latents = SAMPLERS[arm.solver](
                lambda x, sigma, c=several: engine.velocity(x, sigma, c),
                initial_noise(seeds, family.latent_shape(64)),
                cut_after(family.sigmas(arm.steps, 64), arm.score_after or arm.steps),
            )
            group.append(scorer.score(decoder.decode(latents), [prompt] * len(seeds), several))
        rows.append(torch.cat(group).double().numpy())
        on_group()
    return np.stack(rows)


def _print(results: dict[str, Result]) -> None:
    table = Table(
        "against the first row of its kind",
        "mean reward",
        "rho",
        "tau-b",
        "overlap@K",
        "rank of best",
        "rank of worst",
        "spread gain",
    )
    for name, result in results.items():
        table.add_row(name, f"{result.mean:.4f}", *_figures(result.fidelity))
    table.add_row("published (NVFP4 against BF16)", "", *_figures(PUBLISHED))
    Console(width=140).print(table)


def _figures(fidelity: Fidelity) -> list[str]:
    return [f"{value:.3f}" if value < 2 else f"{value:.1f}" for value in asdict(fidelity).values()]


if __name__ == "__main__":
    main()

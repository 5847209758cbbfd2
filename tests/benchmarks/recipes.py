"""What does each recipe's reward cost?

    python -m tests.benchmarks.recipes [--device cuda] [--seeds 3] [--steps 150] [--jobs 6]
    python -m tests.benchmarks.recipes --show

Trains the demo's model by the four recipes, one setting apart, `--jobs` runs side by side, and
evaluates the moving average on held-out prompts without guidance all along. A run's cost is counted
in BF16-equivalent evaluations of the transformer: an NVFP4 one as 1/2.4 (published, against eager
BF16) and as 1/1.33 (against compiled BF16), and a decoded and rewarded image as `--decode-nfes` of
them; once for the rollouts alone and once with the training on them. "Baseline" is what
diffusionnft ends at. Prints a table, writes JSON and a plot. The runs are kept in `--folder`:
started again, the benchmark goes on where it was stopped, and `--show` only shows what there is.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from heliostat.examples import example
from heliostat_trainer.compare.costs import cost_of
from heliostat_trainer.config import RecipeName, TrainConfig, load_config
from heliostat_trainer.evaluate import read_evaluations
from heliostat_trainer.metrics import read_metrics
from heliostat_trainer.plan import NVFP4_SPEEDUPS, Activity, plan_run, total
from tests.benchmarks.in_process import train_in_process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Costs = Callable[["Curve"], Sequence[float]]

RECIPES = tuple(RecipeName)
PUBLISHED = {"recipe.candidates": 96, "recipe.keep_pairs": 12, "recipe.explore_steps": 6}
"""Sizes of pool and selection."""
SECONDS = "seconds"
SMOOTHED_OVER = 20
"""Training steps: a step's pool is of a few prompts only."""
COLOURS = dict(
    zip(
        RECIPES,
        ("#d1495b", "#30638e", "#7b2d8b", "#8d99ae", "#3c896d", "#edae49"),
        strict=True,
    )
)


@dataclass(frozen=True)
class Count:
    """What a step's cost is taken to be."""

    nvfp4_speedup: float
    activities: tuple[Activity, ...]


ROLLOUTS = (Activity.EXPLORE, Activity.DRAW)
COUNTS = {
    f"{what}, NVFP4 = 1/{NVFP4_SPEEDUPS[against]}": Count(NVFP4_SPEEDUPS[against], activities)
    for what, activities in (("rollouts", ROLLOUTS), ("whole step", (*ROLLOUTS, Activity.TRAIN)))
    for against in ("eager", "compiled")
}


@dataclass(frozen=True)
class Job:
    """One run."""

    recipe: RecipeName
    seed: int
    steps: int
    every: int
    device: str
    decode_nfes: float
    folder: Path


@dataclass(frozen=True)
class Curve:
    """One run's rewards by its steps, and what they cost: lists of one length, but for `pools`."""

    recipe: str
    seed: int
    steps: list[int]
    rewards: dict[str, list[float]]
    seconds: list[float]
    nfes: dict[str, list[float]]
    """By how they are counted."""
    pools: list[float]
    """By training step, the mean reward of all candidates, before any is selected."""

    def until(self, evaluations: int) -> Curve:
        """Its first evaluations."""
        return replace(
            self,
            steps=self.steps[:evaluations],
            rewards={name: values[:evaluations] for name, values in self.rewards.items()},
            seconds=self.seconds[:evaluations],
            nfes={name: values[:evaluations] for name, values in self.nfes.items()},
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--decode-nfes", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--show", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path, default=Path("recipes.json"))
    options = parser.parse_args()
    jobs = [
        Job(
            recipe,
            seed,
            options.steps,
            options.every,
            options.device,
            options.decode_nfes,
            options.folder,
        )
        for seed in range(options.seeds)
        for recipe in RECIPES
    ]
    if not options.show:
        run_all(jobs, options.jobs)
    curves = [read_curve(job) for job in jobs]
    options.out.write_text(json.dumps([asdict(curve) for curve in curves]))
    show(comparable(curves))
    plot(curves, options.out.with_suffix(".png"))


def run_all(jobs: Sequence[Job], side_by_side: int) -> None:
    """Train them, in processes of their own."""
    context = multiprocessing.get_context("spawn")
    with Bar() as bar, ProcessPoolExecutor(side_by_side, mp_context=context) as pool:
        task = bar.add_task("runs", total=len(jobs))
        for done in as_completed([pool.submit(run, job) for job in jobs]):
            done.result()
            bar.advance(task)


def run(job: Job) -> None:
    """Train once, or go on with it."""
    torch.set_num_threads(1)
    train_in_process(settings(job), batch=384)


def settings(job: Job) -> TrainConfig:
    """The hour's run with the published sizes of pool and selection."""
    overrides = {
        "run.name": f"{job.recipe}-{job.seed}",
        "run.folder": job.folder,
        "run.seed": job.seed,
        "run.steps": job.steps,
        "run.device": job.device,
        "recipe.name": job.recipe,
        **PUBLISHED,
        "watch.every": 0,
        "ema.decay": 0.9,
        "model.sample_batch": 384,
        "optimiser.micro_batch": 384,
        "evaluation.every": job.every,
        "evaluation.steps": 10,
        "evaluation.guidances": "[1.0]",
        "evaluation.images": 0,
        "reward.heldout": '["demo_judge_heldout"]',
        "checkpoint.every": job.every,
    }
    return load_config(example("demo_long.toml"), arguments_of(overrides))


def arguments_of(overrides: Mapping[str, object]) -> list[str]:
    """Settings, section.key -> value, as on the command line."""
    return [text for key, value in overrides.items() for text in (f"--{key}", str(value))]


def read_curve(job: Job) -> Curve:
    """What a run has left behind."""
    config = settings(job)
    evaluations = read_evaluations(config.run.path / "evaluation")
    steps = [evaluation.step for evaluation in evaluations]
    metrics = list(read_metrics(config.run.path / "metrics.jsonl"))
    elapsed = [0.0] + [sum(dict(line["seconds"]).values()) for line in metrics]  # type: ignore[call-overload]
    until = np.cumsum(elapsed)
    return Curve(
        recipe=job.recipe,
        seed=job.seed,
        steps=steps,
        rewards={
            name: [evaluation.means[name].mean for evaluation in evaluations]
            for name in config.reward.all
        },
        seconds=[float(until[step]) for step in steps],
        nfes={
            name: [step * step_cost(config, count, job.decode_nfes) for step in steps]
            for name, count in COUNTS.items()
        },
        pools=[float(str(line["proxy_reward_mean"])) for line in metrics],
    )


def step_cost(config: TrainConfig, count: Count, decode_nfes: float) -> float:
    """BF16-equivalent evaluations of one training step, decoded and rewarded images included."""
    a_step = plan_run(config).a_step
    cost = total(a_step[activity] for activity in count.activities)
    return cost.bf16_equivalents(count.nvfp4_speedup, decode_nfes)


def comparable(curves: Sequence[Curve]) -> list[Curve]:
    """All of them up to the step that each has been evaluated at."""
    evaluations = min(len(curve.steps) for curve in curves)
    return [curve.until(evaluations) for curve in curves]


def mean_curve(curves: Sequence[Curve], recipe: str, reward: str) -> NDArray[np.float64]:
    """rewards[evaluations], the mean over a recipe's seeds."""
    each = [curve.rewards[reward] for curve in curves if curve.recipe == recipe]
    means: NDArray[np.float64] = np.mean(np.array(each), axis=0)
    return means


def show(curves: Sequence[Curve]) -> None:
    """A row a recipe."""
    reward = next(iter(curves[0].rewards))
    goal = float(mean_curve(curves, RecipeName.DIFFUSIONNFT, reward)[-1])
    table = Table(
        title=f"{reward}, held-out prompts, {curves[0].steps[-1]} steps; baseline {goal:.4f}"
    )
    titles = ("recipe", "final", "over seeds", "held-out judge")
    for title in (*titles, *(f"speed-up, {name}" for name in counted())):
        table.add_column(title)
    for recipe in RECIPES:
        own = [curve for curve in curves if curve.recipe == recipe]
        rewards = mean_curve(curves, recipe, reward)
        finals = [curve.rewards[reward][-1] for curve in own]
        heldout = mean_curve(curves, recipe, list(curves[0].rewards)[-1])
        speedups = [speedup(curves, recipe, reward, goal, costs) for costs in counted().values()]
        table.add_row(
            recipe,
            f"{rewards[-1]:.4f}",
            f"±{statistics.pstdev(finals):.4f}",
            f"{heldout[-1]:.4f}",
            *speedups,
        )
    Console(width=140).print(table)


def speedup(curves: Sequence[Curve], recipe: str, reward: str, goal: float, costs_of: Costs) -> str:
    """Cost at which diffusionnft ends, over the cost at which the recipe has got as far."""
    costs = _mean_costs(curves, recipe, costs_of)
    whole = _mean_costs(curves, RecipeName.DIFFUSIONNFT, costs_of)[-1]
    reached = cost_of(goal, mean_curve(curves, recipe, reward), costs)
    return "never" if not reached else f"{whole / reached:.2f}x"


def _mean_costs(curves: Sequence[Curve], recipe: str, costs_of: Costs) -> list[float]:
    each = [costs_of(curve) for curve in curves if curve.recipe == recipe]
    return [float(cost) for cost in np.mean(each, axis=0)]


def counted() -> dict[str, Costs]:
    """What costs are counted in, by name."""

    def nfes(name: str, curve: Curve) -> Sequence[float]:
        return curve.nfes[name]

    return {
        "steps": lambda curve: curve.steps,
        **{name: partial(nfes, name) for name in COUNTS},
        SECONDS: lambda curve: curve.seconds,
    }


def plot(curves: Sequence[Curve], path: Path) -> None:
    """Reward against cost: seeds thin, their mean thick; at last the training prompts' pools."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    reward = next(iter(curves[0].rewards))
    panels = {name: costs_of for name, costs_of in counted().items() if name != SECONDS}
    figure, grid = pyplot.subplots(2, 3, figsize=(14, 8))
    *axes, last = grid.flat
    for axis, (name, costs_of) in zip(axes, panels.items(), strict=True):
        unit, label = (1, name) if name == "steps" else (1000, f"{name}; thousand NFEs")
        for recipe in RECIPES:
            own = comparable([curve for curve in curves if curve.recipe == recipe])
            for curve in own:
                costs = np.array(costs_of(curve)) / unit
                axis.plot(costs, curve.rewards[reward], color=COLOURS[recipe], lw=0.6)
            axis.plot(
                np.array(_mean_costs(own, recipe, costs_of)) / unit,
                mean_curve(own, recipe, reward),
                color=COLOURS[recipe],
                lw=2.2,
                label=recipe,
            )
        axis.set(xlabel=label, ylabel=f"{reward}, held-out prompts")
    for recipe in RECIPES:
        last.plot(*smoothed_pools(curves, recipe), color=COLOURS[recipe], lw=2.2)
    last.set(xlabel="steps", ylabel=f"{reward}, all candidates")
    for axis in grid.flat:
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def smoothed_pools(
    curves: Sequence[Curve], recipe: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps, and the mean over seeds and over `SMOOTHED_OVER` steps of what the pools got."""
    own = [curve.pools for curve in curves if curve.recipe == recipe]
    length = min(map(len, own))
    window = min(length, SMOOTHED_OVER)
    means: NDArray[np.float64] = np.mean([pools[:length] for pools in own], axis=0)
    smooth = np.convolve(means, np.full(window, 1 / window), "valid")
    return np.arange(len(smooth)) + (window + 1) / 2, smooth


if __name__ == "__main__":
    main()

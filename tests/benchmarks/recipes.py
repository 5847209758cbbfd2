"""What does each recipe's reward cost?

    python -m tests.benchmarks.recipes [--device cuda] [--seeds 3] [--steps 60] [--jobs 6]
    python -m tests.benchmarks.recipes --arm diffusionnft --arm few:recipe.keep_pairs=2,optimiser.lr=2e-3
    python -m tests.benchmarks.recipes --task rare [--base]
    python -m tests.benchmarks.recipes --show

Trains the demo's model by several arms: the published recipes, one setting apart, each as published;
the best that does not explore; and our own. `--jobs` runs go side by side. The moving average is
evaluated on held-out prompts without guidance all along. The runs are kept in `--folder`: started
again, the benchmark goes on where it was stopped, and `--show` only shows what there is, as
`heliostat compare` does: the first arm is what the others are measured by.

The task `hour` is that of the demo's hour: animals, by the judge's score. `rare` is pairs and counts
of things, by whether the judge says yes; `--base` prints how often the base model has it say so.

An arm of one's own is NAME:KEY=VALUE,KEY=VALUE, with settings besides those that all arms have; a
name below may be followed by settings, too.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.progress import Progress as Bar

from heliostat.examples import example
from heliostat.screens.compare import compare
from heliostat_trainer.compare import Counting
from heliostat_trainer.forecast.work import TINY_IMAGE_SHARE
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.load import load_config
from heliostat_trainer.settings.recipe import RecipeName
from tests.benchmarks.base_success import show_base_success
from tests.benchmarks.in_process import train_in_process
from tests.benchmarks.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PUBLISHED = {"recipe.candidates": 96, "recipe.keep_pairs": 12, "recipe.explore_steps": 6}
"""Sizes of pool and selection."""
FEW = {"optimiser.lr": 2e-3, "ema.decay": 0.8, "objective.levels": "high"}
"""What a step of few samples learns best with, exploring or not: docs/measurements.md, "What exploring is worth"."""
ARMS: Mapping[str, Mapping[str, object]] = {
    **{
        name: {"recipe.name": name, **PUBLISHED}
        for name in RecipeName
        if name is not RecipeName.HELIOSTAT
    },
    "few_random": {
        "recipe.name": RecipeName.DIFFUSIONNFT,
        "recipe.keep_pairs": 2,
        "prompts.per_step": 12,
        **FEW,
    },
    RecipeName.HELIOSTAT: {
        "recipe.name": RecipeName.HELIOSTAT,
        "recipe.tune": "false",
        "recipe.candidates": 16,
        "recipe.keep_pairs": 1,
        "recipe.explore_steps": 6,
        "recipe.score_after": 4,
        "prompts.per_step": 16,
        **FEW,
    },
}
"""The best that does not explore is `few_random`: all that `heliostat` has but exploring, in its own best shape."""


@dataclass(frozen=True)
class Job:
    """One run."""

    task: str
    arm: str
    seed: int
    steps: int
    every: int
    device: str
    folder: Path

    @property
    def config(self) -> TrainConfig:
        """Its settings. Raises ConfigError."""
        name, settings = settings_of(self.arm)
        overrides = {
            "run.name": f"{name}-{self.seed}",
            "run.folder": self.folder,
            "run.seed": self.seed,
            "run.steps": self.steps,
            "run.device": self.device,
            "watch.every": 20 if settings["recipe.name"] == RecipeName.HELIOSTAT else 0,
            "ema.decay": 0.9,
            "model.sample_batch": 384,
            "optimiser.micro_batch": 384,
            "evaluation.every": self.every,
            "evaluation.steps": 10,
            "evaluation.guidances": "[1.0]",
            "evaluation.images": 8,
            "checkpoint.every": self.every,
            **TASKS[self.task].settings,
            **settings,
        }
        return load_config(example("demo_long.toml"), arguments_of(overrides))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, default="hour")
    parser.add_argument("--arm", action="append", help=f"{', '.join(ARMS)}, or your own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--decode-nfes", type=float, default=1.0)
    parser.add_argument("--tiny-share", type=float, default=TINY_IMAGE_SHARE)
    parser.add_argument("--folder", type=Path, help="of the runs; by default the task's own")
    parser.add_argument("--base", action="store_true", help="only how often the base succeeds")
    parser.add_argument("--show", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path, help="the page; by default the task's own")
    options = parser.parse_args()
    stem = TASKS[options.task].stem
    folder, out = options.folder or Path("runs") / stem, options.out or Path(f"{stem}.html")
    first = [name for name in ARMS if name == RecipeName.DIFFUSIONNFT]
    arms = options.arm or [*first, *(name for name in ARMS if name not in first)]
    jobs = [
        Job(options.task, arm, seed, options.steps, options.every, options.device, folder)
        for seed in range(options.seeds)
        for arm in arms
    ]
    if options.base:
        show_base_success(jobs[0].config)
        return
    if not options.show:
        run_all(jobs, options.jobs)
    # Runs of one arm side by side, the first arm's first.
    jobs.sort(key=lambda job: arms.index(job.arm))
    counting = Counting(image_nfes=options.decode_nfes, tiny_share=options.tiny_share)
    numbers = out.with_suffix(".json")
    compare([job.config.run.path for job in jobs], counting, None, out, numbers, print)


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
    train_in_process(job.config, batch=384, rewards=TASKS[job.task].rewards)


def settings_of(arm: str) -> tuple[str, dict[str, object]]:
    """An arm's name, and its settings: NAME, or NAME:KEY=VALUE,..."""
    name, _, own = arm.partition(":")
    known = ARMS.get(name, ARMS[RecipeName.DIFFUSIONNFT])
    added = (setting.partition("=")[::2] for setting in own.split(",") if setting)
    return name, {**known, **dict(added)}


def arguments_of(overrides: Mapping[str, object]) -> list[str]:
    """Settings, section.key -> value, as on the command line."""
    return [text for key, value in overrides.items() for text in (f"--{key}", str(value))]


if __name__ == "__main__":
    main()

"""How much time does exploring ahead save, where exploring and training cost the same?

    python -m tests.benchmarks.explore_ahead [--steps 8] [--repeats 2] [--out explore_ahead.json]

A real server and a trainer with the demo's model, each on one core of its own. First as many
candidates a prompt are found as make a step's exploration cost what its training costs; then runs
that take turns (depth 0) and runs that explore ahead (depth 1) alternate. Prints a table, writes
JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from heliostat.examples import example
from heliostat_server.launcher.background import background_server
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.settings import LimitSettings, ServeSettings
from heliostat_trainer.folder.metrics import read_metrics
from heliostat_trainer.run import train
from heliostat_trainer.settings.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

BATCH = 4
FIRST_CANDIDATES = 32
EDGE = 2
"""Steps left out at a run's start, while it warms up; and the last, which explores nothing."""


@dataclass(frozen=True)
class Steps:
    """Means over the steps of some runs."""

    wall_s: float
    explore_s: float
    """From a step's first request to its last answer."""
    train_s: float
    """Regenerating, scoring and optimising."""
    server_busy: float
    trainer_busy: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("explore_ahead.json"))
    arguments = parser.parse_args()
    server_core, trainer_core = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory() as folder:
        settings = ServeSettings(
            state=Path(folder) / "server",
            limits=LimitSettings(batch=BATCH),
            threads=1,
            port=0,
            http_port=0,
        )
        os.sched_setaffinity(0, {server_core})  # what it starts inherits it
        with background_server(settings) as record:
            os.sched_setaffinity(0, {trainer_core})
            bench = _Bench(
                Path(folder),
                f"grpc://{record.control}",
                StateFolder(settings.state).read_admin_token(),
                arguments.steps,
            )
            candidates = bench.balanced_candidates()
            lines: dict[int, list[Any]] = {0: [], 1: []}
            for _ in range(arguments.repeats):
                for depth, collected in lines.items():
                    collected += bench.run(candidates, depth)
    results = {depth: _summary(collected) for depth, collected in lines.items()}
    ratio = results[1].wall_s / results[0].wall_s
    _print(results, candidates, ratio)
    content = {
        "candidates": candidates,
        "steps": arguments.steps,
        "repeats": arguments.repeats,
        "depth": {str(depth): asdict(result) for depth, result in results.items()},
        "ratio": ratio,
    }
    arguments.out.write_text(json.dumps(content, indent=2) + "\n")


class _Bench:
    def __init__(self, folder: Path, url: str, token: str, steps: int) -> None:
        self._folder = folder
        self._url = url
        self._token = token
        self._steps = steps

    def balanced_candidates(self) -> int:
        """As many candidates a prompt as make exploring a step cost what training on it does."""
        trial = _summary(self.run(FIRST_CANDIDATES, 0))
        return max(1, round(FIRST_CANDIDATES * trial.train_s / trial.explore_s / BATCH)) * BATCH

    def run(self, candidates: int, depth: int) -> list[Any]:
        """The metrics of a run's steps, with `wall_s`, without its edges."""
        config = TrainConfig.model_validate(
            {
                "run": {
                    "name": "ahead",
                    "folder": self._folder,
                    "steps": self._steps + EDGE + 1,
                    "threads": 1,
                },
                "prompts": {
                    "train": example("prompts/hard_train.txt"),
                    "heldout": example("prompts/hard_heldout.txt"),
                    "per_step": 4,
                },
                "recipe": {
                    "candidates": candidates,
                    "keep_pairs": 4,
                    "explore_steps": 6,
                    "steps": 10,
                    "explore_ahead": depth,
                },
                "watch": {"every": 0},
                "reward": {"name": "colourfulness"},
                "objective": {"kl_weight": 0.0},
                "evaluation": {"every": 0, "prompts": 1, "seeds_per_prompt": 1, "steps": 1},
                "checkpoint": {"every": 1000},
            }
        )
        train(
            config,
            server_url=self._url,
            known_token=lambda: self._token,
            console=Console(file=io.StringIO()),
        )
        lines = list(read_metrics(config.run.path / "metrics.jsonl"))
        shutil.rmtree(config.run.path)
        ends = [float(str(line["elapsed_s"])) for line in lines]
        walls = [end - begin for begin, end in zip([0.0, *ends], ends, strict=False)]
        timed = [{**line, "wall_s": wall} for line, wall in zip(lines, walls, strict=True)]
        return timed[EDGE:-1]


def _summary(lines: Sequence[Any]) -> Steps:
    def mean(values: list[float]) -> float:
        return round(statistics.mean(values), 3)

    parts = ("regenerate", "score", "optimise")
    return Steps(
        wall_s=mean([line["wall_s"] for line in lines]),
        explore_s=mean([line["explored"] / line["explore_images_per_s"] for line in lines]),
        train_s=mean([sum(line["seconds"][part] for part in parts) for line in lines]),
        server_busy=mean([line["server_busy"] for line in lines]),
        trainer_busy=mean([line["trainer_busy"] for line in lines]),
    )


def _print(results: dict[int, Steps], candidates: int, ratio: float) -> None:
    table = Table(
        "explore ahead", "step, s", "explore, s", "train, s", "server busy", "trainer busy"
    )
    for depth, steps in results.items():
        table.add_row(
            str(depth),
            *(f"{value:.2f}" for value in (steps.wall_s, steps.explore_s, steps.train_s)),
            *(f"{value:.0%}" for value in (steps.server_busy, steps.trainer_busy)),
        )
    console = Console(width=100)
    console.print(table)
    console.print(f"4 prompts x {candidates} candidates; a step takes {ratio:.2f} of its time")


if __name__ == "__main__":
    main()

"""A tiny run for torchrun, with the rollout server in the leader's process.

python ranked_run.py TOML [--resume] [--section.key value ...]

With TROUBLE=term, kill or raise in the environment, that befalls rank 1 in its second step. With SIZED,
images may have other sizes than the demo's.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from rich.console import Console
from torch.distributed.tensor import DTensor

from heliostat_engines.errors import HeliostatError
from heliostat_engines.families.demo.family import DemoFamily
from heliostat_engines.families.family import Resolutions
from heliostat_engines.resolution import Resolution
from heliostat_trainer import run
from heliostat_trainer.display.progress import LineProgress
from heliostat_trainer.learning.updates import Update
from heliostat_trainer.policy.policy import Policy
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.ranks.launch import leads
from heliostat_trainer.ranks.ranks import open_ranks
from heliostat_trainer.settings.load import load_config
from tests.trainer.fake_server import FakeServer

TROUBLE = {
    "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "raise": lambda: (_ for _ in ()).throw(RuntimeError("out of memory, say")),
}


SIZED = bool(os.environ.get("SIZED"))
SIZES: tuple[Resolution, ...] = (64, (48, 64), (64, 32))
"""That the tiny transformer knows the places of."""


def lead(toml: str, resume: bool, overrides: list[str]) -> None:
    config = load_config(Path(toml), overrides)
    with open_ranks() as ranks, Interrupts(repeated=True).installed() as interrupts:
        progress = LineProgress(Console())
        checkpoints = run.open_run(config, resume=resume)
        server = FakeServer(Path(str(config.model.checkpoint)))
        server.sizes = SIZES if SIZED else server.sizes
        trainer = run.build_trainer(
            config,
            read_prompt_sets(config),
            server,
            checkpoints,
            progress,
            interrupts,
            resume=resume,
            ranks=ranks,
        )
        print(f"holds {weights_held(trainer.parts.policy)} weights")
        run.run_trainer(config, trainer)


def weights_held(policy: Policy) -> int:
    """Elements of the frozen transformer on this rank."""
    parameters = [
        value for name, value in policy._transformer.named_parameters() if "lora_" not in name
    ]
    return sum(
        (value.to_local() if isinstance(value, DTensor) else value).numel() for value in parameters
    )


def assist(trouble: str | None) -> None:
    update = Update.do

    def troubled(self, learner):
        if trouble and self.step == 2:
            TROUBLE[trouble]()
        return update(self, learner)

    Update.do = troubled
    run.assist()


def main() -> None:
    torch.set_num_threads(1)
    if SIZED:
        DemoFamily.resolutions = Resolutions(32, 64, 8)
    toml, *rest = sys.argv[1:]
    if not leads():
        assist(os.environ.get("TROUBLE"))
        return
    try:
        lead(toml, "--resume" in rest, [word for word in rest if word != "--resume"])
    except HeliostatError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

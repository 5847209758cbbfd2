"""Damaged run folders and model folders, for resume, report, compare and export."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import strategies as st
from rich.console import Console

from heliostat_trainer.display.progress import LineProgress
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.run import build_trainer, open_run, run_trainer
from heliostat_trainer.settings.load import load_config
from tests.bad_inputs import odd
from tests.bad_inputs.command_line import Command, run_command
from tests.bad_inputs.outcome import ACCEPTED, Verdict, raised
from tests.bad_inputs.sandbox import PATHS, Sandbox
from tests.trainer.conftest import write_checkpoint, write_toml
from tests.trainer.fake_server import FakeServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heliostat_trainer.loop import Trainer
    from heliostat_trainer.settings.config import TrainConfig

TOML, MODEL, KEPT, HURT = "run.toml", "model", "runs/kept", "runs/hurt"
STEPS = 2
SETTINGS = ("--run.steps", str(STEPS))
LATEST = f"checkpoints/step-{STEPS:06d}"
RUN_FILES = (
    "run.json",
    "metrics.jsonl",
    f"{LATEST}/state.json",
    f"{LATEST}/tensors.safetensors",
    f"{LATEST}/explorer-000001.json",
    f"{LATEST}/explorer-000001.safetensors",
    "checkpoints/step-000001/state.json",
    "evaluation/step-000000/results.json",
    f"evaluation/step-{STEPS:06d}/results.json",
    "evaluation/step-000000/images.safetensors",
    "showcase/showcase.json",
    "showcase/images.safetensors",
)
MODEL_FILES = ("transformer/config.json", "transformer/diffusion_pytorch_model.safetensors")
EXTRAS = (
    "checkpoints/step-best/mine.txt",
    "checkpoints/step-000002.bak/state.json",
    "checkpoints/step-9",
    "checkpoints/step-٢/mine.txt",
    "checkpoints/.step-000002.draft/mine.txt",
    "evaluation/step-9/mine.txt",
    "evaluation/step-old/mine.txt",
    "lora/mine.txt",
    "export/diffusers/mine.txt",
    "notes.txt",
)
RESUME = ("train", TOML, "--run.name", "hurt", "--resume")
"""Against the server that runs in this process."""


@dataclass(frozen=True)
class HurtRun:
    """A copy of a finished run, what befell its files and the model's, and what is done with it."""

    command: tuple[str, ...]
    damages: tuple[tuple[str, odd.Damage], ...] = ()
    extras: tuple[str, ...] = ()
    """Somebody's own files in the run folder."""


@st.composite
def hurt_runs(draw: Callable[..., Any]) -> HurtRun:
    hurt = st.tuples(st.sampled_from(RUN_FILES).map(lambda name: f"{HURT}/{name}"), odd.damages)
    model = st.tuples(st.sampled_from(MODEL_FILES).map(lambda name: f"{MODEL}/{name}"), odd.damages)
    out = st.just(()) | st.sampled_from(PATHS).map(lambda path: ("--out", path))
    export = st.builds(
        lambda kind, step, out: ("export", HURT, "--format", kind, "--step", step, *out),
        st.sampled_from(["diffusers", "comfyui", "fused"]),
        st.sampled_from(["latest", "best", "1", "7"]),
        out,
    )
    report = out.map(lambda out: ("report", HURT, *out))
    compare = out.map(lambda out: ("compare", HURT, KEPT, *out))
    pace = ("train", TOML, "--dry-run", "--run.name", "hurt")
    command = draw(st.just(RESUME) | export | report | compare | st.just(pace))
    loads = command == RESUME or "fused" in command
    return HurtRun(
        command=command,
        damages=tuple(
            draw(
                st.lists(
                    odd.mostly(hurt, model, times=2) if loads else hurt,
                    min_size=1,
                    max_size=2,
                    unique_by=_name,
                )
            )
        ),
        extras=tuple(
            draw(st.just([]) | st.just([]) | st.lists(st.sampled_from(EXTRAS), max_size=2))
        ),
    )


def _name(damaged: tuple[str, odd.Damage]) -> str:
    return damaged[0]


class Workbench:
    """A sandbox with a finished run and its model, and the server of that."""

    def __init__(self, root: Path) -> None:
        self._sandbox = Sandbox(root, self._furnish)

    def _furnish(self, work: Path) -> None:
        model = write_checkpoint(work / MODEL)
        write_toml(work, model)
        self._server = FakeServer(model)
        config = load_config(work / TOML, ["--run.name", "kept", *SETTINGS])
        run_trainer(config, self._trainer(config, resume=False))

    def run(self, hurt: HurtRun) -> Verdict:
        """Hurt a copy of the run, and go on with that."""
        sandbox = self._sandbox
        shutil.copytree(sandbox.work / KEPT, sandbox.work / HURT)
        for name in hurt.extras:
            sandbox.guard(f"{HURT}/{name}")
        for name, damage in hurt.damages:
            sandbox.hurt(name, damage)
        try:
            if hurt.command != RESUME:
                return run_command(Command(hurt.command), sandbox)
            return sandbox.tidied(self._resumed())
        finally:
            torch.set_default_dtype(torch.float32)  # diffusers leaves another where a load fails

    def _resumed(self) -> Verdict:
        try:
            config = load_config(self._sandbox.work / TOML, ["--run.name", "hurt", *SETTINGS])
            trainer = self._trainer(config, resume=True)
            if trainer.state.step == STEPS:  # else it would begin to train
                run_trainer(config, trainer)
        except Exception as error:
            return raised(error)
        return ACCEPTED

    def _trainer(self, config: TrainConfig, *, resume: bool) -> Trainer:
        return build_trainer(
            config,
            read_prompt_sets(config),
            self._server,
            open_run(config, resume=resume),
            LineProgress(Console(quiet=True)),
            Interrupts(),
            resume=resume,
        )

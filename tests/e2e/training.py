"""Tiny training runs against a real server."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from rich.console import Console
from safetensors.torch import load_file

from heliostat_trainer.run import train
from heliostat_trainer.settings.load import load_config

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from heliostat_engines.errors import HeliostatError
from heliostat_trainer.settings.load import load_config
from heliostat_trainer.run import train
toml, url, token, *overrides = sys.argv[1:]
try:
    train(load_config(Path(toml), overrides), server_url=url, known_token=lambda: token)
except HeliostatError as error:
    sys.exit(f"error: {error}")
"""
TIMEOUT_S = 120


def write_toml(folder: Path, checkpoint: Path) -> Path:
    (folder / "train.txt").write_text("a red cat\na blue dog\na green bird\ntwo owls")
    (folder / "heldout.txt").write_text("a purple fox\nthree bees")
    path = folder / "run.toml"
    path.write_text(
        f"""
run = {{ name = "whole", folder = "{folder / "runs"}", steps = 3 }}
model = {{ checkpoint = "{checkpoint}" }}
prompts = {{ train = "train.txt", heldout = "heldout.txt", per_step = 2 }}
recipe = {{ candidates = 16, keep_pairs = 2, explore_steps = 3, steps = 5 }}
reward = {{ name = "colourfulness", heldout = ["jpeg_compressibility"] }}
lora = {{ rank = 4, alpha = 8 }}
evaluation = {{ every = 0, prompts = 2, seeds_per_prompt = 2, steps = 2, images = 1 }}
checkpoint = {{ every = 1 }}
server = {{ patience_s = 90 }}
"""
    )
    return path


class Server(Protocol):
    """Where a run is pointed at, one or several, and the token that its user has."""

    @property
    def url(self) -> str | tuple[str, ...]: ...

    @property
    def admin_token(self) -> str: ...


@dataclass(frozen=True)
class Address:
    """One that is given, or several."""

    url: str | tuple[str, ...]
    admin_token: str


class Run:
    """One run of the trainer; `overrides` are `--section.key value`."""

    def __init__(self, toml: Path, server: Server, name: str, *overrides: str) -> None:
        self.folder = toml.parent / "runs" / name
        self._toml, self._server = toml, server
        self._overrides = ["--run.name", name, *overrides]

    def complete(self, *, resume: bool = False) -> str:
        """Run to the end in this process; returns what was printed."""
        console = Console(file=io.StringIO())
        config = load_config(self._toml, self._overrides)
        folder = train(
            config,
            server_url=self._server.url,
            known_token=lambda: self._server.admin_token,
            resume=resume,
            console=console,
        )
        assert folder == self.folder
        return console.file.getvalue()  # type: ignore[attr-defined]

    def start(self) -> subprocess.Popen[str]:
        """Run in a process of its own, to be hurt."""
        assert isinstance(self._server.url, str)
        command = [sys.executable, "-c", PROGRAM, str(self._toml)]
        command += [self._server.url, self._server.admin_token, *self._overrides]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def saved(self, step: int) -> bool:
        return (self.folder / "checkpoints" / f"step-{step:06d}").exists()

    def lora(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "lora" / "adapter_model.safetensors")


def wait_for(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key

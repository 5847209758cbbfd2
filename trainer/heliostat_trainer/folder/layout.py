"""A run's folder: what lies where in it, whose it is, and one process at a time. Reads no torch.

`RunEntry` names all that heliostat puts there, the constants below it what lies in its folders; an
export's files are named in `export.formats`.

Names with a step in them are six digits, or more if need be; those that are not exactly ours are left alone.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from heliostat_engines.files.atomic import claim_folder
from heliostat_engines.files.locks import locked
from heliostat_engines.files.ownership import (
    MARKER,
    Layout,
    read_marker,
    require_own_file,
    require_replaceable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


class RunEntry(StrEnum):
    """What heliostat puts in a run's folder; the name of a folder ends in "/"."""

    RUN_FILE = "run.json"
    METRICS = "metrics.jsonl"
    TOKEN = "token"  # noqa: S105
    CHECKPOINTS = "checkpoints/"
    EVALUATIONS = "evaluation/"
    EXPORTS = "export/"
    LORA = "lora/"
    SHOWCASE = "showcase/"
    TENSORBOARD = "tensorboard/"
    WANDB = "wandb/"
    """Which W&B makes itself."""
    WANDB_ID = "wandb-id.txt"
    SERVER = "server/"
    """State and logs of the run's own server (`heliostat train --serve`)."""
    REPORT = "report.html"
    LOCK = "lock"

    @property
    def pattern(self) -> str:
        """Of what lies there, as a `Layout` has it."""
        return f"{self}*" if self.endswith("/") else self.value


STEP = "step-"
RUN_FILE_SIGN = '"lora_targets"'
"""In every run.json that we wrote."""

STATE = "state.json"
TENSORS = "tensors.safetensors"
EXPLORER, REPLAY = "explorer-", "replay-"
CHECKPOINT_LAYOUT = Layout(
    kind="a checkpoint",
    advice="move it out of the run's folder of checkpoints",
    required=frozenset({STATE, TENSORS}),
    patterns=tuple(
        f"{name}*.{kind}" for name in (EXPLORER, REPLAY) for kind in ("json", "safetensors")
    ),
)
RESULTS = "results.json"
IMAGES = "images.safetensors"
EVALUATION_LAYOUT = Layout(
    kind="an evaluation",
    advice="move it out of the run's folder of evaluations",
    required=frozenset({RESULTS, IMAGES}),
)
SHOWN = "showcase.json"
SHOWCASE_LAYOUT = Layout(
    kind="a showcase",
    advice="move it out of the run's folder",
    required=frozenset({SHOWN, IMAGES}),
)
RUN_LAYOUT = Layout(
    kind="a run",
    advice="set another run.name",
    required=frozenset({RunEntry.RUN_FILE}),
    patterns=tuple(entry.pattern for entry in RunEntry),
)


@dataclass(frozen=True)
class RunFolder:
    """The paths in the folder of one run."""

    path: Path

    @property
    def run_file(self) -> Path:
        """Settings, server and arithmetic (`run_file`)."""
        return self.path / RunEntry.RUN_FILE

    @property
    def metrics(self) -> Path:
        """A line a step (`metrics`)."""
        return self.path / RunEntry.METRICS

    @property
    def token(self) -> Path:
        """The server's for this experiment, readable by its owner alone (`rollouts.tokens`)."""
        return self.path / RunEntry.TOKEN

    @property
    def checkpoints(self) -> Path:
        """A folder for each step that is kept (`checkpoint`)."""
        return self.path / RunEntry.CHECKPOINTS

    @property
    def evaluations(self) -> Path:
        """A folder for each step that was evaluated (`evaluation.results`)."""
        return self.path / RunEntry.EVALUATIONS

    @property
    def lora(self) -> Path:
        """What the run has trained, for PEFT and diffusers."""
        return self.path / RunEntry.LORA

    def export(self, kind: str) -> Path:
        """An export in the format `kind`, unless it is put elsewhere."""
        return self.path / RunEntry.EXPORTS / kind

    @property
    def showcase(self) -> Path:
        """One group to look at (`evaluation.showcase`)."""
        return self.path / RunEntry.SHOWCASE

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's events."""
        return self.path / RunEntry.TENSORBOARD

    @property
    def wandb_id(self) -> Path:
        """Under which W&B knows the run."""
        return self.path / RunEntry.WANDB_ID

    @property
    def server(self) -> Path:
        """The state folder of the run's own server, if it has one."""
        return self.path / RunEntry.SERVER

    @property
    def report(self) -> Path:
        """The page of `heliostat report`, unless it is put elsewhere."""
        return self.path / RunEntry.REPORT

    @contextmanager
    def held(self, warn: Callable[[str], None], replaced: Mapping[Path, Layout]) -> Iterator[None]:
        """Have the folder for ourselves, for as long as the block; it is made if need be.

        One that was made and into which nothing was written, say because no server answered, is not
        left.

        warn: is told if the file system has no locks.
        replaced: folders in it that the run replaces as a whole, and what they are.

        Raises:
            FolderBusyError: another process trains there.
            FilesError: names that we would write there are taken.
        """
        if read_marker(self.path) is None:
            require_own_file(self.run_file, RUN_FILE_SIGN, RUN_LAYOUT.advice)
        is_new = not self.path.exists()
        claim_folder(self.path, RUN_LAYOUT, beside_others=True)
        who, advice = "heliostat train", "wait for it, stop it, or set another run.name"
        with locked(self.path / RunEntry.LOCK, who, advice, warn):
            for folder, layout in replaced.items():
                require_replaceable(
                    folder, replace(layout, advice="move it out of the run's folder")
                )
            try:
                yield
            finally:
                if is_new:
                    _remove_if_unused(self.path)


def _remove_if_unused(path: Path) -> None:
    """Remove a folder that we made if there is nothing in it but what claims it."""
    names = {entry.name for entry in path.iterdir()}
    if names <= {MARKER, RunEntry.LOCK}:
        for name in names:
            (path / name).unlink()
        path.rmdir()


def numbered(prefix: str, step: int, suffix: str = "") -> str:
    """A name with a step in it."""
    return f"{prefix}{step:06d}{suffix}"


def step_folder(folder: Path, step: int) -> Path:
    """A step's folder, in the folder of checkpoints or of evaluations."""
    return folder / numbered(STEP, step)


def kept_steps(folder: Path) -> list[int]:
    """The steps that there is such a folder of, in order."""
    return [step for step in numbers_in(folder, STEP) if step_folder(folder, step).is_dir()]


def numbers_in(folder: Path, prefix: str, suffix: str = "") -> list[int]:
    """The steps in the `numbered` names of a folder, in order."""
    name = re.compile(rf"{re.escape(prefix)}(\d{{6}}|[1-9]\d{{6,}}){re.escape(suffix)}", re.ASCII)
    matches = (name.fullmatch(path.name) for path in folder.glob(f"{prefix}*{suffix}"))
    return sorted(int(match[1]) for match in matches if match)

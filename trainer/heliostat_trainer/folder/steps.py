"""Names with a step in them, in a run folder. Names that are not exactly ours are left alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def step_folder(folder: Path, step: int) -> Path:
    """A step's folder, in the folder of checkpoints or of evaluations."""
    return folder / f"step-{step:06d}"


def kept_steps(folder: Path) -> list[int]:
    """The steps that there is such a folder of, in order."""
    return [step for step in numbers_in(folder, "step-") if step_folder(folder, step).is_dir()]


def numbers_in(folder: Path, prefix: str, suffix: str = "") -> list[int]:
    """The numbers of six digits, or more if need be, in names of a folder, in order."""
    name = re.compile(rf"{re.escape(prefix)}(\d{{6}}|[1-9]\d{{6,}}){re.escape(suffix)}", re.ASCII)
    matches = (name.fullmatch(path.name) for path in folder.glob(f"{prefix}*{suffix}"))
    return sorted(int(match[1]) for match in matches if match)

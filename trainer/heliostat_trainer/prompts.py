"""Prompt files: one prompt a line; empty lines and lines that start with # are skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_trainer.errors import ConfigError
from heliostat_trainer.randomness import Purpose, stream

if TYPE_CHECKING:
    from pathlib import Path


def read_prompts(path: Path, setting: str) -> tuple[str, ...]:
    """The prompts of a file, without repetitions, in its order.

    Raises:
        ConfigError: the file cannot be read or holds no prompt; names the setting.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{setting}: cannot read {path}: {reason}") from error
    lines = (line.strip() for line in text.splitlines())
    prompts = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not prompts:
        raise ConfigError(f"{setting}: {path} holds no prompt; write one a line")
    return prompts


def step_prompts(prompts: tuple[str, ...], per_step: int, seed: int, step: int) -> tuple[str, ...]:
    """The prompts of a step: the file reshuffled each time it has been gone through.

    Each step's prompts differ from one another as long as the file has `per_step` of them.
    """
    per_epoch = len(prompts) // per_step
    epoch, position = divmod(step - 1, per_epoch)
    order = stream(seed, Purpose.PROMPTS, epoch).permutation(len(prompts))
    chosen = order[position * per_step : (position + 1) * per_step]
    return tuple(prompts[row] for row in chosen)

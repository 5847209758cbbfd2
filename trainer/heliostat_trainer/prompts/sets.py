"""The prompts of a run: those that are trained on, and those that are evaluated on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat_trainer.errors import ConfigError
from heliostat_trainer.prompts.sources import read_prompts
from heliostat_trainer.randomness import Purpose, stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_trainer.settings.config import TrainConfig


@dataclass(frozen=True)
class PromptSets:
    """What is trained on, and what is evaluated on."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]


def read_prompt_sets(config: TrainConfig) -> PromptSets:
    """Read the prompts that the settings name; once a run, for a source may be far away.

    Raises:
        ConfigError: a source is missing, empty, or shorter than the settings ask for.
    """
    settings = config.prompts
    train = read_prompts(settings.train, "prompts.train")
    if settings.heldout is None:
        sets = hold_out(train, settings.heldout_fraction, settings.heldout_seed)
        rest = f"what prompts.heldout_fraction leaves of {settings.train}"
        part = f"prompts.heldout_fraction = {settings.heldout_fraction:g} of {settings.train}"
    else:
        sets = PromptSets(train, read_prompts(settings.heldout, "prompts.heldout"))
        rest, part = str(settings.train), str(settings.heldout)
    _at_least(sets.train, settings.per_step, "prompts.per_step", rest)
    _at_least(sets.heldout, config.evaluation.prompts, "evaluation.prompts", part)
    return sets


def hold_out(prompts: tuple[str, ...], fraction: float, seed: int) -> PromptSets:
    """Part with a random fraction, at least one prompt; both parts keep the source's order."""
    count = max(1, round(fraction * len(prompts)))
    order = stream(seed, Purpose.HELDOUT).permutation(len(prompts))
    held = {prompts[row] for row in order[:count]}
    return PromptSets(
        train=tuple(prompt for prompt in prompts if prompt not in held),
        heldout=tuple(prompt for prompt in prompts if prompt in held),
    )


def prompt_notes(config: TrainConfig, sets: PromptSets) -> tuple[str, ...]:
    """What the user should know of a run's prompts, one sentence each."""
    settings, train, heldout = config.prompts, sets.train, sets.heldout
    if settings.heldout is None:
        return (
            f"{len(heldout)} of the {len(train) + len(heldout)} prompts of {settings.train} are "
            f"held out (prompts.heldout_fraction = {settings.heldout_fraction:g}) and never "
            "trained on",
        )
    shared = set(train) & set(heldout)
    if not shared:
        return ()
    return (
        f"{len(shared)} of {len(heldout)} held-out prompts are also trained on "
        f"(the first: {min(shared)!r}): evaluation will flatter the policy",
    )


def _at_least(prompts: Sequence[str], wanted: int, setting: str, source: str) -> None:
    if len(prompts) < wanted:
        raise ConfigError(
            f"{setting} = {wanted}, but {source} has {len(prompts)} prompts: lower {setting} or add "
            "prompts"
        )

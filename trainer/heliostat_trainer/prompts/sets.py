"""The prompts of a run: those that are trained on, and those that are evaluated on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from heliostat_engines.resolution import pixels, written
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.prompts.sizes import read_sizes
from heliostat_trainer.prompts.sources import read_prompts
from heliostat_trainer.randomness import Purpose, stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heliostat_engines.resolution import Resolution
    from heliostat_trainer.settings.config import TrainConfig


@dataclass(frozen=True)
class PromptSets:
    """What is trained on, and what is evaluated on."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]
    sizes: Mapping[str, Resolution] = field(default_factory=dict)
    """Of the images of those prompts that are trained on and have a size of their own."""
    heldout_sizes: Mapping[str, Resolution] = field(default_factory=dict)
    """The same of those that are evaluated on."""


def read_prompt_sets(config: TrainConfig) -> PromptSets:
    """Read the prompts that the settings name; once a run, for a source may be far away.

    Raises:
        ConfigError: a source is missing, empty, or shorter than the settings ask for.
    """
    settings = config.prompts
    train = read_prompts(settings.train, "prompts.train")
    sizes = held_sizes = read_sizes(config, settings.train, "prompts.train")
    if settings.heldout is None:
        sets = hold_out(train, settings.heldout_fraction, settings.heldout_seed)
        rest = f"what prompts.heldout_fraction leaves of {settings.train}"
        part = f"prompts.heldout_fraction = {settings.heldout_fraction:g} of {settings.train}"
    else:
        sets = PromptSets(train, read_prompts(settings.heldout, "prompts.heldout"))
        held_sizes = read_sizes(config, settings.heldout, "prompts.heldout")
        rest, part = str(settings.train), str(settings.heldout)
    _at_least(sets.train, settings.per_step, "prompts.per_step", rest)
    _at_least(sets.heldout, config.evaluation.prompts, "evaluation.prompts", part)
    return replace(sets, sizes=_of(sets.train, sizes), heldout_sizes=_of(sets.heldout, held_sizes))


def _of(prompts: Sequence[str], sizes: Mapping[str, Resolution]) -> Mapping[str, Resolution]:
    return {prompt: sizes[prompt] for prompt in prompts if prompt in sizes}


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
    return (*_notes_of_sizes(config, sets), *_notes_of_held_out(config, sets))


def _notes_of_sizes(config: TrainConfig, sets: PromptSets) -> tuple[str, ...]:
    heldout = sets.heldout[: config.evaluation.prompts]
    own = len(sets.sizes), len(_of(heldout, sets.heldout_sizes))
    if not any(own):
        return ()
    from heliostat_engines.families import get_family  # torch: a dry run needs none without sizes

    own_px = config.model.resolution_of(get_family(config.model.family))

    def larger(prompts: Sequence[str], sizes: Mapping[str, Resolution]) -> float:
        mean = sum(pixels(sizes.get(prompt, own_px)) for prompt in prompts) / len(prompts)
        return mean / pixels(own_px)

    return (
        f"{own[0]} of {len(sets.train)} prompts are trained on at a size of their own, and {own[1]} of "
        f"{len(heldout)} held-out ones evaluated, the others are drawn at {written(own_px)} px: an image that "
        f"is trained on has {larger(sets.train, sets.sizes):.2f} times the pixels of that on average, one that "
        f"is evaluated {larger(heldout, sets.heldout_sizes):.2f} times, and each NFE takes as much longer or "
        "less",
    )


def _notes_of_held_out(config: TrainConfig, sets: PromptSets) -> tuple[str, ...]:
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

"""What a resumed run has to have in common with its checkpoint: settings, schedule, contents.

Files are compared by what they hold, not by where they lie: a project's folder may be moved.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from heliostat_engines.resolution import written
from heliostat_trainer.errors import RunFolderError
from heliostat_trainer.settings.compare import completed, first_change, flatten
from heliostat_trainer.settings.learning import LrSchedule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heliostat_engines.resolution import Resolution
    from heliostat_trainer.prompts.sets import PromptSets
    from heliostat_trainer.settings.config import TrainConfig

TRAIN, HELDOUT, WEIGHTS = "prompts.train", "prompts.heldout", "model.checkpoint"
CONTENTS = {TRAIN: "prompts", HELDOUT: "held-out prompts", WEIGHTS: "weights"}
"""Settings that name what a run reads, and what that is."""


def contents_of(prompts: PromptSets, weights_digest: str) -> dict[str, str]:
    """A digest of what each setting of CONTENTS names, as far as it is known."""
    digests = {
        TRAIN: _digest((*prompts.train, *_written(prompts.sizes))),
        HELDOUT: _digest((*prompts.heldout, *_written(prompts.heldout_sizes))),
        WEIGHTS: weights_digest,
    }
    return {key: digest for key, digest in digests.items() if digest}


def begun(config: TrainConfig) -> TrainConfig:
    """The settings of a run that starts: they say over how many steps its schedule stretches."""
    return _stretched(config, config.lr_steps)


def continued(config: TrainConfig, saved: Mapping[str, Any], step: int) -> TrainConfig:
    """The settings of a run that goes on after `step`, with the schedule that it was `saved` with.

    Only optimiser.lr_steps changes that: another run.steps alone would make the learning rate jump.

    Raises:
        RunFolderError: the run would go on beyond the schedule's end.
    """
    if config.optimiser.lr_schedule is LrSchedule.CONSTANT or config.optimiser.lr_steps:
        return config
    horizon, steps = _horizon(saved), config.run.steps
    if steps > horizon:
        was, then = (config.optimiser.lr_at(step + 1, over) for over in (horizon, steps))
        raise RunFolderError(
            f"optimiser.lr_schedule = {config.optimiser.lr_schedule.value!r} of this run ends at step "
            f"{horizon}, and run.steps = {steps} goes on: set optimiser.lr_steps = {steps} to stretch "
            f"it, which makes the learning rate of step {step + 1} {then:.3g} instead of {was:.3g}, or "
            "start another run.name"
        )
    return _stretched(config, horizon)


def check_settings(
    config: TrainConfig, saved: Mapping[str, Any], before: Mapping[str, str], now: Mapping[str, str]
) -> tuple[str, ...]:
    """Compare settings and contents with the checkpoint's; returns what the user should know.

    Args:
        config: what the run goes on with, from `continued`.
        saved: the checkpoint's flattened settings.
        before: its contents; those of a checkpoint of before they were kept are compared by path.
        now: the contents as they are.

    Raises:
        RunFolderError: something that would change the results differs; names it.
    """
    known = before.keys() & now.keys()
    change = first_change(completed(saved), flatten(config), known)
    if change is not None:
        raise RunFolderError(f"{change}: set it back to resume, or start another run.name")
    changed = [key for key in CONTENTS if key in known and before[key] != now[key]]
    for key in changed:
        if key != HELDOUT:
            raise RunFolderError(
                f"{key} names other {CONTENTS[key]} than this run was trained on so far: put them "
                "back to resume, or start another run.name"
            )
    notes = [
        f"{key} names other {CONTENTS[key]} than before: evaluations of the same ones alone are compared"
        for key in changed
    ]
    return (*notes, *_schedule_notes(config, saved))


def _schedule_notes(config: TrainConfig, saved: Mapping[str, Any]) -> list[str]:
    if config.optimiser.lr_schedule is LrSchedule.CONSTANT:
        return []
    before, now = _horizon(saved), config.lr_steps
    if now != before:
        return [
            f"the learning rate's schedule now ends at step {now} (optimiser.lr_steps), not {before}"
        ]
    if config.run.steps < before:
        return [
            f"the learning rate's schedule goes on as it began, to step {before}: set "
            f"optimiser.lr_steps = {config.run.steps} to let it end with the run"
        ]
    return []


def _horizon(saved: Mapping[str, Any]) -> int:
    """Of a checkpoint of before it was kept, the run.steps that it was saved with."""
    return int(saved.get("optimiser.lr_steps") or saved["run.steps"])


def _stretched(config: TrainConfig, steps: int) -> TrainConfig:
    if config.optimiser.lr_schedule is LrSchedule.CONSTANT:
        return config
    optimiser = config.optimiser.model_copy(update={"lr_steps": steps})
    return config.model_copy(update={"optimiser": optimiser})


def _written(sizes: Mapping[str, Resolution]) -> list[str]:
    return [f"{written(size)} {prompt}" for prompt, size in sizes.items()]


def _digest(texts: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()

"""Replay: the samples that the latest steps kept, trained on again at fresh noise levels.

A sample is explored and redrawn once, and trained on in `recipe.replay` + 1 steps: with the advantage
that it had among its own step's samples, and with levels and noise of the step that it is trained in.
It was drawn by a policy a few updates older than the old policy of that step, so it is slightly
off-policy: that is for objectives which need clean latents alone, no likelihoods.

Source of the thought, for GRPO: OP-GRPO (arXiv 2604.04142), which reuses earlier samples.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from heliostat_trainer.learning.advantages import advantages_of
from heliostat_trainer.settings.objectives import AdvantageSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.types import Samples

    Kept = Mapping[int, Sequence[Samples]]
    """By the step that kept them."""


def remembered(config: TrainConfig, kept: Kept, step: int, samples: Sequence[Samples]) -> Kept:
    """What is replayed in the step after `step`, which has trained on `samples` of its own.

    Of each of the latest recipe.replay steps its groups in the prompts' order; latents as they came.
    """
    if not config.recipe.replay:
        return {}
    groups = sorted(samples, key=lambda group: group.row)
    bare = [replace(group, trajectory=None, parts=None) for group in groups]
    steps = {**kept, step: tuple(_weighed(config, bare))}
    return {at: groups for at, groups in steps.items() if at > step - config.recipe.replay}


def replayed(kept: Kept, first_row: int) -> list[Samples]:
    """All groups that are kept, the oldest first, as of prompts that follow a step's own.

    first_row: how many prompts those are.
    """
    groups = [group for step in sorted(kept) for group in kept[step]]
    return [replace(group, row=row) for row, group in enumerate(groups, start=first_row)]


def _weighed(config: TrainConfig, groups: Sequence[Samples]) -> list[Samples]:
    """With their advantages among themselves; pairs are weighed by their rewards, and need none."""
    if not isinstance(config.objective, AdvantageSettings):
        return list(groups)
    ends = np.cumsum([len(group) for group in groups])
    each = np.split(advantages_of(config.objective, groups), ends[:-1])
    return [replace(group, advantages=own) for group, own in zip(groups, each, strict=True)]

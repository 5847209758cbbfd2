"""Guards against reward hacking: what else changed while the reward rose?

They compare evaluations of the trained policy with the base model's, on the same held-out prompts
and seeds, and so cost nothing beyond what an evaluation costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from heliostat_trainer.evaluation.results import (
    pair,
    paired_difference,
    prompt_interval,
    trained_gain,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from heliostat_trainer.evaluation.results import Evaluation
    from heliostat_trainer.settings.evaluation import GuardsSection
    from heliostat_trainer.settings.reward import RewardSection

HELDOUT = "heldout"


@dataclass(frozen=True)
class Alarm:
    """Something that training on the reward alone would not show."""

    step: int
    what: str
    """A statistic's name, or "heldout"."""
    sentence: str


def measured(evaluation: Evaluation) -> Mapping[str, NDArray[np.float64]]:
    """Each guarded statistic of an evaluation's images: values[P, S], or [P, 1] of a prompt.

    A prompt's single image has no diversity.
    """
    values = {name: np.array(each) for name, each in evaluation.statistics.items()}
    if len(evaluation.seeds[0]) > 1:
        values["diversity"] = np.array(evaluation.diversity)[:, None]
    return values


def alarms(
    guards: GuardsSection, reward: RewardSection, base: Evaluation, now: Evaluation
) -> tuple[Alarm, ...]:
    """What is wrong with an evaluation beside the base model's; mostly nothing.

    A statistic with mean m0 at the base model and m now has drifted if |m - m0| > limit * m0 and
    the 95 % interval of its paired difference does not hold 0. The reward is suspect if its paired
    gain is above 0 and that of every held-out reward below, each with its whole 95 % interval.
    Of a single prompt there is no interval, and so no alarm. Evaluations that do not pair with the
    base model's are not compared.
    """
    if not pair(now, base):
        return ()
    before, after = measured(base), measured(now)
    found = [
        alarm
        for name, limit in guards.limits.items()
        if name in before and (alarm := _drift(now.step, name, limit, before[name], after[name]))
    ]
    if guards.heldout and (alarm := _only_the_trained(reward, base, now)):
        found.append(alarm)
    return tuple(found)


def _drift(
    step: int, name: str, limit: float, before: NDArray[np.float64], after: NDArray[np.float64]
) -> Alarm | None:
    was, now = float(before.mean()), float(after.mean())
    difference = prompt_interval(after - before)
    is_clear = difference.is_above_zero or difference.is_below_zero
    if abs(now - was) <= limit * was or not is_clear:
        return None
    share = f"{(now - was) / was:+.0%}" if was else "from nothing"
    return Alarm(
        step,
        name,
        f"step {step}: {name.replace('_', ' ')} of held-out images went from {was:.3f} at the base "
        f"model to {now:.3f} ({share}; guards.{name} = {limit:g}): look at the pictures, the reward "
        "may be rising by a trick",
    )


def _only_the_trained(reward: RewardSection, base: Evaluation, now: Evaluation) -> Alarm | None:
    falls = [paired_difference(now, base, name) for name in reward.heldout]
    if not falls or not all(fall.is_below_zero for fall in falls):
        return None
    if not trained_gain(now, base, reward.sum).is_above_zero:
        return None
    return Alarm(
        now.step,
        HELDOUT,
        f"step {now.step}: {reward.label} rises while every held-out reward falls "
        f"({', '.join(reward.heldout)}): it is being exploited: raise objective.kl_weight, lower "
        "optimiser.lr, or go back to an earlier checkpoint",
    )

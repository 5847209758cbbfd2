"""Guards: what raises an alarm, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from heliostat_trainer.evaluation.guards import alarms, measured
from heliostat_trainer.evaluation.results import (
    Evaluation,
    mean_gain,
    pair,
    prompt_interval,
    trained_gain,
)
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.settings.evaluation import GuardsSection
from heliostat_trainer.settings.reward import RewardSection

REWARD = RewardSection(name="judge", heldout=("second", "third"))
PROMPTS = 16
STATISTICS = ("brightness", "colour_entropy", "edge_density")


def evaluation(step: int, **changes: float) -> Evaluation:
    """Values that scatter a little around 0.5, moved by `changes`; the same scatter each time."""
    random = np.random.default_rng(0)

    def values(name: str) -> list[list[float]]:
        scattered = 0.5 + 0.05 * random.standard_normal((PROMPTS, 4))
        return (scattered + changes.get(name, 0.0)).tolist()

    rewards = {name: values(name) for name in REWARD.all}
    return Evaluation(
        step=step,
        policy=PolicyName.EMA if step else PolicyName.BASE,
        guidance=1.0,
        denoising_steps=20,
        prompts=tuple(f"p{row}" for row in range(PROMPTS)),
        seeds=((1, 2, 3, 4),) * PROMPTS,
        rewards=rewards,
        means={name: prompt_interval(np.array(table)) for name, table in rewards.items()},
        statistics={name: values(name) for name in STATISTICS},
        diversity=[row[0] for row in values("diversity")],
    )


BASE = evaluation(0)


def raised(guards: GuardsSection | None = None, **changes: float) -> list[str]:
    found = alarms(guards or GuardsSection(), REWARD, BASE, evaluation(20, **changes))
    return [alarm.what for alarm in found]


def test_a_run_that_gets_better_raises_none() -> None:
    assert raised(judge=0.2, second=0.1, third=0.1, brightness=0.05) == []


@pytest.mark.parametrize("name", [*STATISTICS, "diversity"])
@pytest.mark.parametrize("sign", [1, -1])
def test_each_statistic_alarms_beyond_its_limit(name: str, sign: int) -> None:
    guards = GuardsSection.model_validate({name: 0.4})
    assert raised(guards, **{name: sign * 0.15}) == []
    assert raised(guards, **{name: sign * 0.25}) == [name]
    off = GuardsSection.model_validate({name: 100})
    assert raised(off, **{name: sign * 0.25}) == []


def test_a_drift_within_the_noise_is_none() -> None:
    now = evaluation(20)
    noisy = np.array(now.statistics["brightness"])
    noisy[0] += 16 * 0.2  # one odd prompt moves the mean by 40 %
    now = replace(now, statistics={**now.statistics, "brightness": noisy.tolist()})
    assert alarms(GuardsSection(), REWARD, BASE, now) == ()


def test_a_reward_that_rises_alone_alarms() -> None:
    assert raised(judge=0.1, second=-0.1, third=-0.1) == ["heldout"]
    assert raised(judge=0.1, second=-0.1, third=0.0) == []
    assert raised(judge=-0.1, second=-0.1, third=-0.1) == []
    assert raised(GuardsSection(heldout=False), judge=0.1, second=-0.1, third=-0.1) == []


def test_a_sum_is_watched_as_a_sum() -> None:
    reward = RewardSection(weights={"judge": 1.0, "second": 1.0}, heldout=("third",))
    now = evaluation(20, judge=0.2, second=-0.05, third=-0.1)
    (alarm,) = alarms(GuardsSection(), reward, BASE, now)
    assert "1 judge + 1 second rises while every held-out reward falls (third)" in alarm.sentence


def test_without_heldout_rewards_nothing_is_compared() -> None:
    lonely = RewardSection(name="judge")
    assert alarms(GuardsSection(), lonely, BASE, evaluation(20, judge=1.0)) == ()


def test_the_sentence_says_what_to_look_at() -> None:
    (alarm,) = alarms(GuardsSection(), REWARD, BASE, evaluation(40, brightness=-0.4))
    assert alarm.step == 40
    assert (
        "brightness of held-out images went from 0.498 at the base model to 0.098" in alarm.sentence
    )
    assert "guards.brightness = 0.25" in alarm.sentence


@pytest.mark.parametrize(
    "other",
    [
        {"seeds": ((5, 6, 7, 8),) * PROMPTS},
        {"prompts": tuple(f"other {row}" for row in range(PROMPTS))},
        {"denoising_steps": 8},
        {"guidance": 3.0},
        {"resolution_px": 128},
    ],
)
def test_evaluations_that_were_made_otherwise_are_not_compared(other: dict[str, Any]) -> None:
    base = replace(BASE, resolution_px=64)
    drifted = evaluation(20, brightness=-0.4, judge=0.1, second=-0.1, third=-0.1)
    assert alarms(GuardsSection(), REWARD, base, drifted)  # resolution not kept: the run's
    now = replace(drifted, **{"resolution_px": 64, **other})
    assert not pair(now, base)
    assert alarms(GuardsSection(), REWARD, base, now) == ()
    sums = RewardSection(weights={"judge": 1.0, "second": 1.0}).sum
    for compare in (mean_gain, trained_gain):
        with pytest.raises(ValueError, match="they do not pair"):
            compare(now, base, sums)


def test_of_a_single_prompt_nothing_is_said() -> None:
    def alone(whole: Evaluation) -> Evaluation:
        rewards = {name: values[:1] for name, values in whole.rewards.items()}
        return replace(
            whole,
            prompts=whole.prompts[:1],
            seeds=whole.seeds[:1],
            rewards=rewards,
            means={name: prompt_interval(np.array(each)) for name, each in rewards.items()},
            statistics={name: values[:1] for name, values in whole.statistics.items()},
            diversity=whole.diversity[:1],
        )

    now = evaluation(20, brightness=-0.4, judge=0.1, second=-0.1, third=-0.1)
    assert alarms(GuardsSection(), REWARD, BASE, now)
    assert alarms(GuardsSection(), REWARD, alone(BASE), alone(now)) == ()


def test_a_prompts_single_image_has_no_diversity() -> None:
    single = replace(BASE, seeds=tuple(group[:1] for group in BASE.seeds))
    assert "diversity" in measured(BASE)
    assert "diversity" not in measured(single)  # whatever results of before that kept


def test_the_gain_of_a_sum_is_the_mean_of_its_prompts() -> None:
    reward = RewardSection(weights={"judge": 1.0, "second": 1.0}).sum
    better = evaluation(20, judge=0.1)
    assert mean_gain(better, BASE, reward) == pytest.approx(trained_gain(better, BASE, reward).mean)

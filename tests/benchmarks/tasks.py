"""What the recipes are compared on: prompts, what is trained on, and what is reported besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat_server.rewards.definitions import RewardDefinitions, Success

if TYPE_CHECKING:
    from collections.abc import Mapping

PROMPTS = Path(__file__).parent / "prompts"
JUDGE = "demo_judge"
SUCCESS_AT_LEAST = 0.9
"""A real drawing of a prompt scores about 0.88 by the judge, one with a word wrong 0.12: from here on
the judge is as sure as of a real one. Runs do not remember it: after a change give another --folder."""


@dataclass(frozen=True)
class Task:
    """Settings of its runs, and the rewards that they need beyond the built-in ones."""

    stem: str
    """What its folder of runs and its files are called."""
    settings: Mapping[str, object]
    """section.key -> value, besides those of the hour's run (examples/demo_long.toml)."""
    rewards: RewardDefinitions = field(default_factory=dict)


TASKS: Mapping[str, Task] = {
    "hour": Task("recipes", {"reward.heldout": '["demo_judge_heldout"]'}),
    "rare": Task(
        "recipes_rare",
        {
            "prompts.train": PROMPTS / "rare_train.txt",
            "prompts.heldout": PROMPTS / "rare_heldout.txt",
            "reward.name": "demo_success",
            "reward.heldout": f'["{JUDGE}", "demo_judge_heldout"]',
            # A share of few successes is known from many images only.
            "evaluation.prompts": 56,
            "evaluation.seeds_per_prompt": 8,
        },
        {"demo_success": Success(kind="success", reward=JUDGE, at_least=SUCCESS_AT_LEAST)},
    ),
}
"""hour: thirty animals, by the judge's score. rare: pairs and counts of things, which the base model
seldom draws right, by whether the judge says yes."""

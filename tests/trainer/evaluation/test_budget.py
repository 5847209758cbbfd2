from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from heliostat.examples import example
from heliostat_trainer.display.progress import LineProgress
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.evaluation.budget import (
    DrawingPace,
    affordable_prompts,
    affords_another,
    allowed_s,
)
from heliostat_trainer.evaluation.results import Evaluation, pair, read_evaluations
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.run import build_trainer, open_run, run_trainer
from heliostat_trainer.settings.load import load_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_trainer.settings.config import TrainConfig
    from tests.trainer.fake_server import FakeServer

DEMO = load_config(example("demo.toml"))
HERE = DrawingPace(nfe_s=0.00385, score_s=0.0073)
"""Of the two cores of docs/measurements.md."""


def slower(times: float) -> DrawingPace:
    return DrawingPace(HERE.nfe_s * times, HERE.score_s * times)


@pytest.mark.parametrize("times", [0.1, 1.0, 2.0, 3.5, 10.0])
def test_the_demo_evaluates_in_less_than_a_quarter_of_its_training_time(times: float) -> None:
    assert DEMO.run.minutes is not None
    allowed = allowed_s(DEMO)
    assert allowed is not None
    prompts = affordable_prompts(DEMO.evaluation, allowed, slower(times))
    assert 2 * prompts * slower(times).prompt_s(DEMO.evaluation) < 60 * DEMO.run.minutes / 4
    assert (prompts == DEMO.evaluation.prompts) == (times <= 1)


def test_of_one_prompt_there_would_be_no_interval() -> None:
    assert affordable_prompts(DEMO.evaluation, 1e-3, HERE) == 2


def test_the_first_guess_is_near_what_was_measured() -> None:
    assert 50 < HERE.steps_in_time(DEMO) < 90  # docs/measurements.md: 60 steps of the demo
    unlimited = DEMO.model_copy(update={"run": DEMO.run.model_copy(update={"minutes": None})})
    assert HERE.steps_in_time(unlimited) == DEMO.run.steps


def evaluation(step: int, seconds: float) -> Evaluation:
    return Evaluation(
        step, PolicyName.EMA, 1.0, 20, (), (), {}, means={}, statistics={}, diversity=[],
        seconds=seconds,
    )  # fmt: skip


def test_an_evaluation_in_between_leaves_time_for_the_last() -> None:
    base = [evaluation(0, 10.0), evaluation(0, 20.0)]  # two guidance scales
    assert affords_another(70.0, base)
    assert not affords_another(69.0, base)
    assert not affords_another(79.0, [*base, evaluation(20, 10.0)])
    assert affords_another(1.0, [replace(each, seconds=0.0) for each in base])  # not kept


def complete(config: TrainConfig, server: FakeServer, *, resume: bool = False) -> str:
    console = Console(file=io.StringIO())
    with LineProgress(console) as progress:
        checkpoints = open_run(config, resume=resume)
        trainer = build_trainer(
            config,
            read_prompt_sets(config),
            server,
            checkpoints,
            progress,
            Interrupts(),
            resume=resume,
        )
        run_trainer(config, trainer)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_tight_budget_takes_fewer_prompts_and_always_the_same(
    configure: Callable[..., TrainConfig], server: FakeServer
) -> None:
    tight = ["--run.minutes", "10", "--evaluation.budget", "1e-6", "--evaluation.every", "1"]
    said = complete(configure("--run.steps", "1", *tight), server)
    assert "2 of 3 held-out prompts are evaluated" in said
    assert "a first guess for this machine: " in said
    assert "a step takes " in said
    config = configure("--run.steps", "3", *tight)
    said = complete(config, server, resume=True)
    assert "a first guess" not in said
    assert "step 2: not evaluated, to leave time for the last evaluation" in said
    evaluations = read_evaluations(config.run.path / "evaluation")
    assert [each.step for each in evaluations] == [0, 1, 3]  # none at 2: the time is spent
    base = evaluations[0]
    assert len(base.prompts) == len(base.rewards["warmth"]) == 2
    assert all(pair(each, base) for each in evaluations)
    assert all(each.seconds > 0 for each in evaluations)


def test_a_wide_budget_evaluates_all(
    configure: Callable[..., TrainConfig], server: FakeServer
) -> None:
    settings = ["--run.minutes", "10", "--evaluation.budget", "0.9", "--evaluation.every", "1"]
    config = configure("--run.steps", "2", *settings)
    assert "held-out prompts are evaluated" not in complete(config, server)
    evaluations = read_evaluations(config.run.path / "evaluation")
    assert [(each.step, len(each.prompts)) for each in evaluations] == [(0, 3), (1, 3), (2, 3)]


def test_a_budget_without_minutes_says_what_it_is_a_share_of(
    configure: Callable[..., TrainConfig],
) -> None:
    with pytest.raises(ConfigError, match=r"evaluation.budget = 0.2 is a share of run.minutes"):
        configure("--evaluation.budget", "0.2")

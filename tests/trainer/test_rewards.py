"""Several rewards as one: the formula, and runs that are trained on a sum."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from heliostat_trainer.display.progress import LineProgress
from heliostat_trainer.evaluation.results import read_evaluations
from heliostat_trainer.folder.metrics import read_metrics
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.report import write_report
from heliostat_trainer.rewards import Normalise, RewardSum
from heliostat_trainer.run import build_trainer, open_run, run_trainer
from tests.trainer.fake_server import FakeServer
from tests.trainer.test_loop import run, same

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from heliostat_trainer.settings.config import TrainConfig

SUM = ("--reward.weights", "{ warmth = 1.0, contrast = 0.5 }", "--reward.heldout", "[]")
TABLES = st.lists(
    st.tuples(st.floats(-100, 100, width=32), st.floats(-1, 1, width=32)), min_size=2, max_size=12
).map(np.array)


def weighted(configure: Callable[..., TrainConfig], *overrides: str) -> TrainConfig:
    """The tiny run with two rewards in place of its one."""
    toml = Path(configure.__closure__[0].cell_contents)  # type: ignore[index]
    toml.write_text(toml.read_text().replace('name = "warmth"\n', ""))
    return configure(*SUM, *overrides)


@given(TABLES)
def test_one_reward_is_itself_to_the_bit(values: NDArray[np.float64]) -> None:
    assert np.array_equal(RewardSum.single("x").combine(values[:, :1]), values[:, 0])


@given(TABLES, st.floats(0.5, 100), st.floats(-100, 100))
def test_a_rewards_unit_does_not_matter(
    values: NDArray[np.float64], scale: float, shift: float
) -> None:
    reward = RewardSum(("a", "b"), (1.0, 0.5), Normalise.GROUP_STD)
    values = values + np.linspace(0, 10, len(values))[:, None]  # contrast well above the floor
    moved = values * np.array([scale, 1.0]) + np.array([shift, 0.0])
    np.testing.assert_allclose(reward.combine(moved), reward.combine(values), atol=2e-3)


def test_the_sum_by_hand() -> None:
    values = np.array([[1.0, 5.0], [3.0, 5.0]])
    reward = RewardSum(("a", "b"), (2.0, 7.0), Normalise.GROUP_STD)
    np.testing.assert_allclose(reward.combine(values), [-2.0, 2.0], rtol=1e-3)  # b says nothing
    plain = RewardSum(("a", "b"), (2.0, -1.0), Normalise.NONE)
    assert plain.combine(values).tolist() == [-3.0, 1.0]


def test_gains_are_in_deviations_of_the_base_model() -> None:
    before = np.array([[[0.0, 10.0], [2.0, 30.0]]])
    after = before + np.array([1.0, -10.0])
    reward = RewardSum(("a", "b"), (1.0, 1.0), Normalise.GROUP_STD)
    np.testing.assert_allclose(reward.gain(after, before), [[0.0, 0.0]], atol=1e-3)
    reward = RewardSum(("a", "b"), (1.0, 1.0), Normalise.NONE)
    assert reward.gain(after, before).tolist() == [[-9.0, -9.0]]


@pytest.mark.parametrize("recipe", ["sol_rl", "naive_quant", "naive_scaling"])
@pytest.mark.slow
def test_a_run_on_two_rewards_shows_each_and_resumes_to_the_bit(
    configure: Callable[..., TrainConfig], server: FakeServer, checkpoint: Path, recipe: str
) -> None:
    settings = ("--recipe.name", recipe, "--run.name")
    config = weighted(configure, "--run.steps", "2", *settings, "whole")
    whole = run(config, server)
    run(configure(*SUM, "--run.steps", "1", *settings, "halves"), FakeServer(checkpoint))
    halves = configure(*SUM, "--run.steps", "2", *settings, "halves")
    assert same(whole, run(halves, FakeServer(checkpoint, reverse=True), resume=True))
    alone = configure("--reward.name", "warmth", "--run.steps", "2", *settings, "alone")
    assert not same(whole, run(alone, FakeServer(checkpoint)))
    for line in read_metrics(config.run.path / "metrics.jsonl"):
        assert line["rewards"].keys() == line["proxy_rewards"].keys() == {"warmth", "contrast"}
        assert line["kept_spread"] > 0
    for evaluation in read_evaluations(config.run.path / "evaluation"):
        assert evaluation.rewards.keys() == {"warmth", "contrast"}
    page = write_report(config.run.path).read_text()
    assert "trained on 1 warmth + 0.5 contrast" in page
    assert page.count("(trained on)") == 2


def test_progress_lines_show_each_reward(
    configure: Callable[..., TrainConfig], server: FakeServer
) -> None:
    config = weighted(configure, "--run.steps", "1")
    console = Console(file=io.StringIO(), width=400)
    progress = LineProgress(console)
    checkpoints = open_run(config, resume=False)
    trainer = build_trainer(
        config, read_prompt_sets(config), server, checkpoints, progress, Interrupts(), resume=False
    )
    run_trainer(config, trainer)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "rewards warmth " in text
    assert "(kept spread of the sum " in text

"""Runs that tune themselves, against an in-process server: what is decided, kept and repeated."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from heliostat_trainer.display.progress import LineProgress
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.folder.checkpoint import RunState
from heliostat_trainer.folder.layout import kept_steps, step_folder
from heliostat_trainer.folder.metrics import read_metrics
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.report import write_report
from heliostat_trainer.rollouts.handshake import check_decisions
from heliostat_trainer.run import build_trainer, open_run, run_trainer
from heliostat_trainer.tuner import ENOUGH, MOST_CANDIDATES, Tuner, bounds
from heliostat_trainer.tuning import Decision, Shape, paid
from heliostat_trainer.types import StepMetrics
from tests.trainer.fake_server import BATCH, FakeServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heliostat_trainer.settings.config import TrainConfig

    Configure = Callable[..., TrainConfig]

TUNED = ("--recipe.tune", "true", "--recipe.candidates", "16", "--run.steps", "7")
DEAR_S = 1000.0
"""Of exploring a group: all else is next to nothing beside it, however busy the machine is."""
DECIDED = 1 + ENOUGH
"""The first step warms up."""


def train(config: TrainConfig, server: FakeServer, *, resume: bool = False) -> str:
    shown = io.StringIO()
    progress = LineProgress(Console(file=shown, width=1000))
    trainer = build_trainer(
        config,
        read_prompt_sets(config),
        server,
        open_run(config, resume=resume),
        progress,
        Interrupts(),
        resume=resume,
    )
    run_trainer(config, trainer)
    return shown.getvalue()


def lora(config: TrainConfig) -> dict[str, torch.Tensor]:
    return load_file(config.run.path / "lora" / "adapter_model.safetensors")


def evaluations(line: dict[str, object]) -> int:
    """Of the transformer, in exploring."""
    explored, steps, after = (line[key] for key in ("explored", "explore_steps", "score_after"))
    return int(str(explored)) * int(str(after or steps))


@pytest.mark.parametrize("ahead", ["0", "1"])
@pytest.mark.slow
def test_a_run_whose_exploring_is_dear_explores_less_and_says_why(
    configure: Configure, server: FakeServer, ahead: str
) -> None:
    config = configure(*TUNED, "--recipe.explore_ahead", ahead)
    server.group_s = DEAR_S
    shown = train(config, server)
    lines = list(read_metrics(config.run.path / "metrics.jsonl"))
    decided = [line["step"] for line in lines if line["tuned"]]
    assert decided == [DECIDED]
    first = DECIDED + 1 + int(ahead)
    assert f"step {DECIDED}: from step {first} on: " in shown
    decided_on = str(lines[DECIDED - 1]["tuned"])
    assert decided_on in shown
    assert server.told[-1].tuned == decided_on
    decisions = [told.step.decision for told in server.told if told.step and told.step.decision]
    assert [decision.sentence for decision in decisions] == [decided_on]
    assert decided_on in write_report(config.run.path).read_text("utf-8")
    before, after = lines[first - 2], lines[first - 1]
    assert (before["prompts"], before["explored"], before["score_after"]) == (2, 32, None)
    assert evaluations(after) < evaluations(before)
    assert [evaluations(line) for line in lines[first:]] == [evaluations(after)] * (7 - first)


@pytest.mark.slow
def test_a_resumed_run_goes_by_the_decisions_that_were_made(
    configure: Configure, checkpoint: Path
) -> None:
    config = configure(*TUNED, "--checkpoint.every", "100", "--checkpoint.keep", "9")
    server = FakeServer(checkpoint)
    server.group_s = DEAR_S
    train(config, server)
    checkpoints = config.run.path / "checkpoints"
    assert DECIDED in kept_steps(checkpoints)  # though none was due
    whole, lines = lora(config), list(read_metrics(config.run.path / "metrics.jsonl"))
    for step in kept_steps(checkpoints):
        if step > DECIDED:
            shutil.rmtree(step_folder(checkpoints, step))
    shutil.rmtree(config.run.path / "lora")
    server = FakeServer(checkpoint)
    train(config, server, resume=True)
    resumed = lora(config)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    again = list(read_metrics(config.run.path / "metrics.jsonl"))
    for key in ("explored", "prompts", "keep_pairs", "score_after", "tuned", "reward_mean"):
        assert [line[key] for line in again] == [line[key] for line in lines]


def test_watched_groups_are_scored_after_each_step(
    configure: Configure, server: FakeServer
) -> None:
    config = configure(*TUNED, "--run.steps", "1", "--recipe.explore_steps", "3")
    train(config, server)
    (watched,) = {request.prompt for request in server.explored[2:-1]}
    early = [r.score_after for r in server.explored if r.prompt == watched and not r.return_latents]
    assert early == [None, 1, 2, None]


def test_without_tuning_a_run_is_as_it_was(configure: Configure, checkpoint: Path) -> None:
    config = configure("--run.steps", "2")
    train(config, FakeServer(checkpoint))
    lines = list(read_metrics(config.run.path / "metrics.jsonl"))
    assert [line["tuned"] for line in lines] == [None, None]


def test_what_server_and_objective_allow_bounds_the_shapes(
    configure: Configure, server: FakeServer
) -> None:
    config = configure("--objective.name", "dance_grpo", "--objective.subset_pairs", "2")
    limits = bounds(config, server.info(), 6)
    assert (limits.batch, limits.most_candidates, limits.most_prompts) == (
        BATCH,
        MOST_CANDIDATES,
        6,
    )
    assert min(limits.pairs) == 2


def test_a_decision_keeps_to_the_bounds_as_they_are_when_it_is_made(
    configure: Configure, server: FakeServer, trained: Callable[[int], Path]
) -> None:
    (line,) = read_metrics(trained(1) / "metrics.jsonl")
    step, config = StepMetrics(**line), configure(*TUNED)
    dear = dict.fromkeys(step.seconds, 0.0) | {"regenerate": 40.0, "optimise": 80.0}
    took = replace(step, seconds=dear, explore_images_per_s=1e4)

    def decided(queued: int | None) -> Shape:
        server.max_queued_images = None
        tuner = Tuner(config, lambda: bounds(config, server.info(), 6))
        for number in range(1, DECIDED):
            tuner.prepare(RunState(), number)
            assert tuner.decide(RunState(), replace(took, step=number)) is None
        server.max_queued_images = queued
        tuner.prepare(RunState(), DECIDED)
        decision = tuner.decide(RunState(), replace(took, step=DECIDED))
        assert decision is not None
        return decision.shape

    assert decided(None).candidates > 40
    assert decided(40).candidates <= 40


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (("--recipe.name", "diffusionnft"), "recipe.name = 'diffusionnft' does not explore"),
        (("--recipe.name", "naive_quant"), "recipe.name = 'naive_quant' does not explore"),
        (("--watch.max_explore_steps", "3"), "leave watch.max_explore_steps out"),
        (("--recipe.selection", "random"), "set recipe.selection to best_worst"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    configure: Configure, settings: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        configure("--recipe.tune", "true", *settings)


def test_a_server_that_cannot_score_early_is_refused(
    configure: Configure, server: FakeServer
) -> None:
    server.scores_early = False
    with pytest.raises(ConfigError, match=r"recipe\.tune = true, but the server"):
        train(configure(*TUNED), server)


def test_prices_are_of_what_a_step_took_whatever_was_skipped(
    finished: Callable[..., TrainConfig],
) -> None:
    (line,) = read_metrics(finished(1).run.path / "metrics.jsonl")
    step = StepMetrics(**line)
    shape = Shape(prompts=2, candidates=8, keep_pairs=2, score_after=2)
    seconds = dict.fromkeys(step.seconds, 0.0) | {"regenerate": 4.0, "optimise": 8.0, "score": 1.6}
    for skipped in (0, 1):
        took = replace(step, seconds=seconds, explore_images_per_s=10.0, skipped_groups=skipped)
        prices = paid([took], shape)
        assert prices.look < 0.1  # though a kept sample's reward took 0.2 s
        assert prices.step(shape, beside=False) == pytest.approx(4 + 8 + 1.6 + 16 / 10)


@pytest.mark.parametrize("skipped", [0, 1])
def test_a_kept_sample_is_priced_with_all_steps_that_train_on_it(
    finished: Callable[..., TrainConfig], skipped: int
) -> None:
    (line,) = read_metrics(finished(1).run.path / "metrics.jsonl")
    step, shape = StepMetrics(**line), Shape(prompts=2, candidates=8, keep_pairs=2, score_after=2)
    idle, own = dict.fromkeys(step.seconds, 0.0), 4 * (2 - skipped)
    steps = [
        replace(step, seconds=idle | {"optimise": 4.0 * (1 + steps)}, replayed=steps * own,
                skipped_groups=skipped, explore_images_per_s=None)
        for steps in (0, 1, 2, 2)
    ]  # fmt: skip
    for since in range(len(steps)):  # also while there is less to replay
        prices = paid(steps[since:], shape, replay=2)
        assert prices.step(shape, beside=False) == pytest.approx(3 * 4.0)


def test_a_server_that_does_not_draw_what_was_decided_is_told(
    configure: Configure, checkpoint: Path
) -> None:
    config = configure(*TUNED, "--recipe.candidates", "16", "--recipe.keep_pairs", "8")
    train(config, FakeServer(checkpoint))
    decided = check_of(config)
    with pytest.raises(ConfigError, match=r"tuned itself to \d+ candidates from step 6 on"):
        check_decisions(decided, 1, replace(FakeServer(checkpoint).info(), batch=97))
    check_decisions(decided, 1, FakeServer(checkpoint).info())


def test_only_shapes_that_are_still_to_come_have_to_be_drawn(server: FakeServer) -> None:
    info = replace(server.info(), batch=24)
    past, now = (Decision(step, Shape(2, pool, 1, 1), "") for step, pool in ((5, 36), (11, 48)))
    check_decisions([past, now], 11, info)
    for step in (1, 5, 10):
        with pytest.raises(ConfigError, match="to 36 candidates from step 5 on"):
            check_decisions([past, now], step, info)


def check_of(config: TrainConfig) -> tuple[Decision, ...]:
    """What the run has decided, by its newest checkpoint."""
    return open_run(config, resume=True).load(lambda _, __: None).decisions


def test_a_shape_reads_as_a_sentence() -> None:
    assert str(Shape(8, 24, 2, 4)) == ("8 prompts, 24 candidates scored after 4 steps, 2 + 2 kept")

"""Watching the explorer, against an in-process server: what is compared, and what follows."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from heliostat_trainer.display.progress import LineProgress
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.evaluation.showcase import read_showcase
from heliostat_trainer.exploring.fidelity import PUBLISHED
from heliostat_trainer.exploring.watch import Verdict, explore_steps, fidelity_of, watched_rows
from heliostat_trainer.folder.metrics import read_metrics
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.run import build_trainer, open_run, run_trainer
from heliostat_trainer.types import ExploreSteps, Samples
from tests.trainer.fake_server import FakeServer, make_group, with_rewards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from heliostat_trainer.loop import Trainer
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.types import Group, GroupRequest, PublishedAdapter

    Configure = Callable[..., TrainConfig]

LOW = replace(PUBLISHED, rho=0.5)


class ByTheSeed(FakeServer):
    """Explored rewards are noise: they follow from the seeds alone, whatever the images."""

    def explore(
        self, requests: Sequence[GroupRequest], adapter: PublishedAdapter
    ) -> Iterator[Group]:
        for group in super().explore(requests, adapter):
            yield with_rewards(group, self.rewards(group))

    def rewards(self, group: Group) -> list[float]:
        return [float(np.random.default_rng(seed).random()) for seed in group.request.seeds]


class AsRedrawn(ByTheSeed):
    """Explores without any loss: candidates get the rewards that their redraws will get."""

    trainer: Trainer

    def rewards(self, group: Group) -> list[float]:
        request, artist = group.request, self.trainer.parts.artist
        conditioning = artist.prepare(self.encode([request.prompt]))
        rows = [0] * len(request.seeds)
        latents, _ = artist.rollout(request.seeds, conditioning, rows, 4)
        return [float(reward) for reward in latents[:, 0].flatten(1).mean(dim=1)]


def build(
    config: TrainConfig, server: FakeServer, *, resume: bool = False
) -> tuple[Trainer, io.StringIO]:
    shown = io.StringIO()
    trainer = build_trainer(
        config,
        read_prompt_sets(config),
        server,
        open_run(config, resume=resume),
        LineProgress(Console(file=shown)),
        Interrupts(),
        resume=resume,
    )
    return trainer, shown


def lines(config: TrainConfig) -> list[dict[str, object]]:
    return list(read_metrics(config.run.path / "metrics.jsonl"))


def lora(config: TrainConfig) -> dict[str, torch.Tensor]:
    return load_file(config.run.path / "lora" / "adapter_model.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_exploration_that_equals_the_redraw_is_perfect_and_not_warned_of(
    configure: Configure, checkpoint: Path
) -> None:
    # In turns, so that the explorer has the policy that redraws.
    watch = ("--watch.every", "2", "--watch.groups", "2", "--watch.max_explore_steps", "4")
    config = configure("--recipe.explore_ahead", "0", *watch)
    server = AsRedrawn(checkpoint)
    server.trainer, shown = build(config, server)
    run_trainer(config, server.trainer)
    figures = [line["fidelity"] for line in lines(config)]
    assert figures[1] is None
    for figure in (figures[0], figures[2]):
        assert figure["rho"] == pytest.approx(1.0)
        assert figure["tau_b"] == pytest.approx(1.0)
        assert figure["overlap"] == 1.0
        assert (figure["rank_of_best"], figure["rank_of_worst"]) == (1.5, 7.5)
    assert shown.getvalue().count("rho 1.000, tau-b 1.000") == 2
    assert "watch." not in shown.getvalue()
    assert server.trainer.state.raised_at == ()


def test_exploration_that_is_noise_is_warned_of_and_takes_more_steps(
    configure: Configure, checkpoint: Path
) -> None:
    watch = ("--watch.every", "1", "--watch.max_explore_steps", "3", "--watch.groups", "2")
    config = configure("--run.steps", "4", "--recipe.explore_ahead", "1", *watch)
    server = ByTheSeed(checkpoint)
    trainer, shown = build(config, server)
    run_trainer(config, trainer)
    assert trainer.state.raised_at == (3,)  # step 2 had been asked for when step 1 was watched
    assert [line["explore_steps"] for line in lines(config)] == [2, 2, 3, 3]
    asked = [request.steps for request in server.explored]
    assert asked == [2] * 4 + [3] * 4 + [3]  # two prompts a step, and the showcase
    said = shown.getvalue()
    assert "step 1: exploring in 2 steps ranks candidates otherwise than BF16 does: rho" in said
    assert "from step 3 on it takes 3, of at most watch.max_explore_steps = 3" in said
    assert "step 2: exploring" not in said  # explored before the raise took effect
    assert "set watch.max_explore_steps to 4 or above" in said


@pytest.mark.slow
def test_a_raised_number_of_steps_outlives_a_kill(
    configure: Configure, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("--run.steps", "5", "--recipe.explore_ahead", "2", "--optimiser.lr", "0.3")
    watch = ("--watch.every", "2", "--watch.max_explore_steps", "4")
    whole = configure(*settings, *watch)
    trainer, _ = build(whole, ByTheSeed(checkpoint))
    run_trainer(whole, trainer)
    killed = configure("--run.name", "killed", *settings, *watch)
    trainer, _ = build(killed, ByTheSeed(checkpoint))
    optimise = trainer._optimise

    def dies(*arguments):
        if trainer.state.step == 2:  # raised in step 1, in force from step 4 on
            raise KeyboardInterrupt  # nothing is saved on the way out
        return optimise(*arguments)

    monkeypatch.setattr(trainer, "_optimise", dies)
    with pytest.raises(KeyboardInterrupt):
        run_trainer(killed, trainer)
    trainer, _ = build(killed, ByTheSeed(checkpoint), resume=True)
    assert trainer.state.raised_at == (4,)
    run_trainer(killed, trainer)
    assert same(lora(whole), lora(killed))
    assert [line["explore_steps"] for line in lines(killed)] == [2, 2, 2, 3, 3]
    figures = [[line["fidelity"] for line in lines(config)] for config in (whole, killed)]
    assert figures[0] == figures[1]


def test_watching_changes_nothing_else(configure: Configure, checkpoint: Path) -> None:
    watched = configure("--watch.every", "1")
    alone = configure("--run.name", "alone", "--watch.every", "0")
    for config in (watched, alone):
        trainer, _ = build(config, ByTheSeed(checkpoint))
        run_trainer(config, trainer)
    assert same(lora(watched), lora(alone))
    assert all(line["fidelity"] and line["seconds"]["watch"] > 0 for line in lines(watched))
    assert not any(line["fidelity"] or line["seconds"]["watch"] for line in lines(alone))


def test_only_recipes_that_redraw_are_watched(configure: Configure) -> None:
    for name in ("diffusionnft", "naive_scaling", "naive_quant"):
        assert not watched_rows(configure("--recipe.name", name), 1, 2)
    assert len(watched_rows(configure(), 1, 2)) == 1
    every = configure("--watch.every", "1", "--run.seed", "7")
    assert {row for step in range(1, 20) for row in watched_rows(every, step, 2)} == {0, 1}


def test_the_server_has_to_take_as_many_steps(configure: Configure, server: FakeServer) -> None:
    config = configure("--recipe.steps", "60", "--watch.max_explore_steps", "60")
    with pytest.raises(ConfigError, match=r"watch.max_explore_steps = 60, but the server .* 50"):
        build(config, server)


def test_groups_without_a_true_ranking_are_left_out() -> None:
    def redrawn(rewards: list[float]) -> Samples:
        return Samples(0, "a prompt", (0, 1, 2, 3), torch.zeros(4), np.array(rewards))

    group = make_group([1, 2, 3, 4])
    assert fidelity_of([group], [redrawn([5.0] * 4)], 1) is None
    fidelity = fidelity_of([group, group], [redrawn([5.0] * 4), redrawn([1.0, 2.0, 3.0, 4.0])], 1)
    assert fidelity is not None
    assert fidelity.rho == pytest.approx(1.0)


def test_figures_decide_one_step_at_a_time_up_to_the_bound(configure: Configure) -> None:
    config = configure("--watch.max_explore_steps", "4")  # of 2 explored and 4 redrawn
    assert config.recipe.depth == 1
    fine = Verdict(config, (), 21, PUBLISHED)
    assert (fine.too_low, fine.raise_at) == (False, None)
    raised: tuple[int, ...] = ()
    for step, first in ((1, 3), (3, 5)):
        verdict = Verdict(config, raised, step, LOW)
        assert (verdict.too_low, verdict.raise_at) == (True, first)
        raised = (*raised, first)
        assert not Verdict(config, raised, step + 1, LOW).too_low  # asked for before the raise
    explored_in = [explore_steps(config.recipe, raised, step) for step in (2, 3, 4, 5)]
    assert explored_in == [ExploreSteps(steps) for steps in (2, 3, 3, 4)]
    last = Verdict(config, raised, 5, LOW)
    assert (last.too_low, last.raise_at) == (True, None)
    assert "set recipe.explore_ahead = 0" in last.warning


def test_steps_that_were_left_out_are_evaluated_before_there_are_more(configure: Configure) -> None:
    early = ("--recipe.explore_steps", "3", "--recipe.score_after", "1")
    config = configure(*early, "--watch.max_explore_steps", "4")
    raised_at = (2, 3, 4)
    explored_in = [explore_steps(config.recipe, raised_at, step) for step in (1, 2, 3, 4)]
    assert explored_in == [ExploreSteps(3, 1), ExploreSteps(3, 2), ExploreSteps(3), ExploreSteps(4)]
    assert [str(each) for each in explored_in] == ["1 of 3", "2 of 3", "3", "4"]
    first = Verdict(config, (), 1, LOW)
    assert first.raise_at == 3
    assert "exploring in 1 of 3 steps ranks" in first.warning
    assert "from step 3 on it takes 2 of 3, of at most watch.max_explore_steps = 4" in first.warning
    assert Verdict(config, (2, 3, 4), 5, LOW).raise_at is None
    within = configure(*early, "--watch.max_explore_steps", "3")
    assert Verdict(within, (3,), 3, LOW).raise_at == 5
    assert Verdict(within, (3, 5), 5, LOW).raise_at is None
    assert (
        "set watch.max_explore_steps to 3 or above"
        in Verdict(configure(*early), (), 1, LOW).warning
    )


def test_a_run_that_scores_early_trains_on_whole_redraws_and_may_evaluate_more(
    configure: Configure, checkpoint: Path
) -> None:
    early = ("--recipe.explore_steps", "3", "--recipe.score_after", "2")
    watch = ("--watch.every", "1", "--watch.max_explore_steps", "3", "--watch.groups", "2")
    config = configure(*early, *watch)
    server = ByTheSeed(checkpoint)
    trainer, _ = build(config, server)
    run_trainer(config, trainer)
    assert trainer.state.raised_at == (3,)
    assert [line["explore_steps"] for line in lines(config)] == [3, 3, 3]
    assert [line["score_after"] for line in lines(config)] == [2, 2, None]
    asked = [(request.steps, request.score_after) for request in server.explored]
    assert asked == [(3, 2)] * 4 + [(3, None)] * 2 + [(3, None)]
    shown = read_showcase(config.run.path / "showcase")
    assert shown is not None
    assert str(shown.explore_steps) == "3"


def test_scoring_after_all_steps_is_the_default(configure: Configure, checkpoint: Path) -> None:
    named = configure("--recipe.score_after", "2")  # of 2
    default = configure("--run.name", "default")
    for config in (named, default):
        server = FakeServer(checkpoint)
        server.scores_early = False
        trainer, _ = build(config, server)
        run_trainer(config, trainer)
    assert same(lora(named), lora(default))


def test_a_showcase_says_how_early_it_was_scored(configure: Configure, checkpoint: Path) -> None:
    config = configure("--recipe.score_after", "1", "--watch.every", "0")
    trainer, _ = build(config, FakeServer(checkpoint))
    run_trainer(config, trainer)
    shown = read_showcase(config.run.path / "showcase")
    assert shown is not None
    assert str(shown.explore_steps) == "1 of 2"


def test_with_nothing_left_to_raise_precision_is_named(configure: Configure) -> None:
    config = configure("--recipe.explore_steps", "4", "--recipe.explore_ahead", "0")
    warning = Verdict(config, (), 1, replace(PUBLISHED, tau_b=0.1)).warning
    assert "tau-b 0.100 (watch.min_tau_b = 0.69)" in warning
    assert "NVFP4 itself ranks this reward badly" in warning
    assert "\n" not in warning


def test_a_warning_names_the_decoder_that_was_explored_with(configure: Configure) -> None:
    tiny = ("--recipe.explore_decoder", "tiny", "--watch.max_explore_steps", "3")
    config = configure(*tiny)
    first = Verdict(config, (), 1, LOW).warning
    assert "exploring in 2 steps with the tiny decoder ranks candidates otherwise" in first
    assert first.endswith("of at most watch.max_explore_steps = 3")
    last = Verdict(config, (3,), 3, LOW).warning
    assert last.endswith(", or begin another run with recipe.explore_decoder = 'full'")
    assert "decoder" not in Verdict(configure(*tiny[2:]), (3,), 3, LOW).warning

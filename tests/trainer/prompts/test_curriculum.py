"""Flat groups are skipped, their prompts rest, and a resumed run does the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from heliostat_trainer.folder.metrics import read_metrics
from heliostat_trainer.prompts.curriculum import (
    Sighting,
    Spread,
    draw_prompts,
    flats,
    known_spreads,
    spreads,
)
from heliostat_trainer.prompts.sources import step_prompts
from heliostat_trainer.report import write_report
from heliostat_trainer.rewards import Normalise, RewardSum
from heliostat_trainer.tuning import in_force
from heliostat_trainer.types import Group, GroupRequest
from tests.trainer.conftest import PROMPTS
from tests.trainer.fake_server import FakeServer
from tests.trainer.test_loop import run, same

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_trainer.settings.config import TrainConfig

DULL = PROMPTS[:2]


class DullServer(FakeServer):
    """Some prompts' candidates are all rewarded alike."""

    def explore(self, requests, adapter):
        for group in super().explore(requests, adapter):
            if group.request.prompt in DULL:
                parts = np.full_like(group.parts, 0.5)
                group = type(group).rewarded(group.request, parts, group.latents, 1.0)
            yield group


def explored(row: int, prompt: str, deviation: float) -> Group:
    """A group whose rewards have that deviation."""
    request = GroupRequest(row, prompt, (1, 2), 2, RewardSum.single("warmth"))
    return Group.rewarded(request, np.array([[0.5 - deviation], [0.5 + deviation]]))


CURRICULUM = ("--prompts.min_spread", "1e-4", "--prompts.flat_after", "1")


def test_counts_are_of_flats_in_a_row_until_a_step() -> None:
    seen = [
        Sighting(1, "a", True),
        Sighting(2, "b", True),
        Sighting(3, "a", True),
        Sighting(4, "a", False),
        Sighting(5, "a", True),
    ]
    assert flats(seen, 0) == {}
    assert flats(seen, 3) == {"a": 2, "b": 1}
    assert flats(seen, 4) == {"b": 1}
    assert flats(seen, 9) == {"a": 1, "b": 1}


def drawn_in(
    config: TrainConfig, counts: dict[str, int], step: int, known: dict[str, float] | None = None
) -> tuple[str, ...]:
    return draw_prompts(config, PROMPTS, counts, step, in_force(config, (), step), known)


def test_flat_prompts_are_drawn_less_often_and_the_others_in_their_place(
    configure: Callable[..., TrainConfig],
) -> None:
    config = configure("--prompts.flat_after", "2")
    steps = range(1, 601)

    def share(counts: dict[str, int]) -> float:
        drawn = [drawn_in(config, counts, step) for step in steps]
        assert all(len(set(prompts)) == 2 for prompts in drawn)
        assert drawn == [drawn_in(config, counts, step) for step in steps]
        return sum("two owls" in prompts for prompts in drawn) / len(steps)

    assert share({}) == share({"two owls": 1}) == pytest.approx(1 / 3, abs=0.01)
    assert share({"two owls": 2}) == pytest.approx(1 / 6, abs=0.04)
    assert share({"two owls": 4}) == pytest.approx(1 / 24, abs=0.03)
    everything = dict.fromkeys(PROMPTS, 9)
    drawn = [drawn_in(config, everything, step) for step in (1, 2, 3)]
    assert drawn == [step_prompts(PROMPTS, 2, 42, step) for step in (1, 2, 3)]


def test_the_spread_of_several_rewards_is_in_their_own_units() -> None:
    reward = RewardSum(("a", "b"), (1.0, -0.5), Normalise.GROUP_STD)
    assert reward.spread(np.array([[0.0, 4.0], [2.0, 4.0]])) == 1.0
    assert reward.spread(np.array([[0.0, 0.0], [2.0, 8.0]])) == 1.0 + 0.5 * 4.0


@pytest.mark.parametrize("ahead", ["0", "1"])
@pytest.mark.slow
def test_flat_groups_are_skipped_and_a_resumed_run_does_the_same(
    configure: Callable[..., TrainConfig], checkpoint: Path, ahead: str
) -> None:
    settings = (*CURRICULUM, "--recipe.explore_ahead", ahead, "--run.name")
    config = configure(*settings, "whole", "--run.steps", "7")
    server = DullServer(checkpoint)
    whole = run(config, server)
    lines = list(read_metrics(config.run.path / "metrics.jsonl"))
    skipped = [int(str(line["skipped_groups"])) for line in lines]
    assert max(skipped) == 1  # never all
    assert lines[-1]["resting_prompts"] == 2
    asked = [request.prompt for request in server.explored]
    dull = sum(asked.count(prompt) for prompt in DULL)
    plain = [prompt for step in range(1, 8) for prompt in step_prompts(PROMPTS, 2, 42, step)]
    assert dull < sum(plain.count(prompt) for prompt in DULL)
    run(configure(*settings, "halves", "--run.steps", "4"), DullServer(checkpoint))
    halves = configure(*settings, "halves", "--run.steps", "7")
    assert same(whole, run(halves, DullServer(checkpoint, reverse=True), resume=True))
    page = write_report(config.run.path).read_text()
    assert f"{sum(skipped)} groups differed in reward by less than" in page


def test_a_step_of_nothing_but_flat_groups_trains_on_one(
    configure: Callable[..., TrainConfig], server: FakeServer
) -> None:
    config = configure("--prompts.min_spread", "1e9", "--run.steps", "2")
    lora = run(config, server)
    assert all(torch.isfinite(value).all() for value in lora.values())
    lines = list(read_metrics(config.run.path / "metrics.jsonl"))
    assert [line["skipped_groups"] for line in lines] == [1, 1]
    assert server.scored == 2 * 4 + 2 * 6 + 2 * 8 + 8  # redrawn, evaluated, showcase, watched


def test_no_spread_is_asked_for_by_default(
    configure: Callable[..., TrainConfig], checkpoint: Path
) -> None:
    config = configure("--run.steps", "1")
    run(config, DullServer(checkpoint))
    (line,) = read_metrics(config.run.path / "metrics.jsonl")
    assert (line["skipped_groups"], line["resting_prompts"]) == (0, 0)


@pytest.mark.slow
def test_our_own_recipe_redraws_nothing_of_prompts_whose_candidates_all_fail(
    configure: Callable[..., TrainConfig], checkpoint: Path
) -> None:
    own = ("--recipe.name", "heliostat", "--recipe.tune", "false", "--prompts.per_step", "3")
    redrawn = []
    for name, settings in (("as it is", ()), ("redrawing all", ("--prompts.min_spread", "0"))):
        server = DullServer(checkpoint)
        config = configure(
            *own, *settings, "--run.name", name.replace(" ", "-"), "--run.steps", "2"
        )
        run(config, server)
        lines = list(read_metrics(config.run.path / "metrics.jsonl"))
        assert len(lines) == 2
        dull = sum(request.prompt in DULL for request in server.explored)
        skipped = sum(int(str(line["skipped_groups"])) for line in lines)
        assert dull == 2
        assert skipped == (0 if settings else dull)
        redrawn.append(server.scored)
    assert redrawn[1] - redrawn[0] == 2 * 4  # two groups of four kept


def test_prompts_are_drawn_in_proportion_to_their_spread_and_none_starves(
    configure: Callable[..., TrainConfig],
) -> None:
    config = configure("--prompts.by_spread", "0.6", "--prompts.per_step", "1")
    known = dict(zip(PROMPTS, (0.0, 1.0, 2.0, 3.0, 4.0), strict=False))  # the last one is not seen
    drawn = [drawn_in(config, {}, step, known)[0] for step in range(1, 4001)]
    assert drawn == [drawn_in(config, {}, step, known)[0] for step in range(1, 4001)]
    for prompt, weight in zip(PROMPTS, (0.0, 1.0, 2.0, 3.0, 4.0, 2.0), strict=True):
        expected = 0.4 / 6 + 0.6 * weight / 12
        assert drawn.count(prompt) / 4000 == pytest.approx(expected, abs=0.025)
    before = [drawn_in(config, {}, step) for step in (1, 2)]
    assert before == [drawn_in(config, {}, step, {}) for step in (1, 2)]


def test_no_prompt_is_twice_in_a_step_whatever_the_spreads(
    configure: Callable[..., TrainConfig],
) -> None:
    config = configure("--prompts.by_spread", "0.9", "--prompts.per_step", "5")
    for known in ({}, dict.fromkeys(PROMPTS, 0.0), dict.fromkeys(PROMPTS, 0.0) | {"two owls": 1.0}):
        for step in range(1, 101):
            assert len(set(drawn_in(config, {}, step, known))) == 5


def test_prompts_that_rest_are_not_drawn_for_their_spread(
    configure: Callable[..., TrainConfig],
) -> None:
    config = configure("--prompts.by_spread", "0.9", "--prompts.per_step", "1")
    known = dict.fromkeys(PROMPTS, 1e-6) | {"two owls": 1.0}

    def share(counts: dict[str, int]) -> float:
        drawn = [drawn_in(config, counts, step, known)[0] for step in range(1, 201)]
        return drawn.count("two owls") / len(drawn)

    assert share({}) > 0.8
    assert share({"two owls": 2}) < 0.1


def test_without_it_spreads_change_no_draw_and_are_not_kept(
    configure: Callable[..., TrainConfig],
) -> None:
    config = configure()
    for step in range(1, 31):
        drawn = drawn_in(config, {}, step, dict.fromkeys(PROMPTS, 1.0))
        assert drawn == step_prompts(PROMPTS, 2, 42, step)
    assert spreads(config, (), [explored(0, "a", 1.0)], 1, 0) == ()


def test_spreads_are_smoothed_and_kept_as_far_back_as_draws_look(
    configure: Callable[..., TrainConfig],
) -> None:
    config = configure("--prompts.by_spread", "0.5")
    seen: tuple[Spread, ...] = ()
    for step, deviation in enumerate((1.0, 3.0, 0.0, 2.0), start=1):
        groups = [explored(1, "a", deviation), explored(0, f"only in {step}", 1.0)]
        seen = spreads(config, seen, groups, step, until=max(0, step - 2))
    assert known_spreads(seen, 4) == {"a": 1.5} | {f"only in {step}": 1.0 for step in (1, 2, 3, 4)}
    assert known_spreads(seen, 2) == {"a": 2.0, "only in 1": 1.0, "only in 2": 1.0}
    assert [each.step for each in seen if each.prompt == "a"] == [2, 3, 4]


@pytest.mark.parametrize("ahead", ["0", "2"])
@pytest.mark.slow
def test_a_run_drawn_by_spread_resumes_identically(
    configure: Callable[..., TrainConfig], checkpoint: Path, ahead: str
) -> None:
    settings = ("--prompts.by_spread", "0.9", "--recipe.explore_ahead", ahead, "--run.name")
    server = DullServer(checkpoint)
    whole = run(configure(*settings, "whole", "--run.steps", "7"), server)
    run(configure(*settings, "halves", "--run.steps", "4"), DullServer(checkpoint))
    halves = configure(*settings, "halves", "--run.steps", "7")
    assert same(whole, run(halves, DullServer(checkpoint, reverse=True), resume=True))
    plain = DullServer(checkpoint)
    run(configure("--run.name", "plain", "--run.steps", "7"), plain)
    assert [r.prompt for r in server.explored] != [r.prompt for r in plain.explored]

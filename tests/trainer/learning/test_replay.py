"""Samples of earlier steps are trained on again, and a resumed run does the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heliostat_trainer.errors import ConfigError, RunFolderError
from heliostat_trainer.folder.metrics import read_metrics
from heliostat_trainer.folder.packing import packed, unpacked
from heliostat_trainer.learning.advantages import advantages_of
from heliostat_trainer.learning.replay import remembered, replayed
from heliostat_trainer.learning.rows import Schedule, lay_out
from heliostat_trainer.run import open_run
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.objectives import (
    AwmSettings,
    DiffusionDpoSettings,
    DiffusionNftSettings,
    Levels,
)
from tests.trainer.fake_server import FakeServer
from tests.trainer.learning.test_rows import CPU, whole
from tests.trainer.objectives.test_objectives import LEVELS, drawn, group
from tests.trainer.test_loop import run, same

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heliostat_trainer.settings.objectives import AnyObjective

    Configure = Callable[..., TrainConfig]

GROUPS = st.lists(
    st.lists(st.floats(-10, 10), min_size=2, max_size=4), min_size=1, max_size=3
)  # rewards of each prompt's samples


def settings(replay: int, objective: AnyObjective) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "run": {"name": "tiny"},
            "prompts": {"train": "train.txt"},
            "reward": {"name": "warmth"},
            "recipe": {"replay": replay},
            "objective": objective,
        }
    )


@given(st.integers(0, 3), st.lists(GROUPS, min_size=1, max_size=6), st.booleans())
def test_the_latest_steps_are_kept_as_they_were(replay, steps, diverse: bool) -> None:
    config = settings(replay, DiffusionNftSettings(diversity_weight=float(diverse)))
    kept, told = {}, {}
    for step, rewards in enumerate(steps, start=1):
        groups = [group(row, values) for row, values in enumerate(rewards)]
        kept = remembered(config, kept, step, groups[::-1])
        told[step] = groups
        assert list(kept) == list(range(max(1, step + 1 - replay), step + 1))
        again = replayed(kept, first_row=7)
        assert [each.row for each in again] == list(range(7, 7 + len(again)))
        before = [each for at in kept for each in told[at]]
        for was, now in zip(before, again, strict=True):
            assert (was.prompt, was.seeds) == (now.prompt, now.seeds)
            assert torch.equal(was.latents, now.latents)
            assert np.array_equal(was.rewards, now.rewards)
        values = [advantages_of(config.objective, told[at]) for at in kept]
        assert [value for each in again for value in each.advantages.tolist()] == [
            value for each in values for value in each.tolist()
        ]


@pytest.mark.parametrize("kind", [DiffusionNftSettings, AwmSettings, DiffusionDpoSettings])
@pytest.mark.parametrize("levels", Levels)
@pytest.mark.parametrize("share", [False, True])
def test_own_rows_stay_and_replayed_ones_have_new_noise_and_their_old_advantages(
    kind, levels, share
) -> None:
    objective = kind(levels=levels, share_noise=share, timestep_fraction=0.5)
    own = [group(0, [0.5, 0.9, 0.1, 0.2]), group(1, [3.0, 1.0, 2.0, 5.0])]
    old = [group(0, [9.0, 1.0]), group(1, [2.0, 2.0])]
    again = replayed(remembered(settings(1, objective), {}, 1, old), first_row=2)

    def rows(step: int, groups):
        return whole(lay_out(objective, Schedule(42, step, LEVELS), groups, CPU))

    first, alone, both = rows(1, old), rows(2, own), rows(2, [*own, *again])
    count = len(alone.sigma)
    for name in ("latents", "sigma", "advantages", "clean", "noise"):
        assert torch.equal(getattr(both, name)[:count], getattr(alone, name))
    assert torch.equal(both.clean[count:], first.clean)
    assert torch.equal(both.advantages[count:], first.advantages)
    assert not torch.isin(both.noise[count:], torch.cat([first.noise, alone.noise])).any()


def test_what_is_packed_comes_back() -> None:
    config = settings(1, DiffusionNftSettings())
    (weighed,) = remembered(config, {}, 1, [group(0, [0.5, 0.9])])[1]
    groups = [weighed, drawn(3, [0.1, 0.2, 0.3], 0)]
    words, tensors = packed(groups)
    for was, now in zip(groups, unpacked(json.loads(json.dumps(words)), tensors), strict=True):
        assert (was.row, was.prompt, was.seeds) == (now.row, now.prompt, now.seeds)
        assert torch.equal(was.latents, now.latents)
        assert np.array_equal(was.rewards, now.rewards)
        assert (was.advantages is None) == (now.advantages is None)
        assert (was.trajectory is None) == (now.trajectory is None)
    assert np.array_equal(unpacked(words, tensors)[0].advantages, weighed.advantages)


@pytest.mark.parametrize("objective", ["diffusion_nft", "diffusion_dpo"])
@pytest.mark.slow
def test_a_run_that_replays_resumes_to_the_bit(
    configure: Configure, server: FakeServer, checkpoint: Path, objective: str
) -> None:
    plain = ("--objective.name", objective, "--run.steps")
    replays = ("--recipe.replay", "2", *plain)
    config = configure(*replays, "4")
    uninterrupted = run(config, server)
    run(configure("--run.name", "halves", *replays, "3"), FakeServer(checkpoint))
    halves = configure("--run.name", "halves", *replays, "4")
    resumed = run(halves, FakeServer(checkpoint, reverse=True), resume=True)
    assert same(uninterrupted, resumed)
    other = configure("--run.name", "plain", *plain, "2")
    run(other, FakeServer(checkpoint))
    lines, again, without = (
        list(read_metrics(each.run.path / "metrics.jsonl")) for each in (config, halves, other)
    )
    assert [line["replayed"] for line in lines] == [0, 8, 16, 16]
    assert [line["loss"] for line in again] == [line["loss"] for line in lines]
    assert lines[0]["loss"] == without[0]["loss"]  # there is nothing to replay yet
    assert lines[1]["reward_mean"] == without[1]["reward_mean"]
    assert lines[1]["loss"] != without[1]["loss"]
    assert [line["replayed"] for line in without] == [0, 0]
    assert not list(other.run.path.rglob("replay-*"))
    files = {path.name for path in (config.run.path / "checkpoints" / "step-000004").iterdir()}
    assert {name for name in files if name.startswith("replay-")} == {
        f"replay-00000{step}.{kind}" for step in (3, 4) for kind in ("json", "safetensors")
    }


@pytest.mark.parametrize("name", ["dgpo", "flow_grpo", "flow_grpo_fast", "dance_grpo"])
def test_objectives_on_trajectories_or_whole_groups_replay_nothing(
    configure: Configure, name: str
) -> None:
    sentence = (
        rf"recipe\.replay = 1, but objective\.name = '{name}' .* diffusion_nft, awm, diffusion_dpo$"
    )
    with pytest.raises(ConfigError, match=sentence):
        configure("--recipe.replay", "1", "--objective.name", name)


@pytest.mark.slow
def test_what_is_lost_or_damaged_is_named(configure: Configure, server: FakeServer) -> None:
    config = configure("--recipe.replay", "1", "--run.steps", "1")
    run(config, server)
    tensors = config.run.path / "checkpoints" / "step-000001" / "replay-000001.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:50])
    checkpoints = open_run(config, resume=True)
    remedy = r"delete .*step-000001 to resume from the checkpoint before it$"
    with pytest.raises(
        RunFolderError, match=rf"replay-000001\.safetensors is damaged .*: {remedy}"
    ):
        checkpoints.load(lambda *_: None)
    tensors.with_suffix(".json").unlink()
    with pytest.raises(RunFolderError, match=rf"replay-000001\.json.*: {remedy}"):
        checkpoints.load(lambda *_: None)


@pytest.mark.slow
def test_a_checkpoint_of_before_has_nothing_to_replay(
    configure: Configure, finished: Configure, server: FakeServer
) -> None:
    config = finished(1, "before")
    path = config.run.path / "checkpoints" / "step-000001" / "state.json"
    content = json.loads(path.read_text())
    del content["settings"]["recipe.replay"]
    path.write_text(json.dumps(content))
    assert open_run(config, resume=True).load(lambda *_: None).replay == {}
    run(configure("--run.name", "before", "--run.steps", "2"), server, resume=True)

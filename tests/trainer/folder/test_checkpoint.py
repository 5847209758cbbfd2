from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from heliostat_engines.files.ownership import MARKER
from heliostat_trainer.errors import DivergedError, RunFolderError
from heliostat_trainer.folder.checkpoint import Checkpoints, RunState, improved
from heliostat_trainer.learning.optimiser import learned_tensors, restore_tensors
from heliostat_trainer.policy.policy import ADAPTERS
from heliostat_trainer.ranks.interrupts import Interrupts, StopRequestedError
from tests.trainer.policy.test_policy import make_policy, stir

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_trainer.policy.policy import Policy, PolicyName
    from heliostat_trainer.settings.config import TrainConfig


def load(checkpoints: Checkpoints, policy: Policy, optimiser: torch.optim.Optimizer) -> RunState:
    return checkpoints.load(lambda tensors, _: restore_tensors(tensors, policy, optimiser))


def optimiser_of(policy: Policy) -> torch.optim.AdamW:
    return torch.optim.AdamW(list(policy.trained.tensors.values()), lr=0.1)


def take_a_step(policy: Policy, optimiser: torch.optim.AdamW) -> None:
    for value in policy.trained.tensors.values():
        value.grad = torch.ones_like(value)
    optimiser.step()


@pytest.fixture
def checkpoints(configure: Callable[..., TrainConfig], tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", configure("--checkpoint.keep", "2"))


def test_everything_comes_back_to_the_bit(checkpoints: Checkpoints, checkpoint: Path) -> None:
    policy = make_policy(checkpoint)
    for name in ADAPTERS:
        stir(policy, name)
    optimiser = optimiser_of(policy)
    take_a_step(policy, optimiser)
    state = RunState(
        step=7, elapsed_s=1.5, metrics_bytes=99, best_step=5, best_reward=0.25, raised_at=(3, 6)
    )
    checkpoints.save(state, learned_tensors(policy, optimiser))
    other = make_policy(checkpoint, seed=9)
    restored = optimiser_of(other)
    assert load(checkpoints, other, restored) == state
    for each, optim in ((policy, optimiser), (other, restored)):
        take_a_step(each, optim)
    for name in ADAPTERS:
        for key, value in policy.weights[name].tensors.items():
            assert torch.equal(value, other.weights[name].tensors[key])


def test_a_checkpoint_of_before_runs_were_watched_can_be_resumed(
    checkpoints: Checkpoints, checkpoint: Path, tmp_path: Path
) -> None:
    policy = make_policy(checkpoint)
    checkpoints.save(
        RunState(step=3, raised_at=(2,)), learned_tensors(policy, optimiser_of(policy))
    )
    path = tmp_path / "checkpoints" / "step-000003" / "state.json"
    content = json.loads(path.read_text())
    del content["state"]["raised_at"]
    settings = content["settings"]
    content["settings"] = {k: v for k, v in settings.items() if not k.startswith("watch.")}
    path.write_text(json.dumps(content))
    assert load(checkpoints, policy, optimiser_of(policy)) == RunState(step=3)


def test_the_latest_few_and_the_best_are_kept(
    checkpoints: Checkpoints, checkpoint: Path, tmp_path: Path
) -> None:
    policy = make_policy(checkpoint)
    for step in range(1, 6):
        state = RunState(step=step, best_step=2 if step >= 2 else None)
        checkpoints.save(state, learned_tensors(policy, optimiser_of(policy)))
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-000002", "step-000004", "step-000005"]
    files = {path.name for path in (tmp_path / "checkpoints").glob("*/*")}
    assert files == {"state.json", "tensors.safetensors", MARKER}


def test_names_that_are_not_ours_are_ignored_and_left(
    checkpoints: Checkpoints, checkpoint: Path, tmp_path: Path
) -> None:
    policy, folder = make_policy(checkpoint), tmp_path / "checkpoints"
    checkpoints.save(RunState(step=1), learned_tensors(policy, optimiser_of(policy)))
    names = ("step-000001.bak", "step-best", "step-9", "step-0000009", "step-٠٠٠٠٠٩", "step-")
    for name in names:
        shutil.copytree(folder / "step-000001", folder / name)
    (folder / "step-000007").write_text("a file")
    (folder / "step-000001" / "explorer-mine.json").write_text("{}")
    assert checkpoints.latest() == 1
    for step in range(2, 6):
        checkpoints.save(RunState(step=step), learned_tensors(policy, optimiser_of(policy)))
    assert load(checkpoints, policy, optimiser_of(policy)).step == 5
    left = {path.name for path in folder.iterdir()}
    assert left == {*names, "step-000007", "step-000004", "step-000005"}


def test_a_checkpoint_that_holds_notes_is_not_deleted(
    checkpoints: Checkpoints, checkpoint: Path, tmp_path: Path
) -> None:
    policy, folder = make_policy(checkpoint), tmp_path / "checkpoints"
    checkpoints.save(RunState(step=1), learned_tensors(policy, optimiser_of(policy)))
    (folder / "step-000001" / "notes.txt").write_text("the good one")
    for step in range(2, 6):
        checkpoints.save(RunState(step=step), learned_tensors(policy, optimiser_of(policy)))
    assert {path.name for path in (folder / "step-000001").iterdir()} == {
        "notes.txt",
        "state.json",
        "tensors.safetensors",
        MARKER,
    }


def test_checkpoints_of_before_there_were_markers_are_ours(
    checkpoints: Checkpoints, checkpoint: Path, tmp_path: Path
) -> None:
    policy, folder = make_policy(checkpoint), tmp_path / "checkpoints"
    for step in range(1, 6):
        checkpoints.save(RunState(step=step), learned_tensors(policy, optimiser_of(policy)))
        (folder / f"step-{step:06d}" / MARKER).unlink()
    assert {path.name for path in folder.iterdir()} == {"step-000004", "step-000005"}


def test_a_full_disk_is_one_sentence_and_leaves_the_last_checkpoint(
    checkpoints: Checkpoints, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_policy(checkpoint)
    checkpoints.save(RunState(step=1), learned_tensors(policy, optimiser_of(policy)))

    def no_space(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", no_space)
        with pytest.raises(RunFolderError, match="the disk is full; free some space"):
            checkpoints.save(RunState(step=2), learned_tensors(policy, optimiser_of(policy)))
    assert load(checkpoints, policy, optimiser_of(policy)).step == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


def test_a_broken_checkpoint_is_named(
    checkpoints: Checkpoints, checkpoint: Path, tmp_path: Path
) -> None:
    policy = make_policy(checkpoint)
    checkpoints.save(RunState(step=3), learned_tensors(policy, optimiser_of(policy)))
    tensors = tmp_path / "checkpoints" / "step-000003" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    with pytest.raises(RunFolderError, match=r"step-000003.*: delete .*step-000003 to resume"):
        load(checkpoints, policy, optimiser_of(policy))


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_never_saved_nor_taken_over(
    checkpoints: Checkpoints, checkpoint: Path, tmp_path: Path, name: PolicyName, value: float
) -> None:
    policy = make_policy(checkpoint)
    checkpoints.save(RunState(step=3), learned_tensors(policy, optimiser_of(policy)))
    weights = next(iter(policy.weights[name].tensors.values()))
    weights.data[0, 0] = value
    with pytest.raises(DivergedError, match=f"step 4: the {name} policy is not saved"):
        checkpoints.save(RunState(step=4), learned_tensors(policy, optimiser_of(policy)))
    folder = tmp_path / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-000003"]
    path = folder / "step-000003" / "tensors.safetensors"
    tensors = load_file(path)
    tensors[next(key for key in tensors if key.startswith(f"{name}/"))][0, 0] = value
    save_file(tensors, path)
    with pytest.raises(RunFolderError, match=r"its weights are NaN or infinite.*: delete "):
        load(checkpoints, policy, optimiser_of(policy))


def test_the_best_is_the_highest_reward() -> None:
    state = improved(RunState(step=0), 0.5)
    assert (state.best_step, state.best_reward) == (0, 0.5)
    assert improved(RunState(step=5, best_step=0, best_reward=0.5), 0.5).best_step == 0
    assert improved(RunState(step=5, best_step=0, best_reward=0.5), 0.6).best_step == 5


def test_a_signal_stops_at_once_but_not_in_a_shield() -> None:
    interrupts = Interrupts()
    with interrupts.installed(), pytest.raises(StopRequestedError):
        os.kill(os.getpid(), signal.SIGTERM)
    done = []
    with interrupts.installed(), pytest.raises(StopRequestedError):  # noqa: PT012
        with interrupts.shielded():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
            done.append("the block")
        done.append("never")
    assert done == ["the block"]
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL

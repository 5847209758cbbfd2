"""Two trainers at once on one server end as each would alone, and cannot touch each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from heliostat_proto import control_pb2 as messages
from heliostat_trainer.folder.metrics import read_metrics
from tests.e2e.training import Run, assert_same, write_toml
from tests.server.checkpoints import random_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import ServerHarness

pytestmark = pytest.mark.slow
REWARDS = {"colour": "colourfulness", "small": "jpeg_compressibility"}


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory, demo_checkpoint: Path) -> Path:
    return write_toml(tmp_path_factory.mktemp("sharing"), demo_checkpoint)


def run_of(toml: Path, server: ServerHarness, name: str, reward: str) -> Run:
    overrides = ["--reward.name", reward, "--reward.heldout", "[]", "--run.steps", "2"]
    return Run(toml, server, name, *overrides)


def rewards_of(run: Run) -> list[tuple[Any, ...]]:
    """What each step explored, kept and reached."""
    ignored = {"seconds", "time", "images_per_s"}
    return [
        tuple(
            (key, value)
            for key, value in sorted(line.items())
            if "reward" in key and key not in ignored
        )
        for line in read_metrics(run.folder / "metrics.jsonl")
    ]


def test_two_trainers_at_once_end_as_each_alone(toml: Path, server: ServerHarness) -> None:
    alone = {name: run_of(toml, server, f"{name}-alone", REWARDS[name]) for name in REWARDS}
    for run in alone.values():
        run.complete()
    shared = {name: run_of(toml, server, f"{name}-shared", REWARDS[name]) for name in REWARDS}
    processes = [run.start() for run in shared.values()]
    for process in processes:
        assert process.wait(120) == 0, process.stdout and process.stdout.read()
    for name, run in alone.items():
        assert_same(shared[name].lora(), run.lora())
        assert rewards_of(shared[name]) == rewards_of(run)
        assert rewards_of(run)[0]
    assert rewards_of(alone["colour"]) != rewards_of(alone["small"])


def test_a_runs_own_token_opens_no_other_run(toml: Path, server: ServerHarness) -> None:
    runs = [run_of(toml, server, f"{name}-alone", REWARDS[name]) for name in REWARDS]
    mine = server.client((runs[0].folder / "token").read_text())
    assert mine.info("colour-alone").latest_version > 0
    files = random_adapter(mine.targets())
    for forbidden in (
        lambda: mine.info("small-alone"),
        lambda: mine.publish(files, "small-alone"),
        lambda: mine.ask("Pin", messages.VersionRequest(experiment="small-alone", version=1)),
    ):
        with pytest.raises(grpc.RpcError, match="not one of experiment 'small-alone'"):
            forbidden()
    mine.close()

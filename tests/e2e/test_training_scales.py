"""More servers or more ranks: the same LoRA, whatever befalls one of them."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from heliostat_proto import control_pb2 as messages
from heliostat_trainer.folder.metrics import read_metrics
from tests.e2e.conftest import BATCH, ServerHarness
from tests.e2e.training import Address, Run, assert_same, wait_for, write_toml
from tests.server.checkpoints import random_adapter

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
WITHIN = 2e-5
"""Of a LoRA weight after three steps: float32 sums in another order."""


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory, demo_checkpoint: Path) -> Path:
    path = write_toml(tmp_path_factory.mktemp("scaling"), demo_checkpoint)
    content = path.read_text().replace("per_step = 2", "per_step = 4")
    path.write_text(content.replace("run = {", "optimiser = { micro_batch = 8 }\nrun = {"))
    return path


@pytest.fixture(scope="module")
def alone(toml: Path, server: ServerHarness) -> dict[str, torch.Tensor]:
    """The LoRA of one process and one server."""
    run = Run(toml, server, "scale-alone")
    run.complete()
    return run.lora()


def test_what_one_replica_publishes_each_draws(
    server: ServerHarness, replica: ServerHarness
) -> None:
    admin = server.client()
    token = admin.open("everywhere")
    here, there = server.client(token), replica.client(token)
    for version, side in enumerate((here, there, here), start=1):
        files = random_adapter(side.targets(), seed=version)
        assert side.publish(files, "everywhere").version == version
    for version in (1, 2, 3):
        spec = {"experiment": "everywhere", "version": version}
        np.testing.assert_array_equal(
            here.rewards(range(BATCH), **spec), there.rewards(range(BATCH), **spec)
        )
    assert there.info("everywhere").latest_version == 3
    events = there.ask("ListEvents", messages.ListEventsRequest(experiment="everywhere")).events
    assert [event.what for event in events].count("published") == 3
    for client in (admin, here, there):
        client.close()


def test_a_replica_killed_in_a_step_changes_nothing(
    toml: Path, server: ServerHarness, replica: ServerHarness, alone: dict[str, torch.Tensor]
) -> None:
    both = Address((server.url, replica.url), server.admin_token)
    run = Run(toml, both, "scale-replicas")  # the last test of the replica
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(run.complete)
        wait_for(lambda: run.saved(1))
        replica.kill_all()
        output = training.result()
    assert_same(run.lora(), alone)
    assert f"{replica.url} is gone" in output
    assert f"{server.url} is gone" not in output


def test_ranks_train_as_one_process_does(
    toml: Path, server: ServerHarness, alone: dict[str, torch.Tensor]
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", "-m", "heliostat.cli", "train", str(toml)]
    done = subprocess.run(
        [*command, "--server", server.url, "--run.name", "scale-ranks", "--run.threads", "1"],
        env=os.environ | {"HELIOSTAT_TOKEN": server.admin_token},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = Run(toml, server, "scale-ranks")
    assert len(list(read_metrics(run.folder / "metrics.jsonl"))) == 3
    for key, value in run.lora().items():
        torch.testing.assert_close(value, alone[key], rtol=0, atol=WITHIN)

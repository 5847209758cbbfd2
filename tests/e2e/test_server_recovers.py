"""What dies is started again, at the same addresses, with the same adapters."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import psutil
import pytest

from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.triton.shared_memory import prefix_of
from tests.server.checkpoints import random_adapter
from tests.server.rollout_client import StreamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import ServerHarness
    from tests.server.rollout_client import RolloutClient

RECOVERY_S = 120


def retried(ask: Callable[[], np.ndarray]) -> np.ndarray:
    """As a trainer does: try again while the server recovers."""
    deadline = time.monotonic() + RECOVERY_S
    while True:
        try:
            return ask()
        except (grpc.RpcError, StreamError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def outliving(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that do not end by themselves."""
    _, alive = psutil.wait_procs(processes, timeout=10)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["score", "triton", "valkey"])
def test_a_killed_process_comes_back(server: ServerHarness, victim: str) -> None:
    experiment = f"killed-{victim}"
    before = server.record
    client = server.client()
    client.publish(random_adapter(client.targets()), experiment)

    def draw() -> np.ndarray:
        return client.rewards(range(8), experiment=experiment, version=1)

    expected = draw()
    killed = server.processes()[victim].pid
    # Models in the midst of work must not outlive a tritonserver that is killed.
    dying = server.processes()["triton"].children() if victim == "triton" else []
    client.start_explore(range(400), steps=20)
    server.kill(victim)
    assert not outliving(dying)
    wait_until(lambda: killed not in {each.pid for each in server.processes().values()})
    np.testing.assert_array_equal(retried(draw), expected)
    wait_until(lambda: is_serving(client))
    assert (server.record.control, server.record.rollout) == (before.control, before.rollout)
    client.close()


@pytest.mark.slow
def test_requests_in_flight_end_when_the_explorer_dies(server: ServerHarness) -> None:
    client = server.client()
    expected = client.rewards(range(4))
    stream = client.start_explore(range(400), steps=50)
    time.sleep(0.5)
    server.kill("explore")
    with pytest.raises(grpc.RpcError):
        list(stream)
    np.testing.assert_array_equal(retried(lambda: client.rewards(range(4))), expected)
    wait_until(lambda: is_serving(client))
    client.close()


@pytest.mark.slow
def test_a_killed_launcher_takes_all_along_and_a_new_one_keeps_the_adapters(
    server: ServerHarness,
) -> None:
    client = server.client()
    client.publish(random_adapter(client.targets()), "launcher")
    expected = client.rewards(range(4), experiment="launcher", version=1)
    before, processes = server.record, list(server.processes().values())
    client.start_explore(range(400), steps=20)
    time.sleep(1)
    server.kill("launcher")
    outlived = outliving(processes)
    client.close()
    server.stop()
    server.start()
    assert not outlived
    assert server.record.rollout == before.rollout
    assert regions_of(server) == len(server.processes()) - 3
    client = server.client()
    assert client.info("launcher").latest_version == 1
    again = client.rewards(range(4), experiment="launcher", version=1)
    np.testing.assert_array_equal(again, expected)
    client.close()


def test_a_second_server_on_the_folder_is_told_in_a_sentence(server: ServerHarness) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "heliostat_server", server.settings.model_dump_json()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 1
    (sentence,) = second.stderr.strip().splitlines()
    assert f"in use by process {server.record.launcher.pid} on " in sentence
    assert f"it answers at {server.record.control}" in sentence


def test_a_client_that_leaves_stops_its_rollout_alone(
    server: ServerHarness, client: RolloutClient
) -> None:
    leaving = server.client()
    stream = leaving.start_explore(range(2000), steps=200, experiment="leaver")
    time.sleep(0.5)
    stream.cancel()
    leaving.close()
    log = StateFolder(server.settings.state).triton_log
    wait_until(lambda: "cancelled by the client" in log.read_text())
    assert len(client.rewards(range(8))) == 8


def test_experiments_share_the_server(server: ServerHarness, client: RolloutClient) -> None:
    other = server.client()
    long = other.start_explore(range(400), steps=10, experiment="long")
    next(long)
    client.rewards(range(4), experiment="short")
    long.cancel()
    with pytest.raises(grpc.RpcError):
        list(long)  # It was cancelled, so 99 more batches were not drawn before the short one.
    other.close()


@pytest.mark.slow
def test_memory_stays_flat_over_many_publishes(
    server: ServerHarness, client: RolloutClient
) -> None:
    targets = client.targets()

    def publish(count: int, first_seed: int) -> int:
        for seed in range(first_seed, first_seed + count):
            answer = client.publish(random_adapter(targets, rank=8, seed=seed), "many")
            client.rewards(range(4), experiment="many", version=answer.version, steps=1)
        return sum(process.memory_info().rss for process in server.processes().values())

    warm = publish(15, first_seed=0)
    grown = publish(50, first_seed=100) - warm
    assert grown < 30 * 2**20


def wait_until(condition: Callable[[], bool], timeout_s: float = RECOVERY_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not _holds(condition):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_serving(client: RolloutClient) -> bool:
    try:
        client.info()
    except grpc.RpcError:
        return False
    return True


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except (psutil.NoSuchProcess, AssertionError):
        return False


def regions_of(server: ServerHarness) -> int:
    prefix = prefix_of(StateFolder(server.settings.state).digest)
    return len(list(Path("/dev/shm").glob(f"{prefix}*")))

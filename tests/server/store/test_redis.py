"""A store that takes nothing, and why: real ones, brought to it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from heliostat_engines.adapters import AdapterFiles
from heliostat_engines.runtimes.engine import EngineInfo
from heliostat_proto.rollout_pb2 import LoadReport
from heliostat_server.control.publisher import Publisher
from heliostat_server.errors import (
    RequestError,
    ServerStartError,
    StoreFullError,
    UnavailableError,
    code_of,
)
from heliostat_server.launcher.embedded_store import valkey_binary
from heliostat_server.processes.ports import free_ports
from heliostat_server.settings import LimitSettings
from heliostat_server.store.adapters import AdapterStore
from heliostat_server.store.description import ServerDescription
from heliostat_server.store.experiments import ExperimentStore
from heliostat_server.store.groups import KeptGroup, RedisGroups
from heliostat_server.store.redis import answered, connect, redis_problem
from heliostat_server.store.sheets import Sheets
from heliostat_server.store.usage import RedisUsage
from heliostat_wire.errors import Code
from tests.server.checkpoints import random_adapter
from tests.server.store.test_groups import group

Start = Callable[..., str]
MEGABYTE = 10**6


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a Valkey with options; answers its URL."""
    processes = []

    def run(*options: str) -> str:
        (port,) = free_ports(1)
        folder = tmp_path / "store"
        folder.mkdir()
        command = [valkey_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        processes.append(subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL))
        url = f"redis://127.0.0.1:{port}"
        deadline = time.monotonic() + 20
        while True:
            try:
                redis.Redis.from_url(url).ping()
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return url

    yield run
    for process in processes:
        process.kill()  # One that cannot save would not end by itself.
        process.wait()


@pytest.fixture
def full(start: Start) -> str:
    """A store with an experiment `e`, and no room for more."""
    url = start("--save", "")
    ExperimentStore.connect(url).create("e")
    client = redis.Redis.from_url(url)
    client.set("filler", bytes(3 * MEGABYTE))
    client.config_set("maxmemory", client.info("memory")["used_memory_startup"] + MEGABYTE)
    return url


def files(size: int) -> AdapterFiles:
    return AdapterFiles(b"{}", bytes(size))


class Loader:
    def load_adapter(self, sha256: str, timeout_s: float) -> LoadReport:  # noqa: ARG002
        return LoadReport(bound_modules=1, target_modules=1)


def describe(url: str) -> None:
    engine = EngineInfo(
        family="demo",
        checkpoint="c",
        runtime="torch",
        precision="bf16",
        nvfp4_linears=0,
        linears=1,
        lora_targets={"a": (1, 1)},
        max_rank=8,
        slots=8,
        resident_bytes=0,
    )
    ServerDescription(
        engine=engine, resolution_px=64, rewards=("r",), limits=LimitSettings(batch=24)
    ).write(url)


WRITES: dict[str, Callable[[str], object]] = {
    "stage": lambda url: AdapterStore.connect(url).stage(files(10)),
    "create": lambda url: ExperimentStore.connect(url).create("new"),
    "token": lambda url: ExperimentStore.connect(url).issue_token("e"),
    "change": lambda url: ExperimentStore.connect(url).change("e", {"weight": 2.0}),
    "group": lambda url: RedisGroups.connect(url).add(group()),
    "usage": lambda url: RedisUsage.connect(url).count("e", images=1, nfes=1, seconds=1.0),
    "queue": lambda url: RedisUsage.connect(url).queued({"e": 1}),
    "picture": lambda url: Sheets.connect(url).keep(KeptGroup("1-1", group()), b"picture"),
    "description": describe,
}


@pytest.mark.parametrize("write", WRITES)
def test_a_full_store_is_said_by_every_write(write: str, full: str) -> None:
    with pytest.raises(
        StoreFullError, match="the server's store is full: raise its maxmemory"
    ) as e:
        WRITES[write](full)
    assert code_of(e.value) is Code.UNAVAILABLE


def test_a_full_store_still_answers_and_forgets(full: str) -> None:
    experiments = ExperimentStore.connect(full)
    assert experiments.get("e").latest_version == 0
    experiments.note("e", "something")  # There is no room for it, and nobody is told.
    experiments.delete("e")
    assert not experiments.exists("e")


def test_what_does_not_fit_now_leaves_nothing_and_fits_once_there_is_room(start: Start) -> None:
    store = AdapterStore.connect(start("--save", "", "--maxmemory", "9mb"))
    ExperimentStore(store._redis).create("e")
    publisher = Publisher(store, Loader())
    large = random_adapter({"block": (25_000, 25_000)}, rank=16)
    assert 3 * MEGABYTE < len(large.tensors) < 4 * MEGABYTE
    assert publisher.publish("e", large).version == 1
    other = random_adapter({"block": (25_000, 25_000)}, rank=16, seed=1)
    before = store._redis.info("memory")["used_memory"]
    with pytest.raises(StoreFullError, match=r"is full: .* has 3\.2 MB, and an experiment keeps 3"):
        publisher.publish("e", other)
    assert store.latest("e") == 1
    assert store._redis.exists(f"heliostat:adapter:{other.sha256}") == 0
    assert abs(store._redis.info("memory")["used_memory"] - before) < MEGABYTE
    store._redis.config_set("maxmemory", "40mb")
    assert publisher.publish("e", other).version == 2


def test_what_the_store_could_never_hold_is_refused_for_good(start: Start) -> None:
    store = AdapterStore.connect(start("--save", "", "--maxmemory", "6mb"))
    with pytest.raises(RequestError, match=r"7\.0 MB, more than .* 6\.3 MB.*lower lora\.rank") as e:
        store.stage(files(7 * MEGABYTE))
    assert code_of(e.value) is Code.INVALID_ARGUMENT
    store._redis.config_set("maxmemory", "0")
    store.stage(files(7 * MEGABYTE))


def test_a_version_whose_record_does_not_fit_is_none(start: Start) -> None:
    store = AdapterStore.connect(start("--save", ""))
    ExperimentStore(store._redis).create("e")
    sha256 = store.stage(files(10))
    store._redis.config_set("maxmemory", "1")
    with pytest.raises(StoreFullError):
        store.commit("e", sha256)
    assert store.latest("e") == 0
    assert store._redis.ttl(f"heliostat:adapter:{sha256}") > 0


def test_a_replica_is_named(start: Start) -> None:
    url = start("--save", "", "--replicaof", f"127.0.0.1 {free_ports(1)[0]}")
    with pytest.raises(StoreFullError, match="takes nothing new: point --redis at the primary"):
        ExperimentStore.connect(url).create("new")


def test_a_disk_that_takes_nothing_is_named(start: Start, tmp_path: Path) -> None:
    url = start("--save", "1 1")
    experiments = ExperimentStore.connect(url)
    shutil.rmtree(tmp_path / "store")
    client = redis.Redis.from_url(url)
    deadline = time.monotonic() + 20
    client.set("a", 1)
    while client.info("persistence")["rdb_last_bgsave_status"] == "ok":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(StoreFullError, match="cannot write to its disk: make room there"):
        experiments.create("new")
    pipeline = client.pipeline(transaction=False)
    pipeline.get("a")
    pipeline.set("a", 1)
    with pytest.raises(StoreFullError, match="cannot write to its disk"):
        answered(pipeline.execute)


def test_other_refusals_are_faults(start: Start) -> None:
    client = redis.Redis.from_url(start("--save", ""))
    client.set("text", "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        answered(lambda: client.hget("text", "OOM"))


@pytest.fixture
def guarded_redis(tmp_path: Path) -> Iterator[int]:
    """The port of a Redis whose password is `right`."""
    (port,) = free_ports(1)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--requirepass", "right", "--save", ""]
    process = subprocess.Popen([valkey_binary(), *options], cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while redis_problem(f"redis://:right@127.0.0.1:{port}") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield port
    process.terminate()
    process.wait()


@pytest.mark.parametrize("credentials", ["", ":wrong@"])
def test_a_refused_password_is_no_reason_to_wait(guarded_redis: int, credentials: str) -> None:
    with pytest.raises(
        ServerStartError, match=r"refuses the password .*--redis-password-file"
    ) as e:
        redis_problem(f"redis://{credentials}127.0.0.1:{guarded_redis}")
    assert "wrong@" not in str(e.value)


def test_a_redis_that_is_away_is_one_to_wait_for() -> None:
    (port,) = free_ports(1)
    problem = redis_problem(f"redis://:secret@127.0.0.1:{port}/0")
    assert problem is not None
    assert f"redis://127.0.0.1:{port}/0 does not answer" in problem
    assert "secret" not in problem


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ServerStartError, match="--redis http://x"):
        redis_problem("http://x")


def test_a_redis_that_never_answers_is_not_waited_for_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        before = time.monotonic()
        with connect(url, 0.2) as client, pytest.raises(UnavailableError, match="does not answer"):
            answered(client.ping)
        assert time.monotonic() - before < 10

"""What scale.py has a server bear, and how each part of it is measured."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil

from heliostat_proto import control_pb2 as messages
from heliostat_server.scheduling.deficit_round_robin import QUANTUM_NFES
from heliostat_server.store.chunks import CHUNK_BYTES
from heliostat_server.store.groups import Group, RedisGroups
from heliostat_server.store.keys import ADAPTER, ADAPTER_USERS, ExperimentKeys
from heliostat_server.store.redis import connect
from tests.benchmarks.fairness import REWARD, Drawn
from tests.server.rollout_client import RolloutClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

    from playwright.sync_api import Page

    from heliostat_engines.adapters import AdapterFiles
    from tests.e2e.conftest import ServerHarness

GROUP_CANDIDATES = 24
GROUPS_A_VERSION = 8
PROMPTS = 40
PUBLISH_TIMEOUT_S = 600.0
WIRE_CHUNK_BYTES = 2**20
"""As a trainer sends an adapter."""
STORE_TIMEOUT_S = 60.0
LIST = "ListExperiments"
OF_ONE = "of one experiment"
MB = 1e6


# What is there before the load.


def record_groups(redis_url: str, experiments: Sequence[str], each: int) -> None:
    """Give every experiment so many groups: one its own, the others a copy of them in the store."""
    first, *others = experiments
    groups = RedisGroups.connect(redis_url)
    numbers = np.random.default_rng(0)
    for place in range(each):
        groups.add(
            Group(
                experiment=first,
                version=1 + place // GROUPS_A_VERSION,
                prompt=f"an animal of kind {place % PROMPTS} beside a house",
                steps=6,
                guidance=1.0,
                names=(REWARD,),
                seeds=tuple(numbers.integers(0, 2**32, GROUP_CANDIDATES).tolist()),
                rewards=numbers.normal(0.5, 0.1, (GROUP_CANDIDATES, 1)).astype(np.float32),
            )
        )
    with connect(redis_url, STORE_TIMEOUT_S) as store:
        for name in others:
            store.copy(ExperimentKeys(first).groups, ExperimentKeys(name).groups)


# What goes on at once.


class Background:
    """Threads that work until the end of a `with` block, which raises what any of them raised."""

    def __init__(self, stop: threading.Event | None = None) -> None:
        """stop: is set at the end, however the block ends; by default one of its own."""
        self.stop = stop or threading.Event()
        self._pool = ThreadPoolExecutor(256)
        self._jobs: list[Any] = []

    def start(self, work: Callable[..., None], *arguments: object) -> None:
        self._jobs.append(self._pool.submit(work, *arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop.set()
        for job in self._jobs:
            job.result()
        self._pool.shutdown()


@dataclass(frozen=True)
class Drawer:
    """An experiment that always has work: its next rollout is asked for before the last is drawn."""

    name: str
    weight: float
    client: RolloutClient
    batch: int
    steps: int

    @property
    def rollout_images(self) -> int:
        """What a turn pays for, so that no turn ends for want of work."""
        return math.ceil(self.weight * QUANTUM_NFES / self.steps) * self.batch

    def draw(self, drawn: Drawn) -> None:
        """Ask until `drawn.done`."""
        pending, streams = self._ask(), []
        while not drawn.done.is_set():
            following = self._ask()
            streams = [pending, following]
            with _until_cancelled():
                self._read(pending, drawn)
            pending = following
        for stream in streams:
            stream.cancel()

    def _ask(self) -> Any:
        return self.client.start_explore(
            range(self.rollout_images),
            timeout_s=3600,
            experiment=self.name,
            version=1,
            steps=self.steps,
            rewards=[REWARD],
        )

    def _read(self, stream: Any, drawn: Drawn) -> None:
        threading.Thread(target=_cancel_after, args=(stream, drawn.done), daemon=True).start()
        for answer in stream:
            if answer.error_message:
                raise RuntimeError(answer.error_message)
            if answer.infer_response.outputs and not drawn.done.is_set():
                drawn.add(self.name)


def _cancel_after(stream: Any, done: threading.Event) -> None:
    while not done.wait(0.5) and stream.is_active():
        pass
    stream.cancel()


@contextmanager
def _until_cancelled() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.CANCELLED:  # type: ignore[attr-defined]
            raise


def newcomers(
    client: RolloutClient, names: Sequence[str], drawer: Drawer, stop: threading.Event
) -> Callable[[list[float]], None]:
    """Work that has one experiment after the other, none of which drew before, draw one batch."""

    def work(seconds: list[float]) -> None:
        for name in names:
            if stop.is_set():
                return
            started = time.perf_counter()
            stream = client.start_explore(
                range(drawer.batch), experiment=name, steps=drawer.steps, timeout_s=3600
            )
            threading.Thread(target=_cancel_after, args=(stream, stop), daemon=True).start()
            with _until_cancelled():
                if next((a for a in stream if a.infer_response.outputs), None) is not None:
                    seconds.append(time.perf_counter() - started)

    return work


@dataclass
class Calls:
    """What asking the control plane takes, in seconds by the call."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failed: Counter[str] = field(default_factory=Counter)

    def ask(
        self,
        client: RolloutClient,
        names: Sequence[str],
        stop: threading.Event,
        every_s: float,
    ) -> None:
        """Ask of one experiment after the other, and now and then for the list of all."""
        experiments = cycle(names)
        kinds: list[tuple[str, Callable[[str], object]]] = [
            ("Info", lambda name: messages.InfoRequest(experiment=name)),
            ("GetExperiment", lambda name: messages.ExperimentRequest(experiment=name)),
            ("ListEvents", lambda name: messages.ListEventsRequest(experiment=name, count=20)),
            ("ChangeExperiment", _unchanged),
        ]
        for place in range(10**9):
            for method, request in kinds:
                self._timed(client, method, request(next(experiments)))
                if stop.wait(every_s):
                    return
            if place % 10 == 0:
                self._timed(client, LIST, messages.ListExperimentsRequest())

    def _timed(self, client: RolloutClient, method: str, request: object) -> None:
        started = time.perf_counter()
        try:
            client.ask(method, request)
        except grpc.RpcError:
            self.failed[method] += 1
            self.failed[OF_ONE] += method != LIST
        self.seconds[method].append(time.perf_counter() - started)

    def summary(self) -> dict[str, dict[str, float]]:
        """Milliseconds by the call, and of all but the list, which takes longer the more there are."""
        asked = {
            OF_ONE: [s for method, each in self.seconds.items() if method != LIST for s in each]
        } | dict(self.seconds)
        return {
            method: {
                "calls": len(seconds),
                "failed": self.failed[method],
                "p50_ms": percentile_ms(seconds, 50),
                "p99_ms": percentile_ms(seconds, 99),
            }
            for method, seconds in asked.items()
            if seconds
        }


def ask_for(
    seconds: float, addresses: tuple[str, str], token: str, names: Sequence[str], every_s: float
) -> dict[str, dict[str, float]]:
    """A summary of `Calls`, made for so long; of Triton's address and the control plane's.

    For a process of its own: a hundred threads of the benchmark's would be waited for, too.
    """
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    calls = Calls()
    calls.ask(RolloutClient(*addresses, token), names, stop, every_s)
    return calls.summary()


def _unchanged(name: str) -> object:
    share = messages.ShareChange(max_queued_images=16_384)
    return messages.ChangeExperimentRequest(experiment=name, share=share)


def percentile_ms(seconds: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(seconds, percent)) * 1e3, 1)


# Adapters.


def publish_at_once(
    client: RolloutClient, files: dict[str, AdapterFiles]
) -> tuple[float, list[float]]:
    """Seconds until all experiments have published theirs at once, and each one's own."""

    def publish(name: str) -> float:
        started = time.perf_counter()
        client.publish(files[name], name, PUBLISH_TIMEOUT_S, WIRE_CHUNK_BYTES)
        return time.perf_counter() - started

    return _at_once(publish, list(files))


def store_at_once(redis_url: str, files: dict[str, AdapterFiles]) -> tuple[float, list[float]]:
    """The same bytes written straight to the store, in pieces of the same size; they do not stay."""

    def write(name: str) -> float:
        with connect(redis_url, STORE_TIMEOUT_S) as store:
            key, tensors = f"benchmark:{name}", files[name].tensors
            started = time.perf_counter()
            for start in range(0, len(tensors), CHUNK_BYTES):
                store.hset(key, str(start), tensors[start : start + CHUNK_BYTES])
            seconds = time.perf_counter() - started
            store.unlink(key)
            return seconds

    return _at_once(write, list(files))


def _at_once(work: Callable[[str], float], names: Sequence[str]) -> tuple[float, list[float]]:
    started = time.perf_counter()
    with ThreadPoolExecutor(len(names)) as pool:
        each = list(pool.map(work, names))
    return time.perf_counter() - started, each


# What grows.


@dataclass
class Memory:
    """Megabytes of every process, and of the store by what is in it, over time."""

    server: ServerHarness
    redis_url: str
    at_s: list[float] = field(default_factory=list)
    mb: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def watch(self, stop: threading.Event, every_s: float) -> None:
        started = time.perf_counter()
        processes = self.server.processes()
        with connect(self.redis_url, STORE_TIMEOUT_S) as store:
            while True:
                self.at_s.append(time.perf_counter() - started)
                for name, process in processes.items():
                    self.mb[name].append(process.memory_info().rss / MB)
                self._note_store(store)
                if stop.wait(every_s):
                    return

    def _note_store(self, store: Any) -> None:
        used = store.info("memory")["used_memory"] / MB
        keys = [key for key in store.scan_iter(ADAPTER + "*", count=1000) if _is_files(key)]
        adapters = sum(int(store.hget(key, "bytes") or 0) for key in keys) / MB
        self.mb["store: adapters"].append(adapters)
        self.mb["store: all else"].append(used - adapters)

    def summary(self) -> dict[str, dict[str, float]]:
        """First, last and largest; and how it rose over the second half, in an hour's worth."""
        half = len(self.at_s) // 2
        return {
            name: {
                "first_mb": round(values[0]),
                "last_mb": round(values[-1]),
                "peak_mb": round(max(values)),
                "slope_mb_per_hour": round(_slope(self.at_s[half:], values[half:]) * 3600),
            }
            for name, values in self.mb.items()
        }


def _is_files(key: bytes) -> bool:
    return not key.decode().endswith(ADAPTER_USERS)


def _slope(at: Sequence[float], values: Sequence[float]) -> float:
    return float(np.polyfit(at, values, 1)[0]) if len(at) > 2 else 0.0


def peak_mb(process: psutil.Process) -> float:
    """The most that a process ever had."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return round(int(kilobytes) * 1024 / MB)


# The dashboard.


@dataclass
class Pages:
    """What pages take in a browser until all of them is there, in seconds."""

    page: Page
    url: str
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def open(self, what: str, path: str) -> None:
        self.page.goto(self.url + path, wait_until="load", timeout=STORE_TIMEOUT_S * 1e3)
        timing = "performance.getEntriesByType('navigation')[0].duration"
        self.seconds[what].append(self.page.evaluate(timing) / 1e3)

    def fetch(self, what: str, path: str) -> None:
        """A part of a page, as it comes by itself every five seconds."""
        took = (
            "async path => { const start = performance.now(); const answer = await fetch(path);"
            " await answer.text(); if (!answer.ok) throw path; return performance.now() - start }"
        )
        self.seconds[what].append(self.page.evaluate(took, path) / 1e3)

    def summary(self) -> dict[str, dict[str, float]]:
        return {
            what: {
                "first_ms": round(seconds[0] * 1e3),
                "median_ms": percentile_ms(seconds, 50),
                "worst_ms": percentile_ms(seconds, 100),
            }
            for what, seconds in self.seconds.items()
        }

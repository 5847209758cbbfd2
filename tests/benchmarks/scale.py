"""A server that many use at once: who draws how much, who waits how long, and what grows.

    python -m tests.benchmarks.scale [--experiments 1000] [--drawing 64] [--publishers 8]
        [--adapter-mb 150] [--groups 1000000] [--minutes 10] [--out scale.json]

One real server with a tiny model, all on this machine. First the experiments are made, the groups
recorded, and the adapters published at once, beside the same bytes written straight to the store.
Then, for so many minutes, all of it goes on together: some draw without a pause, at weights 1 and
2; newcomers ask for a first batch; the control plane is asked; adapters are published again;
a browser reads the dashboard; and memory is noted.

Prints JSON. `aims` says what each figure should be, and whether it is.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from heliostat_proto import control_pb2
from heliostat_server.scheduling.deficit_round_robin import QUANTUM_NFES
from heliostat_server.settings import AskedLimits, ServeSettings
from tests.benchmarks.fairness import Drawn, jain
from tests.benchmarks.load import (
    MB,
    OF_ONE,
    Background,
    Drawer,
    Memory,
    Pages,
    ask_for,
    newcomers,
    peak_mb,
    publish_at_once,
    record_groups,
    store_at_once,
)
from tests.e2e.browser import CHROMIUM, browser, sign_in
from tests.e2e.conftest import ServerHarness
from tests.server.checkpoints import random_adapter, random_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heliostat_engines.adapters import AdapterFiles

WEIGHTS = (1.0, 2.0)
DRAWN_RANK = 4
FLOAT_BYTES = 4
NEWCOMERS = 50


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    experiments: int = 1000
    drawing: int = 64
    publishers: int = 8
    adapter_mb: float = 150.0
    groups: int = 1_000_000
    minutes: float = 10.0
    batch: int = 2
    steps: int = 6
    calls_a_second: float = 10.0
    sample_s: float = 5.0


@dataclass(frozen=True)
class Aim:
    """A figure beside what it should be."""

    what: str
    value: float
    aim: str
    met: bool


class Bench:
    """A server under load."""

    def __init__(self, server: ServerHarness, sizes: Sizes) -> None:
        self.server = server
        self.sizes = sizes
        self.redis_url = f"unix://{server.settings.state / 'redis.sock'}"
        self.admin = server.client()
        self.targets = self.admin.targets()
        self.names = [f"e{place:05}" for place in range(sizes.experiments)]
        publishers = self.names[: sizes.publishers]
        self.files = {name: self._adapter(place) for place, name in enumerate(publishers)}

    def measure(self) -> dict[str, Any]:
        """All figures."""
        _say("making experiments")
        created = self._create()
        _say("recording groups")
        record_groups(self.redis_url, self.names, self.sizes.groups // self.sizes.experiments)
        _say("publishing")
        quiet = self._published()
        _say(f"made and published: {json.dumps([created, quiet])}")
        return {"created": created, "published_quiet": quiet, **self._load()}

    def _adapter(self, seed: int) -> AdapterFiles:
        numbers = sum(inputs + outputs for inputs, outputs in self.targets.values())
        rank = max(1, round(self.sizes.adapter_mb * MB / FLOAT_BYTES / numbers))
        return random_adapter(self.targets, rank=rank, seed=seed)

    def _create(self) -> dict[str, float]:
        seconds = []
        for name in self.names:
            started = time.perf_counter()
            request = control_pb2.CreateExperimentRequest(experiment=name)
            self.admin.ask("CreateExperiment", request)
            seconds.append(time.perf_counter() - started)
        tenth = max(1, len(seconds) // 10)
        return {
            "first_tenth_ms": round(statistics.median(seconds[:tenth]) * 1e3, 2),
            "last_tenth_ms": round(statistics.median(seconds[-tenth:]) * 1e3, 2),
        }

    def _published(self) -> dict[str, float]:
        """Adapters published at once, and their bytes written straight to the store."""
        amount_mb = sum(files.nbytes for files in self.files.values()) / MB
        store_s, _ = store_at_once(self.redis_url, self.files)
        published_s, each_s = publish_at_once(self.admin, self.files)
        again_s, _ = store_at_once(self.redis_url, self.files)
        store_s = statistics.mean((store_s, again_s))
        return {
            "mb": round(amount_mb),
            "publish_mb_per_s": round(amount_mb / published_s, 1),
            "store_mb_per_s": round(amount_mb / store_s, 1),
            "ratio": round(store_s / published_s, 3),
            "slowest_s": round(max(each_s), 2),
        }

    def _load(self) -> dict[str, Any]:
        _say("making those that draw")
        drawers = [self._drawer(place) for place in range(self.sizes.drawing)]
        drawn = Drawn(2**62, dict.fromkeys((each.name for each in drawers), 0))
        memory = Memory(self.server, self.redis_url)
        first_batches_s: list[float] = []
        loaded: dict[str, float] = {}
        self.files = {name: self._adapter(100 + i) for i, name in enumerate(self.files)}
        _say("all at once")
        with own_process() as apart, Background() as others, Background(drawn.done) as drawing:
            for drawer in drawers:
                drawing.start(drawer.draw, drawn)
            fresh = self.names[-NEWCOMERS:]
            others.start(newcomers(self.admin, fresh, drawers[0], others.stop), first_batches_s)
            asked = apart.submit(ask_for, *self._calls())
            others.start(memory.watch, others.stop, self.sizes.sample_s)
            started = time.perf_counter()
            others.start(lambda: loaded.update(self._published()))
            pages = self._browse(started + self.sizes.minutes * 60)
            drawn.done.set()
            seconds = time.perf_counter() - drawn.begun_at
            others.stop.set()
        return {
            "drawn": self._drawn(drawers, drawn, seconds),
            "first_batch": _first_batches(first_batches_s),
            "published_under_load": loaded,
            "calls": asked.result(),
            "memory": memory.summary(),
            "peaks_mb": {name: peak_mb(each) for name, each in self.server.processes().items()},
            "pages": pages,
        }

    def _calls(self) -> tuple[float, tuple[str, str], str, list[str], float]:
        """What `ask_for` takes."""
        record, every_s = self.server.record, 1 / self.sizes.calls_a_second
        addresses = (str(record.rollout), str(record.control))
        return self.sizes.minutes * 60, addresses, self.server.admin_token, self.names, every_s

    def _drawer(self, place: int) -> Drawer:
        name, weight = f"drawing{place:03}", WEIGHTS[place % len(WEIGHTS)]
        share = control_pb2.ShareChange(weight=weight)
        request = control_pb2.CreateExperimentRequest(experiment=name, share=share)
        client = self.server.client(self.admin.ask("CreateExperiment", request).token)
        client.publish(random_adapter(self.targets, rank=DRAWN_RANK, seed=1000 + place), name)
        return Drawer(name, weight, client, self.sizes.batch, self.sizes.steps)

    def _drawn(self, drawers: list[Drawer], drawn: Drawn, seconds: float) -> dict[str, float]:
        batches = drawn.counts
        fair = [batches[each.name] / each.weight for each in drawers]
        a_turn = math.ceil(QUANTUM_NFES / self.sizes.steps)
        return {
            "jain": round(jain(fair), 4) if any(fair) else 0.0,
            "drawing": len(drawn.started),
            "counted_s": round(max(0.0, seconds), 1),
            "turns_each": round(statistics.mean(fair) / a_turn, 2),
            "images": sum(batches.values()) * self.sizes.batch,
            "images_per_s": round(sum(batches.values()) * self.sizes.batch / max(1, seconds), 2),
        }

    def _browse(self, until: float) -> dict[str, dict[str, float]]:
        """Read pages, one every few seconds, until that time."""
        if CHROMIUM is None:
            time.sleep(max(0.0, until - time.perf_counter()))
            return {}
        with browser() as started:
            page = started.new_page()
            page.set_default_timeout(60_000)
            url = str(self.server.record.http)
            sign_in(page, url, self.server.admin_token)
            pages = Pages(page, url)
            for name in cycle(islice(self.names, 1, None)):
                self._read(pages, name)
                time.sleep(min(2.0, max(0.0, until - time.perf_counter())))
                if time.perf_counter() >= until:
                    return pages.summary()
        raise AssertionError

    @staticmethod
    def _read(pages: Pages, name: str) -> None:
        at = f"/experiments/{name}"
        pages.open("overview", "/")
        pages.open("overview, its last page", "/?page=1000000")
        pages.fetch("overview, its live part", "/overview")
        pages.open("experiment", at)
        pages.open("experiment, by time", at + "?axis=time")
        pages.open("experiment, groups of one version", at + "?version=0")
        pages.open("experiment, in numbers", at + "/numbers")
        pages.fetch("experiment, its live part", at + "/live")


def _first_batches(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {"newcomers": 0}
    return {
        "newcomers": len(seconds),
        "median_s": round(statistics.median(seconds), 2),
        "worst_s": round(max(seconds), 2),
    }


def aims(figures: dict[str, Any]) -> list[Aim]:
    """What should be, beside what is."""
    drawn, calls, memory = figures["drawn"], figures["calls"][OF_ONE], figures["memory"]
    worst_page_ms = max((page["worst_ms"] for page in figures["pages"].values()), default=0.0)
    quiet = figures["published_quiet"]["ratio"]
    loaded = figures["published_under_load"].get("ratio", 0.0)
    slopes = {
        name: each["slope_mb_per_hour"] / max(1, each["last_mb"]) for name, each in memory.items()
    }
    slopes.pop("store: adapters", None)
    steepest = max(slopes.values())
    return [
        Aim("Jain's index", drawn["jain"], "at least 0.98", drawn["jain"] >= 0.98),
        Aim(
            "calls of one experiment, p99 in ms",
            calls["p99_ms"],
            "under 100",
            calls["p99_ms"] < 100,
        ),
        Aim("slowest page in ms", worst_page_ms, "under 1000", worst_page_ms < 1000),
        Aim("publish of the store's own", quiet, "at least 0.7", quiet >= 0.7),
        Aim("the same under load", loaded, "at least 0.7", loaded >= 0.7),
        Aim("steepest growth in an hour", round(steepest, 2), "under 0.05", steepest < 0.05),
    ]


def own_process() -> ProcessPoolExecutor:
    """One that shares nothing with this one."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


@contextmanager
def bench(sizes: Sizes) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as folder:
        settings = ServeSettings(
            checkpoint=str(random_checkpoint(Path(folder) / "checkpoint")),
            state=Path(folder) / "state",
            limits=AskedLimits(batch=sizes.batch),
            max_rank=2**14,
            threads=1,
            port=0,
            http_port=0,
        )
        server = ServerHarness(settings)
        _say("starting a server")
        server.start()
        try:
            yield Bench(server, sizes)
        finally:
            server.stop()


def _say(doing: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {doing}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, default in asdict(Sizes()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    parser.add_argument("--out", type=Path, default=Path("scale.json"))
    arguments = vars(parser.parse_args())
    out = arguments.pop("out")
    result = measured(Sizes(**arguments))
    Console().print_json(data=result)
    out.write_text(json.dumps(result, indent=2) + "\n")


def measured(sizes: Sizes) -> dict[str, Any]:
    """All figures of one server, and the aims."""
    with bench(sizes) as started:
        figures = started.measure()
    return {
        "cores": len(os.sched_getaffinity(0)),
        "sizes": asdict(sizes),
        **figures,
        "aims": [asdict(aim) for aim in aims(figures)],
    }


if __name__ == "__main__":
    main()

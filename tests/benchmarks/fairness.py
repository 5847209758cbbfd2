"""How fairly do experiments share one server, and what does sharing cost?

    python -m tests.benchmarks.fairness [--batch 8] [--steps 6] [--turns 20] [--out fairness.json]

Every experiment has a token, an adapter and a client of its own, and always work waiting. Batches
are counted from when all have had one until so many turns are over; a turn is four batches.

equal: four of weight 1; Jain's index (sum x)^2 / (n sum x^2) of their images, 1 if all are equal
    (Jain, Chiu and Hawe, DEC TR-301, 1984).
weighted: two of weight 3 and 1; the ratio of their images.
aggregate: images/s of four experiments over images/s of one, each of the same total work, in turn.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from rich.console import Console

from heliostat_proto import control_pb2
from heliostat_server.launcher.background import background_server
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.settings import LimitSettings, ServeSettings
from tests.server.checkpoints import random_adapter
from tests.server.rollout_client import RolloutClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BATCHES_A_TURN = 4
REWARD = "colourfulness"


@dataclass(frozen=True)
class Result:
    """What was measured."""

    batch: int
    steps: int
    equal_images: dict[str, int]
    jain: float
    weighted_images: dict[str, int]
    weight_ratio: float
    aggregate_ratios: tuple[float, ...]
    aggregate: float


@dataclass
class Drawn:
    """Batches that each experiment was answered, counted by several threads."""

    stop_at: int
    counts: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: threading.Event = field(default_factory=threading.Event)
    started: set[str] = field(default_factory=set)
    begun_at: float = math.inf
    """By time.perf_counter, since when batches are counted."""

    def add(self, name: str) -> None:
        with self.lock:
            self.started.add(name)
            if self.started < self.counts.keys():
                return
            self.begun_at = min(self.begun_at, time.perf_counter())
            self.counts[name] += 1
            if sum(self.counts.values()) >= self.stop_at:
                self.done.set()


class Bench:
    """A server, and experiments of it."""

    def __init__(self, settings: ServeSettings, steps: int) -> None:
        record = StateFolder(settings.state).read_record()
        assert record is not None
        assert record.rollout is not None
        assert record.control is not None
        self.addresses = (record.rollout, record.control)
        self.admin = self.client(StateFolder(settings.state).read_admin_token())
        self.max_seeds = settings.limits.max_seeds
        self.batch = settings.limits.batch
        self.steps = steps

    def client(self, token: str) -> RolloutClient:
        return RolloutClient(*self.addresses, token)

    def experiment(self, name: str, weight: float = 1.0) -> RolloutClient:
        """An experiment with an adapter, and its client."""
        share = control_pb2.ShareChange(weight=weight)
        request = control_pb2.CreateExperimentRequest(experiment=name, share=share)
        client = self.client(self.admin.ask("CreateExperiment", request).token)
        client.publish(random_adapter(client.targets(), seed=len(name)), name)
        return client

    def saturate(self, clients: dict[str, RolloutClient], batches: int) -> dict[str, int]:
        """Images of each experiment while all have work, until so many batches are drawn."""
        drawn = Drawn(batches, dict.fromkeys(clients, 0))
        streams = {name: self._start(name, client) for name, client in clients.items()}
        with ThreadPoolExecutor(len(clients)) as pool:
            readers = [pool.submit(self._read, name, streams[name], drawn) for name in clients]
            drawn.done.wait()
            for stream in streams.values():
                stream.cancel()
            for reader in readers:
                reader.result()
        return {name: count * self.batch for name, count in drawn.counts.items()}

    def seconds(self, clients: dict[str, RolloutClient], images: int) -> float:
        """Seconds until so many images, in equal parts, are drawn."""
        part = images // len(clients)
        started = time.perf_counter()
        with ThreadPoolExecutor(len(clients)) as pool:
            jobs = [
                pool.submit(client.explore, range(part), **self._spec(name))
                for name, client in clients.items()
            ]
            for job in jobs:
                job.result()
        return time.perf_counter() - started

    def _start(self, name: str, client: RolloutClient) -> Any:
        return client.start_explore(range(self.max_seeds), timeout_s=3600, **self._spec(name))

    def _spec(self, name: str) -> dict[str, Any]:
        return {"experiment": name, "version": 1, "steps": self.steps, "rewards": [REWARD]}

    @staticmethod
    def _read(name: str, stream: Any, drawn: Drawn) -> None:
        try:
            for answer in stream:
                if not drawn.done.is_set() and not answer.error_message:
                    drawn.add(name)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:  # type: ignore[attr-defined]
                raise


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("fairness.json"))
    arguments = parser.parse_args()
    with _bench(arguments.batch, arguments.steps) as bench:
        result = measure(bench, arguments.turns, arguments.repeats)
    Console().print_json(data=asdict(result))
    arguments.out.write_text(json.dumps(asdict(result), indent=2) + "\n")


def measure(bench: Bench, turns: int, repeats: int) -> Result:
    """All three."""
    batches = turns * BATCHES_A_TURN
    four = {name: bench.experiment(name) for name in ("a", "b", "c", "d")}
    equal = bench.saturate(four, len(four) * batches)
    two = {"heavy": bench.experiment("heavy", 3.0), "light": bench.experiment("light", 1.0)}
    weighted = bench.saturate(two, 4 * batches)
    images = len(four) * BATCHES_A_TURN * 4 * bench.batch
    ratios = _paired(
        lambda: bench.seconds({"a": four["a"]}, images),
        lambda: bench.seconds(four, images),
        repeats,
    )
    return Result(
        batch=bench.batch,
        steps=bench.steps,
        equal_images=equal,
        jain=jain(list(equal.values())),
        weighted_images=weighted,
        weight_ratio=weighted["heavy"] / weighted["light"],
        aggregate_ratios=ratios,
        aggregate=statistics.median(ratios),
    )


def jain(shares: Sequence[float]) -> float:
    """(sum x)^2 / (n sum x^2): 1 if all are equal, 1 / n if one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def _paired(
    first: Callable[[], float], second: Callable[[], float], repeats: int
) -> tuple[float, ...]:
    """first / second, measured in turn."""
    first()
    return tuple(first() / second() for _ in range(repeats))


@contextmanager
def _bench(batch: int, steps: int) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as folder:
        settings = ServeSettings(
            state=Path(folder) / "state", limits=LimitSettings(batch=batch), port=0, http_port=0
        )
        with background_server(settings):
            yield Bench(settings, steps)


if __name__ == "__main__":
    main()

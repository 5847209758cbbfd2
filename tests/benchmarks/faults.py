"""What happens when parts of the server die, clients misbehave and adapters are none?

    python -m tests.benchmarks.faults [--out faults.json]

A training run of three steps is under way at each death; its LoRA must be the very one of a run
that nothing befell. `again` is the time until a rollout succeeds. Each other fault must end in one
sentence, with the server as it was. Exits with 1 if anything is lost.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from heliostat_engines.adapters import AdapterFiles
from heliostat_server.settings import LimitSettings, ServeSettings
from tests.e2e.conftest import BATCH, ServerHarness
from tests.e2e.training import Run, wait_for, write_toml
from tests.server.checkpoints import random_adapter, random_checkpoint
from tests.server.rollout_client import RolloutClient, StreamError, publish_parts

VICTIMS = ("explore", "score", "text_encoder", "triton", "valkey", "launcher")
MAX_ADAPTER_BYTES = 2**20
TIMEOUT_S = 120
QUIET_S = 2.0


@dataclass(frozen=True)
class Outcome:
    """One fault: what came of it, seconds until the server served again, and whether all was kept."""

    fault: str
    outcome: str
    again_s: float | None
    kept: bool


class Faults:
    """A server, a run that nothing befalls, and what befalls others."""

    def __init__(self, server: ServerHarness, toml: Path) -> None:
        self._server = server
        self._toml = toml
        self._whole = self._run("whole")
        self._whole.complete()
        self._files = random_adapter(self._client().targets())

    def deaths(self) -> Iterator[Outcome]:
        """kill -9 of each process in the middle of a step."""
        for victim in VICTIMS:
            run = self._run(f"survives-{victim}")
            process = run.start()
            wait_for(lambda: run.saved(1))  # noqa: B023
            started = time.monotonic()
            self._server.kill(victim)
            if victim == "launcher":
                self._server.stop()
                self._server.start()
            again_s = self._until_served(started)
            finished = process.wait(TIMEOUT_S) == 0
            kept = finished and self._same_lora(run)
            outcome = "the run ends with the same LoRA" if kept else "the run is not as it was"
            yield Outcome(f"kill -9 of {victim}", outcome, again_s, kept)

    def clients(self) -> Iterator[Outcome]:
        """Clients that die or dawdle."""
        client = self._client()
        client.start_explore(range(1024), steps=50)
        time.sleep(QUIET_S)
        started = time.monotonic()
        client.close()
        other = self._client()
        other.rewards(range(BATCH))
        yield Outcome(
            "a client dies with 1,024 images waiting",
            "another one's batch is drawn",
            time.monotonic() - started,
            kept=True,
        )
        started = time.monotonic()
        slow = other.start_explore(range(4 * BATCH))
        count = 0
        for _ in slow:
            count += 1
            time.sleep(0.5)
        yield Outcome(
            "a client reads an answer in half a second",
            f"it gets all {count} batches",
            time.monotonic() - started,
            kept=count == 4,
        )
        other.close()

    def adapters(self) -> Iterator[Outcome]:
        """Adapters that are none."""
        files = self._files
        foreign = random_adapter({"transformer_blocks.0.attn.of_another": (64, 64)})
        large = AdapterFiles(files.config, files.tensors + bytes(MAX_ADAPTER_BYTES))
        broken = {
            "corrupted": {"sha256": "0" * 64},
            "truncated": {"tensor_bytes": len(files.tensors) + 8},
        }
        for name, header in broken.items():
            yield self._refused(f"an adapter {name} on its way", files, header)
        yield self._refused("an adapter larger than the limit", large, {})
        yield self._refused("an adapter of another family", foreign, {})
        half = AdapterFiles(files.config, files.tensors[:-100])
        yield self._refused("an adapter cut short before it was sent", half, {})

    def requests(self) -> Iterator[Outcome]:
        """Requests that ask for what there is not."""
        for name, spec in {
            "an unknown reward": {"rewards": ["beauty"]},
            "a version never published": {"version": 7},
            "a million steps": {"steps": 10**6},
            "no prompt": {"prompt": ""},
        }.items():
            client = self._client()
            try:
                client.explore(range(BATCH), **spec)
                yield Outcome(name, "drawn", None, kept=False)
            except StreamError as error:
                yield Outcome(name, str(error.sentence), None, kept="\n" not in error.sentence)
            client.close()

    def _refused(self, fault: str, files: AdapterFiles, header: dict[str, Any]) -> Outcome:
        client = self._client()
        client.open("broken")
        parts = publish_parts(files, "broken", **header)
        try:
            client._control.Publish(iter(parts), timeout=30, metadata=client._metadata)
        except grpc.RpcError as error:
            sentence = str(error.details())  # type: ignore[attr-defined]
        else:
            sentence = "published"
        nothing = client.info("broken").latest_version == 0
        client.close()
        return Outcome(fault, sentence, None, nothing and sentence != "published")

    def _until_served(self, started: float) -> float:
        while time.monotonic() - started < TIMEOUT_S:
            with suppress(grpc.RpcError, StreamError, AssertionError, KeyError):
                client = self._client()
                client.rewards(range(BATCH), timeout_s=5)
                client.close()
                return time.monotonic() - started
            time.sleep(0.05)
        return float("inf")

    def _client(self) -> RolloutClient:
        return self._server.client()

    def _run(self, name: str) -> Run:
        return Run(self._toml, self._server, name)

    def _same_lora(self, run: Run) -> bool:
        ours, whole = (
            load_file(each.folder / "lora" / "adapter_model.safetensors")
            for each in (run, self._whole)
        )
        return ours.keys() == whole.keys() and all(ours[key].equal(whole[key]) for key in ours)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("faults.json"))
    arguments = parser.parse_args()
    outcomes: list[Outcome] = []
    console = Console(width=150)
    with _faults() as faults, console.status("hurting the server") as status:
        kinds: list[Callable[[], Iterator[Outcome]]] = [
            faults.requests,
            faults.adapters,
            faults.clients,
            faults.deaths,
        ]
        for kind in kinds:
            for outcome in kind():
                outcomes.append(outcome)
                status.update(f"{outcome.fault}: {outcome.outcome}")
    _print(console, outcomes)
    arguments.out.write_text(json.dumps([asdict(each) for each in outcomes], indent=2) + "\n")
    sys.exit(not all(outcome.kept for outcome in outcomes))


@contextmanager
def _faults() -> Iterator[Faults]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = random_checkpoint(folder / "checkpoint")
        server = ServerHarness(
            ServeSettings(
                checkpoint=str(checkpoint),
                state=folder / "state",
                limits=LimitSettings(
                    batch=BATCH, max_steps=200, max_adapter_bytes=MAX_ADAPTER_BYTES
                ),
                max_rank=8,
                threads=1,
                port=0,
                http_port=0,
                max_restarts=20,
            )
        )
        server.start()
        try:
            yield Faults(server, write_toml(folder, checkpoint))
        finally:
            server.stop()


def _print(console: Console, outcomes: list[Outcome]) -> None:
    table = Table("fault", "what came of it", "again", "nothing lost")
    for each in outcomes:
        again = "" if each.again_s is None else f"{each.again_s:.1f} s"
        table.add_row(each.fault, each.outcome, again, "yes" if each.kept else "[red]NO")
    console.print(table)


if __name__ == "__main__":
    main()

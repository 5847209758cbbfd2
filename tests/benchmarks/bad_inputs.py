"""Ten thousand bad and odd inputs: is any answered by a traceback, by silence, or by a loss?

    python -m tests.benchmarks.bad_inputs [--count 10000] [--seed 0] [--out bad_inputs.json]

Inputs are made by rule from the seed (tests/bad_inputs): runs' TOML and flags, servers'
TOML, prompt files, all commands' flags, HTTP and gRPC requests to a control plane with a real store, adapters, damaged runs
and models, definitions of rewards and tokens. Each is tried in a process that is watched, in a
folder with other people's files, which are compared byte for byte after it. An input is refused if
the answer is one sentence with the product's own status; anything else is a fault, and the exit
status is 1. `--kind NAME` tries one kind, `--resume` goes on with what --out has of the same seed and
count, `--show KIND CHUNK PLACE` tries a single input here, with the traceback of what it raises.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bad_inputs.kinds import CHUNK, KINDS, inputs_of, kind_of
from tests.bad_inputs.outcome import GOOD, Outcome

HANG_S = 30.0
"""For one input."""
MAKING_S = 300.0
"""For a process to start, to open a kind, and to make a chunk of inputs."""
CLOSE_S = 20.0
SHOWN = 1200
SLOW = frozenset({"runs", "commands"})
SHARES = sum(kind.share for kind in KINDS)


@dataclass
class Fault:
    """All inputs of a kind that fail for one reason; the shortest of them stands for all."""

    kind: str
    outcome: str
    cause: str
    count: int = 0
    input: str = ""
    sentence: str = ""
    found: Sequence[int] = (0, 0)
    """Chunk and place of that input."""

    def add(self, shown: str, sentence: str, found: tuple[int, int]) -> None:
        self.count += 1
        if not self.input or len(shown) < len(self.input):
            self.input, self.sentence, self.found = shown, sentence, found


@dataclass
class Findings:
    """done: chunks, as kind/number. tried: by kind and outcome."""

    seed: int
    count: int
    done: list[str] = field(default_factory=list)
    tried: dict[str, dict[str, int]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def add(self, task: Task, verdicts: list[dict[str, Any]]) -> None:
        counts = Counter(self.tried.get(task.kind, {}))
        for verdict in verdicts:
            counts[verdict["outcome"]] += 1
            if Outcome(verdict["outcome"]) not in GOOD:
                fault = self._fault(task.kind, verdict["outcome"], verdict["cause"])
                fault.add(verdict["input"], verdict["sentence"], (task.chunk, verdict["place"]))
        self.tried[task.kind] = dict(counts)
        self.done.append(task.name)

    def _fault(self, kind: str, outcome: str, cause: str) -> Fault:
        for fault in self.faults:
            if (fault.kind, fault.outcome, fault.cause) == (kind, outcome, cause):
                return fault
        self.faults.append(Fault(kind, outcome, cause))
        return self.faults[-1]

    @staticmethod
    def read(path: Path) -> Findings:
        content = json.loads(path.read_text())
        faults = [Fault(**fault) for fault in content.pop("faults")]
        return Findings(**content, faults=faults)


@dataclass(frozen=True)
class Task:
    """A chunk of a kind's inputs."""

    kind: str
    chunk: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.chunk}"


class Worker:
    """A process that tries inputs, killed and started again where one hangs or ends it."""

    def __init__(self, seed: int, root: Path) -> None:
        self._seed = seed
        self._root = root
        self._starts = 0
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    def verdicts(self, task: Task) -> list[dict[str, Any]]:
        """Of all inputs of a chunk, whatever some of them do to the process."""
        verdicts: list[dict[str, Any]] = []
        place: int | None = 0
        while place is not None:
            place = self._try(task, place, verdicts)
        return verdicts

    def close(self) -> None:
        """Let it clean up, or kill it."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with suppress(OSError, subprocess.TimeoutExpired):
            process.stdin.close()
            process.wait(CLOSE_S)
        _kill(process)

    def _try(self, task: Task, place: int, verdicts: list[dict[str, Any]]) -> int | None:
        """Try a chunk from `place` on; None when all are tried, else where to go on."""
        process = self._started()
        assert process.stdin is not None
        folder = str(self._root / str(self._starts))  # the last process may have left disorder
        order = asdict(task) | {"seed": self._seed, "first": place, "root": folder}
        with suppress(BrokenPipeError):
            print(json.dumps(order), file=process.stdin, flush=True)
        at: dict[str, Any] = {}
        while True:
            answer = self._answer(HANG_S if at else MAKING_S)
            if answer is None:
                verdicts.append(self._ended(task, at))
                return int(at["at"]) + 1
            if "done" in answer:
                return None
            if "at" in answer:
                at = answer
            else:
                verdicts.append(answer | {"input": at["input"]})
                at = {}

    def _ended(self, task: Task, at: dict[str, Any]) -> dict[str, Any]:
        """What is to be said of an input at which the process hung or died."""
        process, self._process = self._process, None
        assert process is not None
        outcome = Outcome.HUNG if process.poll() is None else Outcome.DIED
        _kill(process)
        words = self._log.read_text(errors="replace")[-20_000:]
        if not at:
            raise SystemExit(f"{outcome} before an input of {task.name} was tried: {words[-2000:]}")
        ours = re.findall(r'File ".*?((?:cli|engines|server|trainer)/\S+)", line (\d+)', words)
        cause = ":".join(ours[0]) if ours else f"status {process.returncode}"
        return {
            "place": at["at"],
            "outcome": outcome,
            "sentence": words[-300:],
            "cause": cause,
            "input": at["input"],
        }

    @property
    def _log(self) -> Path:
        return self._root / f"{self._starts}.log"

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None:
            return self._process
        self._starts += 1
        self._lines = queue.Queue()
        self._root.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.bad_inputs.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        threading.Thread(target=_read, args=(self._process, self._lines), daemon=True).start()
        return self._process

    def _answer(self, timeout_s: float) -> dict[str, Any] | None:
        """None: the process has ended, or said nothing for so long."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            return None
        return None if line is None else dict(json.loads(line))


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    process.wait()
    lines.put(None)


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tasks_of(kinds: list[str], count: int) -> list[Task]:
    """All chunks; what takes longest comes first, so that no process is left alone with it."""
    tasks = []
    for kind in sorted(KINDS, key=lambda kind: kind.name not in SLOW):
        inputs = -(-count * kind.share // SHARES) if kind.name in kinds else 0
        tasks += [
            Task(kind.name, chunk, min(CHUNK, inputs - start))
            for chunk, start in enumerate(range(0, inputs, CHUNK))
        ]
    return tasks


def work(worker: Worker, tasks: queue.Queue[Task], report: Reporter) -> None:
    """Take tasks until there are none."""
    try:
        while True:
            task = tasks.get_nowait()
            report.done(task, worker.verdicts(task))
    except queue.Empty:
        return
    finally:
        worker.close()


class Reporter:
    """Says how far it is, and keeps what was found."""

    def __init__(self, findings: Findings, total: int, out: Path) -> None:
        self._findings = findings
        self._total = total
        self._out = out
        self._began = time.monotonic()
        self._lock = threading.Lock()

    def done(self, task: Task, verdicts: list[dict[str, Any]]) -> None:
        with self._lock:
            findings = self._findings
            findings.add(task, verdicts)
            draft = self._out.with_suffix(".tmp")
            draft.write_text(json.dumps(asdict(findings), indent=1, ensure_ascii=True))
            draft.replace(self._out)
            tried = sum(map(sum, (counts.values() for counts in findings.tried.values())))
            faults = sum(fault.count for fault in findings.faults)
            seconds = time.monotonic() - self._began
            print(
                f"{task.name}: {tried} of {self._total} inputs tried, {faults} faults of "
                f"{len(findings.faults)} causes, {seconds:.0f} s",
                file=sys.stderr,
            )


def show(findings: Findings, console: Console) -> None:
    """The table of kinds, then every cause with an input."""
    table = Table("kind", "tried", *Outcome)
    for kind, counts in findings.tried.items():
        table.add_row(
            kind, str(sum(counts.values())), *(str(counts.get(name, 0)) for name in Outcome)
        )
    console.print(table)
    for fault in sorted(findings.faults, key=lambda fault: -fault.count):
        found = f"--show {fault.kind} {fault.found[0]} {fault.found[1]}"
        console.print(f"\n{fault.count} x {fault.kind}: {fault.outcome}: {fault.cause} ({found})")
        console.print(f"  {fault.sentence[:400]!r}\n  {fault.input[:SHOWN]}")


def show_one(seed: int, name: str, chunk: int, place: int) -> None:
    """Try one input here, and let what it raises out."""
    kind = kind_of(name)
    with tempfile.TemporaryDirectory() as folder, kind.opened(Path(folder) / "root") as try_:
        one = inputs_of(kind, seed, chunk)[place]
        print(one)
        print(try_(one))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=SHARES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=[kind.name for kind in KINDS])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("bad_inputs.json"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--show", nargs=3, metavar=("KIND", "CHUNK", "PLACE"))
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.show:
        name, chunk, place = arguments.show
        show_one(arguments.seed, name, int(chunk), int(place))
        return
    findings = Findings(arguments.seed, arguments.count)
    if arguments.resume and arguments.out.exists():
        findings = Findings.read(arguments.out)
        if (findings.seed, findings.count) != (arguments.seed, arguments.count):
            raise SystemExit(f"{arguments.out} is of another --seed or --count")
    kinds = arguments.kind or [kind.name for kind in KINDS]
    tasks = tasks_of(kinds, arguments.count)
    waiting: queue.Queue[Task] = queue.Queue()
    for task in tasks:
        if task.name not in findings.done:
            waiting.put(task)
    report = Reporter(findings, sum(task.count for task in tasks), arguments.out)
    with tempfile.TemporaryDirectory(prefix="bad-inputs-") as folder:
        workers = [
            Worker(arguments.seed, Path(folder) / str(number)) for number in range(arguments.jobs)
        ]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            jobs = [pool.submit(work, worker, waiting, report) for worker in workers]
        for job in jobs:
            job.result()
    show(findings, Console(width=200, soft_wrap=True, markup=False, highlight=False))
    print(f"\nwritten to {arguments.out}")
    sys.exit(bool(findings.faults))


if __name__ == "__main__":
    main()

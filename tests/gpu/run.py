"""All that is to be measured on a GPU, in one command of at most ten minutes.

    python -m tests.gpu.run [--out gpu] [--seconds 600] [--device auto]
    python -m tests.gpu.run --sizes tiny            # on a CPU: whether it runs to its end

Models have random weights, made on the device: nothing is downloaded. Each part is a process with a budget
of seconds, and writes PART.json to the folder `--out` when it ends; a part that fails or is late leaves its
sentence there, and the next begins. Started again, what is done is not done again. `index.html` shows all.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
from jinja2 import Environment, StrictUndefined

from heliostat_engines.errors import first_line
from heliostat_engines.families.family import Size
from heliostat_engines.machine.hardware import CPU_DTYPE, choose_device
from tests.gpu.models import EXAMPLES, Model

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE, FAILED, LATE = "done", "failed", "late"
STEP, PRECISIONS = "step", "precisions"
"""Kinds of parts that measure one model."""
SHORTEST_S = 5.0
"""With less time left no part is begun."""
TEMPLATE = Path(__file__).parent / "page.html"


@dataclass(frozen=True)
class Part:
    """One process of the run, and how many seconds it may take."""

    name: str
    budget_s: float
    command: tuple[str, ...]
    is_open_ended: bool = False
    """It goes on for as long as there is time, and what it leaves is worth having: late is done."""


@dataclass(frozen=True)
class Record:
    """How a part ended."""

    part: str
    outcome: str
    seconds: float
    sentence: str = ""
    results: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--sizes", type=Size, choices=list(Size), default=Size.PUBLISHED)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--part", help="of one model: KIND-FAMILY, in this process")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = choose_device(options.device, f"--device {options.device}")
    if options.part:
        measure(options.part, options.sizes, device, options.out)
        return
    run_all(parts(options.sizes, device, options.out), options.out, options.seconds)


def parts(size: Size, device: str, out: Path) -> list[Part]:
    """In order of worth."""
    own = (sys.executable, "-m", "tests.gpu.run", "--sizes", size, "--device", device)
    named = [f"{kind}-{family}" for kind in (STEP, PRECISIONS) for family in EXAMPLES]
    # Of a CPU others may take a part.
    budget_s = 90.0 if device != "cpu" else 600.0
    measured = [Part(name, budget_s, (*own, "--out", str(out), "--part", name)) for name in named]
    tests = (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider")
    recipes = (
        *(sys.executable, "-m", "tests.benchmarks.recipes", "--device", device),
        *("--steps", "4" if size is Size.TINY else "60", "--seeds", "1", "--jobs", "2"),
        *("--folder", str(out / "runs"), "--out", str(out / "recipes.html")),
        *(("--arm", "few_random") if size is Size.TINY else ()),
    )
    return [
        *measured,
        Part("tests", budget_s, (*tests, "tests/engines")),
        Part("recipes", 600.0, recipes, is_open_ended=True),
    ]


def run_all(asked: list[Part], out: Path, seconds: float) -> list[Record]:
    """Run what is not done yet, each part within its budget and what is left of all; write the page."""
    end = time.monotonic() + seconds
    records = []
    for part in asked:
        record = _done(out, part) or _run(part, out, min(part.budget_s, end - time.monotonic()))
        print(f"{record.part}: {record.outcome} in {record.seconds:.0f} s {record.sentence}")
        records.append(record)
        _write(out / f"{part.name}.json", asdict(record))
        (out / "index.html").write_text(page(records))
    _write(out / "all.json", [asdict(record) for record in records])
    return records


def _done(out: Path, part: Part) -> Record | None:
    path = out / f"{part.name}.json"
    if not path.is_file():
        return None
    record = Record(**json.loads(path.read_text()))
    return record if record.outcome == DONE else None


def _run(part: Part, out: Path, budget_s: float) -> Record:
    if budget_s < SHORTEST_S:
        return Record(part.name, LATE, 0.0, "no time was left for it")
    log, results = out / f"{part.name}.log", out / f"{part.name}.results.json"
    results.unlink(missing_ok=True)
    started = time.monotonic()
    with log.open("w") as file:
        status = _status(part.command, file, budget_s)
    seconds = round(time.monotonic() - started, 1)
    found = json.loads(results.read_text()) if results.is_file() else {}
    last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    if status is None:
        outcome = DONE if part.is_open_ended else LATE
        return Record(part.name, outcome, seconds, f"ended after its {budget_s:.0f} s", found)
    return Record(part.name, FAILED if status else DONE, seconds, last, found)


def _status(command: Sequence[str], log: TextIO, budget_s: float) -> int | None:
    """How it ended; None: its time was up. Its workers end with it, and leave the device to the next."""
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        return process.wait(budget_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def measure(name: str, size: Size, device: str, out: Path) -> None:
    """One part of one model; what it finds is kept as it comes."""
    from tests.gpu.precisions import measure_precisions
    from tests.gpu.step import measure_step

    if device == "cpu":
        torch.set_num_threads(1)  # of tiny models: several threads would wait for each other
    kind, _, family = name.partition("-")
    if device == "cpu" and kind == STEP:
        os.environ[CPU_DTYPE] = (
            "bfloat16"  # as memory is told; it is slow where a CPU has no such units
        )
    model, path = Model(family, size, device), out / f"{name}.results.json"
    try:
        if kind == STEP:
            _write(path, measure_step(model))
        else:
            measure_precisions(model, lambda found: _write(path, found))
    except torch.OutOfMemoryError as error:
        sys.exit(f"out of memory: {first_line(error)}")
    print(f"{family}, {size}, on {torch.cuda.get_device_name() if device != 'cpu' else 'a CPU'}")


def page(records: list[Record]) -> str:
    """Self-contained HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    rows = {
        record.part: _by_arm(record.results)
        if record.part.startswith(PRECISIONS)
        else _flat(record.results)
        for record in records
    }
    return environment.from_string(TEMPLATE.read_text()).render(records=records, rows=rows)


def _by_arm(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row each way to draw, with and without the LoRA branch; of one that failed its sentence."""
    names: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = []
    for arm, found in results.items():
        for branch, values in found.items():
            if isinstance(values, dict):
                names = tuple(values)
                rows.append((f"{arm}, {branch}", *map(str, values.values())))
            else:
                rows.append((arm, str(values)))
    return [("", *names), *rows] if rows else []


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [
            row
            for key, each in value.items()
            for row in _flat(each, f"{name}, {key}" if name else str(key))
        ]
    is_bytes = isinstance(value, int) and value > 10**4
    return [(name, f"{value / 1e9:,.4f} GB" if is_bytes else str(value))]


def _write(path: Path, content: Any) -> None:
    """At once, so that whoever is stopped leaves the one before."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(content, indent=2))
    draft.replace(path)


if __name__ == "__main__":
    main()

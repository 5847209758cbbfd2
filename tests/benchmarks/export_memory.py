"""How much memory does exporting a model take, and what would one of 12 B parameters take?

    python -m tests.benchmarks.export_memory [--family flux] [--blocks 1 2 4] [--out export_memory.json]

Checkpoints of random weights at the published width and of growing depth, exported to NVFP4 from
disk, each in a process of its own. A process's resident memory above what it has before the export
counts, with the pages of mapped checkpoint files and without them: the system takes those back when
it needs them. A straight line through the sizes projects to the whole model.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
from rich import filesize
from rich.console import Console
from rich.table import Table

from heliostat_engines.export.graph import export_graph
from heliostat_engines.export.sources import CheckpointSource
from heliostat_engines.families import get_family
from heliostat_engines.families.family import Size
from heliostat_engines.families.precision import named_linears
from heliostat_engines.plans.graph_manifest import ExportOptions

AMAX = 8.0
"""Any magnitude does: it is a constant of the graph."""
KILOBYTE = 1024


@dataclass(frozen=True)
class Measurement:
    """Bytes; `blocks` None is a projection."""

    blocks: int | None
    bf16_bytes: int
    resident: int
    without_mapped_files: int

    @property
    def of_a_copy(self) -> float:
        """Resident memory as a share of one BF16 copy of the weights."""
        return self.resident / self.bf16_bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--family", default="flux")
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--out", type=Path, default=Path("export_memory.json"))
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.export is not None:
        print(json.dumps(asdict(measure(options.family, options.export, options.blocks[0]))))
        return
    measured = [in_a_process(options.family, blocks) for blocks in options.blocks]
    rows = [*measured, projected(measured, bf16_bytes(options.family))]
    show(options.family, rows)
    options.out.write_text(json.dumps([asdict(row) for row in rows], indent=2))


def in_a_process(family: str, blocks: int) -> Measurement:
    """Write a checkpoint here, export it there."""
    with tempfile.TemporaryDirectory() as folder:
        model = get_family(family).build_transformer(Size.PUBLISHED, blocks=blocks, device="cpu")
        model.save_pretrained(Path(folder) / "transformer")  # type: ignore[operator]
        del model
        command = [sys.executable, "-m", "tests.benchmarks.export_memory", "--family", family]
        command += ["--blocks", str(blocks), "--export", folder]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return Measurement(**json.loads(answer.splitlines()[-1]))


def measure(name: str, checkpoint: Path, blocks: int) -> Measurement:
    """Export once, in a process that has done nothing else."""
    family = get_family(name)
    source = CheckpointSource(family, checkpoint)
    skeleton = source.skeleton()
    amax = {linear: AMAX for linear, _ in named_linears(skeleton)}
    process, anonymous = psutil.Process(), [0]
    before = process.memory_info()

    def on_progress(*_: object) -> None:
        now = process.memory_info()
        anonymous.append(now.rss - now.shared - (before.rss - before.shared))

    with tempfile.TemporaryDirectory() as folder:
        export_graph(
            family,
            source,
            ExportOptions(max_rank=64),
            Path(folder),
            activation_amax=amax,
            progress=on_progress,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTE
    weights = sum(parameter.numel() for parameter in skeleton.parameters())
    return Measurement(blocks, 2 * weights, peak - before.rss, max(anonymous))


def bf16_bytes(family: str) -> int:
    """Of the published transformer."""
    model = get_family(family).build_transformer(Size.PUBLISHED)
    return 2 * sum(parameter.numel() for parameter in model.parameters())


def projected(rows: list[Measurement], size: int) -> Measurement:
    """By a straight line, and never less than what was measured."""

    def at_size(values: list[int]) -> int:
        slope, intercept = np.polyfit([row.bf16_bytes for row in rows], values, 1)
        return max(int(slope * size + intercept), *values)

    return Measurement(
        None,
        size,
        at_size([row.resident for row in rows]),
        at_size([row.without_mapped_files for row in rows]),
    )


def show(family: str, rows: list[Measurement]) -> None:
    """A row a size."""
    table = Table(title=f"Memory of exporting {family} to NVFP4")
    for column in ("blocks of each kind", "BF16 weights", "resident", "of a copy", "unmapped"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            "all (projected)" if row.blocks is None else str(row.blocks),
            filesize.decimal(row.bf16_bytes),
            filesize.decimal(row.resident),
            f"{row.of_a_copy:.2f}",
            filesize.decimal(row.without_mapped_files),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

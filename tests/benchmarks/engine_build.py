"""How long it takes to compile an engine, and how large its plan is against what FP4 should take.

    python -m tests.benchmarks.engine_build [FAMILY ...] [--blocks 1] [--out engine_build.json]

Published widths with random weights, cut to a few blocks of each kind; TensorRT-RTX compiles them for
SM120, which needs no GPU. NVFP4 (W4A4), FP4 weights alone, and BF16 of the same graph, in one run. `--unstacked` compiles the graph with LoRA
inputs of their own for each site: for comparison.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import filesize
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from heliostat_engines.compiling.plan import PlanRequest, compile_plan
from heliostat_engines.export.graph import export_graph
from heliostat_engines.export.sources import ModuleSource
from heliostat_engines.families import get_family
from heliostat_engines.families.family import Size
from heliostat_engines.families.precision import named_linears
from heliostat_engines.plans.graph_manifest import GRAPH_FILE, ExportOptions
from heliostat_engines.plans.profiles import Point, Profile, input_shapes
from heliostat_engines.plans.vendor import Runtime, load_vendor
from heliostat_engines.precisions import MapName, Precision

FAMILIES = ("sana", "flux", "sd3.5-large", "sd3.5-medium")
AMAX = 8.0
"""Any magnitude does: it is a constant of the graph."""


@dataclass(frozen=True)
class Measurement:
    """weight_bytes: of the graph's constants, the least that a plan can take."""

    family: str
    precision: str
    blocks: int
    resolution_px: int
    nvfp4_linears: int
    lora_sites: int
    inputs: int
    weight_bytes: int
    plan_bytes: int
    export_s: float
    compile_s: float
    peak_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("families", nargs="*", default=FAMILIES, help="all but the demo by default")
    parser.add_argument("--blocks", type=int, default=1, help="of each kind, at most")
    parser.add_argument("--resolution-px", type=int, help="the family's by default")
    parser.add_argument("--precisions", nargs="*", default=[p.value for p in Precision])
    parser.add_argument("--map", default="published", choices=[name.value for name in MapName])
    parser.add_argument(
        "--unstacked", action="store_true", help="two LoRA inputs a site, not two a weight shape"
    )
    parser.add_argument("--out", type=Path, default=Path("engine_build.json"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measured = measure(
            options.families[0],
            Precision(options.precisions[0]),
            MapName(options.map),
            options.blocks,
            options.resolution_px,
            stacked=not options.unstacked,
        )
        print(json.dumps(asdict(measured)))
        return
    cases = [(family, name) for family in options.families for name in options.precisions]
    results: list[Measurement] = []
    with Progress() as progress:
        task = progress.add_task("compiling", total=len(cases))
        for family, precision in cases:
            progress.update(task, description=f"{family}, {precision}")
            results.append(_in_own_process(family, precision, options))
            options.out.write_text(json.dumps([asdict(result) for result in results], indent=2))
            progress.advance(task)
    _print(results)


def measure(
    name: str,
    precision: Precision,
    map_name: MapName,
    blocks: int,
    resolution_px: int | None,
    *,
    stacked: bool,
) -> Measurement:
    family = get_family(name)
    pixels = resolution_px or family.default_resolution_px
    transformer = family.build_transformer(Size.PUBLISHED, blocks=blocks, device="cpu")
    amax = {linear: AMAX for linear, _ in named_linears(transformer)}
    point = Point(batch=1, resolution_px=pixels)
    largest = Point(batch=8, resolution_px=pixels)
    profile = Profile(smallest=point, best=largest, largest=largest)
    options = ExportOptions(precision=precision, precision_map=map_name, stacked=stacked)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        started = time.perf_counter()
        graph = export_graph(
            family,
            ModuleSource(transformer),
            options,
            folder,
            activation_amax=amax,
            progress=lambda *_: None,
        )
        exported = time.perf_counter()
        request = PlanRequest(
            folder / GRAPH_FILE, "sm120", [input_shapes(family, graph.inputs, profile)]
        )
        plan = compile_plan(load_vendor(Runtime.TENSORRT_RTX), request, lambda *_: None)
        compiled = time.perf_counter()
    return Measurement(
        family=name,
        precision=precision,
        blocks=blocks,
        resolution_px=pixels,
        nvfp4_linears=len(graph.nvfp4_linears),
        lora_sites=len(graph.lora),
        inputs=len(graph.inputs),
        weight_bytes=graph.weight_bytes,
        plan_bytes=len(plan),
        export_s=round(exported - started, 1),
        compile_s=round(compiled - exported, 1),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _in_own_process(family: str, precision: str, options: argparse.Namespace) -> Measurement:
    """So that each has its own peak memory."""
    command = [sys.executable, "-m", __spec__.name, family, "--one", "--precisions", precision]
    command += ["--blocks", str(options.blocks), "--map", options.map]
    if options.unstacked:
        command.append("--unstacked")
    if options.resolution_px:
        command += ["--resolution-px", str(options.resolution_px)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def _print(results: list[Measurement]) -> None:
    table = Table(
        "family", "precision", "NVFP4 linears", "LoRA sites", "inputs", "constants", "plan"
    )
    for heading in ("plan / constants", "export", "compile", "peak memory"):
        table.add_column(heading)
    for result in results:
        table.add_row(
            f"{result.family} x {result.blocks}, {result.resolution_px} px",
            result.precision,
            str(result.nvfp4_linears),
            str(result.lora_sites),
            str(result.inputs),
            filesize.decimal(result.weight_bytes),
            filesize.decimal(result.plan_bytes),
            f"{result.plan_bytes / result.weight_bytes:.2f}",
            f"{result.export_s} s",
            f"{result.compile_s} s",
            filesize.decimal(result.peak_bytes),
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()

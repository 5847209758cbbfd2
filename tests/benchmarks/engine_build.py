"""How long it takes to compile an engine, and how large its plan is against what FP4 should take.

    python -m tests.benchmarks.engine_build [FAMILY ...] [--blocks 1] [--out engine_build.json]

Published widths with random weights, cut to a few blocks of each kind; TensorRT-RTX compiles them for
SM120, which needs no GPU. NVFP4 (W4A4), FP4 weights alone, and BF16 of the same graph, in one run. `--lora inputs merge`
compiles each with LoRA branches and without. Kernels are those that the compiler lists in its log; "of LoRA" are those that
do a branch's work, "of them copies" those that read A and B alone.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

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
from heliostat_engines.plans.graph_manifest import GRAPH_FILE, ExportOptions, LoraMode
from heliostat_engines.plans.profiles import Point, Profile, input_shapes
from heliostat_engines.plans.vendor import Runtime, Vendor, load_vendor
from heliostat_engines.precisions import MapName, Precision

FAMILIES = ("sana", "flux", "sd3.5-large", "sd3.5-medium")
AMAX = 8.0
"""Any magnitude does: it is a constant of the graph."""
LAYER = re.compile(
    r"^Name: .*?, LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: "
    r".*, Metadata: (?P<nodes>.*)$",
    re.MULTILINE,
)
NOT_KERNELS = {"signal", "wait", "correlation", "shape_call"}
"""What orders kernels, or runs on the host."""
KERNELS = ("kernels", "of LoRA", "of them copies")


@dataclass(frozen=True)
class Measurement:
    """weight_bytes: of the graph's constants, the least that a plan can take."""

    family: str
    precision: str
    lora: str
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
    kernels: int
    lora_kernels: int
    lora_copies: int


@dataclass(frozen=True)
class Kernel:
    """As the compiler lists it: the graph's inputs and other values that it reads, and the nodes whose work it does."""

    reads: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def is_of_lora(self) -> bool:
        return self.only_copies or any(
            node.endswith(("/lora_down", "/lora_up")) for node in self.nodes
        )

    @property
    def only_copies(self) -> bool:
        """It brings A or B into another form."""
        return bool(self.reads) and all(
            name.endswith((".lora_down", ".lora_up")) for name in self.reads
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("families", nargs="*", default=FAMILIES, help="all but the demo by default")
    parser.add_argument("--blocks", type=int, default=1, help="of each kind, at most")
    parser.add_argument("--resolution-px", type=int, help="the family's by default")
    parser.add_argument("--precisions", nargs="*", default=[p.value for p in Precision])
    parser.add_argument("--lora", nargs="*", default=[LoraMode.INPUTS.value], help="inputs, merge")
    parser.add_argument("--size", default=Size.PUBLISHED.value, choices=[s.value for s in Size])
    parser.add_argument("--map", default="published", choices=[name.value for name in MapName])
    parser.add_argument("--out", type=Path, default=Path("engine_build.json"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measured = measure(
            options.families[0],
            Precision(options.precisions[0]),
            LoraMode(options.lora[0]),
            MapName(options.map),
            Size(options.size),
            options.blocks,
            options.resolution_px,
        )
        print(json.dumps(asdict(measured)))
        return
    cases = list(product(options.families, options.precisions, options.lora))
    results: list[Measurement] = []
    with Progress() as progress:
        task = progress.add_task("compiling", total=len(cases))
        for family, precision, lora in cases:
            progress.update(task, description=f"{family}, {precision}, {lora}")
            results.append(_in_own_process(family, precision, lora, options))
            options.out.write_text(json.dumps([asdict(result) for result in results], indent=2))
            progress.advance(task)
    _print(results)


def measure(
    name: str,
    precision: Precision,
    lora: LoraMode,
    map_name: MapName,
    size: Size,
    blocks: int,
    resolution_px: int | None,
) -> Measurement:
    family = get_family(name)
    pixels = resolution_px or family.default_resolution_px
    transformer = family.build_transformer(size, blocks=blocks, device="cpu")
    amax = {linear: AMAX for linear, _ in named_linears(transformer)}
    point = Point(batch=1, resolution_px=pixels)
    largest = Point(batch=8, resolution_px=pixels)
    profile = Profile(smallest=point, best=largest, largest=largest)
    options = ExportOptions(precision=precision, precision_map=map_name, lora=lora)
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
        vendor, log = _listening(load_vendor(Runtime.TENSORRT_RTX))
        plan = compile_plan(vendor, request, lambda *_: None)
        compiled = time.perf_counter()
    kernels = _kernels("\n".join(log))
    of_lora = [kernel for kernel in kernels if kernel.is_of_lora]
    return Measurement(
        family=name,
        precision=precision,
        lora=lora,
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
        kernels=len(kernels),
        lora_kernels=len(of_lora),
        lora_copies=sum(kernel.only_copies for kernel in of_lora),
    )


def _listening(vendor: Vendor) -> tuple[Vendor, list[str]]:
    """The same compiler, which describes its kernels, and its log, which fills: a plan that is
    there already can be inspected on its GPU alone."""
    trt, log = vendor.trt, []

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, message: str) -> None:  # noqa: ARG002
            log.append(message)

    class Describing(Vendor):
        def aim(self, config: Any, sm: str) -> None:
            super().aim(config, sm)
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED

    return Describing(vendor.runtime, trt, Listener()), log


def _kernels(log: str) -> list[Kernel]:
    return [
        Kernel(
            tuple(re.findall(r"Name: (\S+?), Dimensions", layer["inputs"])),
            tuple(re.findall(r"ONNX Layer: ([^\]]*)", layer["nodes"])),
        )
        for layer in LAYER.finditer(log)
        if layer["kind"] not in NOT_KERNELS
    ]


def _in_own_process(
    family: str, precision: str, lora: str, options: argparse.Namespace
) -> Measurement:
    """So that each has its own peak memory."""
    command = [sys.executable, "-m", __spec__.name, family, "--one", "--precisions", precision]
    command += ["--lora", lora, "--blocks", str(options.blocks)]
    command += ["--map", options.map, "--size", options.size]
    if options.resolution_px:
        command += ["--resolution-px", str(options.resolution_px)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def _print(results: list[Measurement]) -> None:
    table = Table(
        "family", "precision", "LoRA", "NVFP4 linears", "LoRA sites", "inputs", "constants", "plan"
    )
    for heading in ("plan / constants", "export", "compile", "peak memory", *KERNELS):
        table.add_column(heading)
    for result in results:
        table.add_row(
            f"{result.family} x {result.blocks}, {result.resolution_px} px",
            result.precision,
            result.lora,
            str(result.nvfp4_linears),
            str(result.lora_sites),
            str(result.inputs),
            filesize.decimal(result.weight_bytes),
            filesize.decimal(result.plan_bytes),
            f"{result.plan_bytes / result.weight_bytes:.2f}",
            f"{result.export_s} s",
            f"{result.compile_s} s",
            filesize.decimal(result.peak_bytes),
            str(result.kernels),
            str(result.lora_kernels),
            str(result.lora_copies),
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()

"""How far is an exported file from torch's NVFP4 model?

    python -m tests.benchmarks.onnx_parity [--families sana flux] [--out onnx_parity.json]

Every family's tiny configuration in every LoRA mode, with a zero and a non-zero adapter, run by
`onnx.reference`: as typed against the torch engine (BF16 rounds both), and in float32 against the
same model without rounding, in step with the file from one quantiser to the next. The worst of the
velocity and of every NVFP4 linear's input. Prints a table, writes JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from heliostat_engines.plans.graph_manifest import ExportOptions, LoraMode
from heliostat_engines.precisions import MapName, Precision
from tests.engines.export.cases import (
    ADAPTER_SIZE,
    MAX_RANK,
    Distance,
    export,
    make_adapter,
    make_model,
    make_sample,
    prove,
)

FAMILIES = ("sana", "flux", "sd3.5-large", "sd3.5-medium")
ADAPTERS = {"zero": 0.0, "non-zero": ADAPTER_SIZE}


@dataclass(frozen=True)
class Row:
    """One file under one adapter."""

    family: str
    lora: str
    adapter: str
    nvfp4_linears: int
    as_typed: Distance
    without_rounding: Distance


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--out", type=Path, default=Path("onnx_parity.json"))
    options = parser.parse_args()
    cases = [
        (family, lora, adapter)
        for family in options.families
        for lora in LoraMode
        for adapter in ADAPTERS
    ]
    rows = [measure(*case) for case in track(cases, "files")]
    show(rows)
    options.out.write_text(json.dumps([asdict(row) for row in rows], indent=2))


def measure(family: str, lora: LoraMode, adapter: str) -> Row:
    """Export and compare."""
    model = make_model(family)
    update = make_adapter(model, ADAPTERS[adapter])
    options = ExportOptions(Precision.NVFP4, MapName.PUBLISHED, lora, MAX_RANK)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = export(model, options, folder, update)
        sample = make_sample(model.family, model.transformer)
        proof = prove(model, manifest, folder, sample, update)
    linears = len(manifest.nvfp4_linears)
    return Row(family, lora, adapter, linears, proof.engine.worst, proof.exact.worst)


def show(rows: list[Row]) -> None:
    """A row a file."""
    table = Table(title="An exported file against torch, worst of velocity and linears' inputs")
    for column in (
        "family",
        "LoRA",
        "adapter",
        "NVFP4 linears",
        "as typed: relative error",
        "cosine",
        "without rounding: relative error",
        "cosine",
    ):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row.family,
            row.lora,
            row.adapter,
            str(row.nvfp4_linears),
            f"{row.as_typed.relative:.2e}",
            f"{row.as_typed.cosine:.6f}",
            f"{row.without_rounding.relative:.1e}",
            f"{row.without_rounding.cosine:.9f}",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

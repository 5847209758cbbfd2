"""How fast is a tensor quantised to NVFP4 and packed, here and in other libraries, on the CPU?

    pip install -e '.[dev,peers]'
    python -m tests.benchmarks.nvfp4_throughput [--threads 2] [--rounds 15] [--out nvfp4.json]

Every implementation starts from the same tensor and finds the global scale itself. Rounds are
interleaved, so a machine that slows down slows all of them; a ratio is taken within each round.
torchao and comfy-kitchen run their eager CPU path, comfy-kitchen also reorders the block scales.
Peak memory is what the process held beyond the input and its libraries (Linux only).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import comfy_kitchen
import torch
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale

from heliostat_engines.nvfp4 import format as nvfp4

SHAPES = ((1536, 192), (1536, 768), (2240, 2240), (3072, 3072), (4096, 3072), (12288, 3072))
"""The demo's activations, SANA's and FLUX's weights, 4,096 tokens of FLUX's activations."""
OURS = "heliostat"


def modelopt(values: torch.Tensor) -> object:
    return NVFP4QTensor.quantize(values, nvfp4.BLOCK)


def torchao(values: torch.Tensor) -> object:
    scale = per_tensor_amax_to_scale(values.abs().amax())
    return nvfp4_quantize(values, nvfp4.BLOCK, scale)


def comfy_kitchen_eager(values: torch.Tensor) -> object:
    with comfy_kitchen.use_backend("eager"):
        return comfy_kitchen.quantize_nvfp4(values, nvfp4.global_scale_of(values.abs().amax()))


def ours_without_a_compiler(values: torch.Tensor) -> object:
    return nvfp4._quantise_by_torch(values, nvfp4.global_scale_of(values.abs().amax()))


IMPLEMENTATIONS: dict[str, Callable[[torch.Tensor], object]] = {
    OURS: nvfp4.quantise,
    "heliostat, no compiler": ours_without_a_compiler,
    "modelopt": modelopt,
    "torchao": torchao,
    "comfy-kitchen": comfy_kitchen_eager,
}


@dataclass(frozen=True)
class Result:
    """One implementation on one tensor; ratios are its time over ours."""

    shape: tuple[int, int]
    dtype: str
    name: str
    median_ms: float
    ratio: float
    lowest_ratio: float
    highest_ratio: float
    peak_bytes_a_value: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("nvfp4_throughput.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = [(shape, dtype) for shape in SHAPES for dtype in (torch.bfloat16, torch.float32)]
    results: list[Result] = []
    with Progress() as progress:
        for shape, dtype in progress.track(cases, description="quantising"):
            results += _measure(shape, dtype, options.rounds)
    _print(results)
    options.out.write_text(
        json.dumps(
            {"threads": options.threads, "results": [asdict(result) for result in results]},
            indent=2,
        )
    )


def _measure(shape: tuple[int, int], dtype: torch.dtype, rounds: int) -> list[Result]:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    peaks = {name: _peak_bytes(run, values) for name, run in IMPLEMENTATIONS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    for _ in range(rounds):
        for name, run in IMPLEMENTATIONS.items():
            start = time.perf_counter()
            run(values)
            seconds[name].append(time.perf_counter() - start)
    return [_result(shape, dtype, name, seconds, peaks[name] / values.numel()) for name in seconds]


def _result(
    shape: tuple[int, int],
    dtype: torch.dtype,
    name: str,
    seconds: dict[str, list[float]],
    peak: float,
) -> Result:
    ratios = [other / ours for other, ours in zip(seconds[name], seconds[OURS], strict=True)]
    return Result(
        shape,
        str(dtype).removeprefix("torch."),
        name,
        statistics.median(seconds[name]) * 1e3,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        peak,
    )


def _peak_bytes(run: Callable[[torch.Tensor], object], values: torch.Tensor) -> int:
    """Resident memory at its highest during one call, beyond what was there before it."""
    run(values)
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that the allocator keeps would be reused unseen
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident_bytes("VmHWM")
    run(values)
    return _resident_bytes("VmHWM") - before


def _resident_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}")


def _print(results: list[Result]) -> None:
    table = Table(
        "tensor", "implementation", "ms", "x ours (lowest, highest)", "peak bytes a value"
    )
    for result in results:
        table.add_row(
            f"{result.shape[0]} x {result.shape[1]} {result.dtype}",
            result.name,
            f"{result.median_ms:.2f}",
            f"{result.ratio:.1f} ({result.lowest_ratio:.1f}, {result.highest_ratio:.1f})",
            f"{result.peak_bytes_a_value:.1f}",
            end_section=result.name == list(IMPLEMENTATIONS)[-1],
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

"""NVFP4 on the CPU in one pass: nvfp4_cpu.c, compiled where it runs, if there is a C compiler.

Torch's own operations need a dozen passes over the values; see docs/nvfp4.md for the difference.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("nvfp4_cpu.c")
COMPILE = (
    "-O3",
    "-march=native",
    "-ffp-contract=off",
    "-fno-trapping-math",
    "-fPIC",
    "-fopenmp",
    "-c",
)
"""No fast-math: the results must be the definition's to the bit."""
LINK = ("-shared",)
"""Without an OpenMP runtime: the one that torch has loaded is used, so torch.set_num_threads rules
these loops too and no second pool of threads competes with it."""

_SUFFIXES = {torch.bfloat16: "bf16", torch.float32: "f32"}
_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_log = logging.getLogger(__name__)


class CpuKernels:
    """The compiled functions, on CPU tensors in bfloat16 or float32."""

    def __init__(self, library: ctypes.CDLL) -> None:
        def function(name: str, result: type | None, *arguments: type) -> dict[torch.dtype, Any]:
            functions = {}
            for dtype, suffix in _SUFFIXES.items():
                functions[dtype] = library[f"{name}_{suffix}"]
                functions[dtype].argtypes = [_POINTER, _COUNT, *arguments]
                functions[dtype].restype = result
            return functions

        self._fake_quantise = function("fake_quantise", None, ctypes.c_float, _POINTER)
        self._quantise = function("quantise", None, ctypes.c_float, _POINTER, _POINTER)
        self._amax = function("amax", ctypes.c_int32)
        self._scale_and_add = function("scale_and_add", None, ctypes.c_float, _POINTER, _COUNT)

    def fake_quantise(self, values: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
        """values[..., K] -> block_scale * code[..., K] in the values' dtype."""
        values = values.contiguous()
        out = torch.empty_like(values)
        self._fake_quantise[values.dtype](
            values.data_ptr(), values.numel(), global_scale.item(), out.data_ptr()
        )
        return out

    def quantise(
        self,
        values: torch.Tensor,
        global_scale: torch.Tensor,
        codes: torch.Tensor,
        block_scales: torch.Tensor,
    ) -> None:
        """Fill codes[..., K / 2] and block_scales[..., K / 16] from values[..., K]."""
        self._quantise[values.dtype](
            values.data_ptr(),
            values.numel(),
            global_scale.item(),
            codes.data_ptr(),
            block_scales.data_ptr(),
        )

    def amax(self, values: torch.Tensor) -> torch.Tensor:
        """The largest magnitude, float32; NaN or infinite if a value is."""
        bits = self._amax[values.dtype](values.data_ptr(), values.numel())
        return torch.tensor(bits, dtype=torch.int32).view(torch.float32)

    def scale_and_add_(
        self, product: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """product[..., N] * scale + bias[N] in place, all in one dtype, rounded after each."""
        bias, rounded_scale = bias.contiguous(), scale.to(product.dtype).item()
        self._scale_and_add[product.dtype](
            product.data_ptr(), product.numel(), rounded_scale, bias.data_ptr(), bias.numel()
        )
        return product


def kernels_for(values: torch.Tensor) -> CpuKernels | None:
    """The kernels, if they take this tensor and this machine could compile them."""
    fits = values.device.type == "cpu" and values.dtype in _SUFFIXES
    return compiled() if fits else None


@functools.cache
def compiled() -> CpuKernels | None:
    """Compile and load the kernels, once a process (half a second); None if that fails."""
    compiler = shutil.which("cc")
    if compiler is None:
        _log.warning("no C compiler (cc) found: NVFP4 is emulated by torch operations, slower")
        return None
    with tempfile.TemporaryDirectory() as folder:
        compiled, library = Path(folder, "nvfp4_cpu.o"), Path(folder, "nvfp4_cpu.so")
        try:
            _run(compiler, *COMPILE, str(SOURCE), "-o", str(compiled))
            _run(compiler, *LINK, str(compiled), "-o", str(library))
            return CpuKernels(ctypes.CDLL(str(library)))
        except (subprocess.CalledProcessError, OSError) as error:
            _log.warning("NVFP4 is emulated by torch operations, slower: %s", error)
            return None


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)

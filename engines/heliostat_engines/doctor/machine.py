"""The machine's parts: system, GPU, torch, FP4, FP8, compilers."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import socket
from typing import TYPE_CHECKING

import pynvml  # type: ignore[import-untyped]
import torch
from rich import filesize

from heliostat_engines.doctor.findings import Finding, Level
from heliostat_engines.errors import RuntimeMissingError
from heliostat_engines.machine import arithmetic
from heliostat_engines.machine.hardware import (
    ADA,
    BLACKWELL,
    free_disk_bytes,
    free_memory_bytes,
    total_memory_bytes,
    usable_cores,
)
from heliostat_engines.machine.network import own_name_problem
from heliostat_engines.nvfp4 import cpu as nvfp4_cpu
from heliostat_engines.nvfp4 import native as native_fp4
from heliostat_engines.plans.vendor import Runtime, load_vendor
from heliostat_engines.torch_compile import compiler, compiler_problem

if TYPE_CHECKING:
    from pathlib import Path

    from heliostat_engines.machine.hardware import Gpu


def examine_machine(gpu: Gpu | None, cache: Path) -> list[Finding]:
    """Every part; `cache` is where engines are kept."""
    return [
        _system(),
        _memory(),
        _disk(cache),
        _own_name(),
        _gpu(gpu),
        Finding(part="torch", level=Level.GOOD, text=torch.__version__),
        Finding(part="CPU arithmetic", level=Level.GOOD, text=arithmetic.explanation()),
        _fp4(gpu),
        _fp8(gpu),
        _c_compiler(),
        _torch_compile("cpu" if gpu is None else "cuda"),
        *(_vendor(runtime) for runtime in Runtime),
    ]


def _system() -> Finding:
    cores = usable_cores()
    text = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {cores} CPU cores"
    return Finding(part="system", level=Level.GOOD, text=text)


def _memory() -> Finding:
    free, total = filesize.decimal(free_memory_bytes()), filesize.decimal(total_memory_bytes())
    return Finding(part="memory", level=Level.GOOD, text=f"{free} of {total} free")


def _disk(cache: Path) -> Finding:
    free = filesize.decimal(free_disk_bytes(cache))
    return Finding(part="disk", level=Level.GOOD, text=f"{free} free at {cache}")


def _own_name() -> Finding:
    """What several ranks need, and nothing else: no problem for one process."""
    problem = own_name_problem()
    if problem is None:
        text = f"{socket.gethostname()} resolves: ranks of torchrun find one another"
        return Finding(part="host name", level=Level.GOOD, text=text)
    return Finding(part="host name", level=Level.NOTE, text=problem)


def _gpu(gpu: Gpu | None) -> Finding:
    driver = _driver_version()
    if gpu is not None:
        free, total = filesize.decimal(gpu.free_bytes), filesize.decimal(gpu.total_bytes)
        text = f"{gpu.name}, {gpu.sm}, {free} of {total} free, driver {driver}"
        return Finding(part="GPU", level=Level.GOOD, text=text)
    if driver is None:
        text = "none: engines can be compiled here (--target sm120), but run elsewhere"
        return Finding(part="GPU", level=Level.NOTE, text=text)
    text = (
        f"there is an NVIDIA driver ({driver}), but torch {torch.__version__} cannot use it: "
        "install torch for CUDA (https://pytorch.org), or update the driver"
    )
    return Finding(part="GPU", level=Level.PROBLEM, text=text)


def _driver_version() -> str | None:
    try:
        pynvml.nvmlInit()
        version = str(pynvml.nvmlSystemGetDriverVersion())
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    return version


def _fp4(gpu: Gpu | None) -> Finding:
    if gpu is not None and native_fp4.usable_on(torch.device("cuda")):
        text = "native: the torch runtime multiplies on FP4 tensor cores through comfy-kitchen"
        return Finding(part="FP4", level=Level.GOOD, text=text)
    return Finding(part="FP4", level=Level.NOTE, text=f"emulated exactly, {_why_emulated(gpu)}")


def _why_emulated(gpu: Gpu | None) -> str:
    if gpu is None:
        return "since there is no GPU: results are those of FP4, speed is not"
    if gpu.capability >= BLACKWELL:
        return "though this GPU has FP4 tensor cores: pip install 'heliostat[fp4]'"
    if gpu.capability >= ADA:
        return f"since {gpu.sm} has no FP4 tensor cores: the default here is --precision fp8"
    return f"since {gpu.sm} has no FP4 tensor cores: build engines with --precision nvfp4-w4a16"


def _fp8(gpu: Gpu | None) -> Finding:
    if gpu is not None and gpu.capability >= ADA:
        text = f"native: torch and engines multiply on {gpu.sm}'s FP8 tensor cores"
        return Finding(part="FP8", level=Level.GOOD, text=text)
    lack = "there is no GPU" if gpu is None else f"{gpu.sm} has no FP8 tensor cores"
    text = f"emulated exactly, since {lack}: results are those of FP8, speed is not"
    return Finding(part="FP8", level=Level.NOTE, text=text)


def _c_compiler() -> Finding:
    compiler = shutil.which("cc")
    if compiler is None:
        text = "no cc: NVFP4 on the CPU takes a dozen passes instead of one; install gcc"
        return Finding(part="C compiler", level=Level.NOTE, text=text)
    if nvfp4_cpu.compiled() is None:
        text = (
            f"{compiler} cannot compile nvfp4_cpu.c (its reason is in the log), so NVFP4 on the "
            "CPU is slower: install a newer gcc"
        )
        return Finding(part="C compiler", level=Level.PROBLEM, text=text)
    text = f"{compiler}: NVFP4 on the CPU in one pass"
    return Finding(part="C compiler", level=Level.GOOD, text=text)


def _torch_compile(device: str) -> Finding:
    problem = compiler_problem(device)
    if problem is not None:
        return Finding(part="torch.compile", level=Level.NOTE, text=problem)
    text = f"{compiler(device)}: heliostat serve --runtime torch-compile works here"
    return Finding(part="torch.compile", level=Level.GOOD, text=text)


def _vendor(runtime: Runtime) -> Finding:
    installed = importlib.util.find_spec(runtime) is not None
    try:
        vendor = load_vendor(runtime)
    except RuntimeMissingError as error:
        level = Level.PROBLEM if installed else Level.NOTE
        return Finding(part=runtime, level=level, text=str(error))
    return Finding(part=runtime, level=Level.GOOD, text=vendor.version)

"""torch.compile on this machine: what it needs, where its code is kept, and how blocks are given to it.

A model's repeated blocks are compiled, not the whole of it: blocks of one kind share one graph, so that what is
compiled does not grow with the model's depth. Imports torch only where it compiles: a command line asks first.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from heliostat_engines.errors import HardwareError
from heliostat_engines.files.atomic import claim_folder
from heliostat_engines.files.ownership import Layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

RECOMPILE_LIMIT = 64
"""Graphs of one function: a kind of block has one for each shape. Dynamo stops at 8 unless told otherwise."""
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""Torch's own: where it keeps what it compiled."""
CACHE = Layout(
    kind="a folder of what torch compiled",
    advice=f"set {CACHE_VARIABLE} to a folder that is new or empty",
)
CPU_COMPILERS = ("g++",)
"""As torch looks for them."""
GPU_COMPILERS = ("clang", "gcc")
"""As Triton does, which builds its launchers with one."""


def compiler(device: str) -> Path | None:
    """The compiler that torch.compile calls for a device; None: there is none."""
    variable, names = _compilers(device)
    asked = os.environ.get(variable)
    found = map(shutil.which, [asked] if asked else names)
    return next((Path(path) for path in found if path), None)


def compiler_problem(device: str) -> str | None:
    """What torch.compile lacks here, with what to install; None: nothing."""
    variable, names = _compilers(device)
    if device != "cpu" and importlib.util.find_spec("triton") is None:
        return "torch.compile needs triton for a GPU: pip install triton"
    if compiler(device) is None:
        asked = os.environ.get(variable)
        lack = f"{variable} names {asked}, which is not there" if asked else f"no {names[-1]}"
        return f"torch.compile needs a compiler ({lack}): apt-get install {names[-1]}"
    headers = Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").is_file():
        return f"torch.compile needs Python's headers ({headers}): apt-get install python3-dev"
    return None


def require_compiler(device: str, setting: str, instead: str) -> None:
    """Refuse before work starts what would fail while it compiles.

    Args:
        device: "cpu", or a CUDA device.
        setting: what asks for compilation, as the user wrote it.
        instead: the setting that goes without.

    Raises:
        HardwareError: names the setting and what to install.
    """
    problem = compiler_problem(device)
    if problem is not None:
        raise HardwareError(f"{setting}: {problem}, or {instead}")


def default_code_cache() -> Path:
    """In the user's folder for caches: on Linux under XDG_CACHE_HOME, or ~/.cache."""
    return user_cache_path("heliostat") / "compiled"


def compile_blocks(
    blocks: Iterable[nn.Module], *, dynamic: bool | None = None, rounds_as_eager: bool = False
) -> None:
    """Have torch compile each block when it is first called with a shape.

    Compiled code is kept between processes, graphs are not: torch would keep those as pickles.

    Args:
        blocks: their parameters, buffers and tensors are inputs of the graphs, which equal blocks share.
        dynamic: as torch.compile takes it; False: a graph for each shape.
        rounds_as_eager: round to BF16 wherever the uncompiled block does, not once for what is fused.

    Raises:
        FilesError: the folder of compiled code cannot be used.
    """
    import torch

    if CACHE_VARIABLE not in os.environ:
        folder = default_code_cache()
        claim_folder(folder, CACHE, mode=0o700)  # what is in it is run
        os.environ[CACHE_VARIABLE] = str(folder)
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    options = {"fx_graph_cache": False, "emulate_precision_casts": rounds_as_eager}
    for block in blocks:
        block.compile(dynamic=dynamic, options=options)


def _compilers(device: str) -> tuple[str, tuple[str, ...]]:
    """The variable that names one, and where none is named, those that are looked for."""
    return ("CXX", CPU_COMPILERS) if device == "cpu" else ("CC", GPU_COMPILERS)

"""Finding tritonserver, and what it needs to run our Python models."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from heliostat_engines.files.atomic import atomic_folder
from heliostat_engines.files.ownership import Layout
from heliostat_server.errors import ServerStartError

_MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"

BACKENDS = Layout(
    kind="Triton's backend directory",
    advice="move what is not heliostat's out of the server's state folder",
    required=frozenset({"python/triton_python_backend_stub@"}),
    patterns=("python/*@", "python/__pycache__/*.pyc"),
)

_TUNING = {
    # Three processes share the cores: idle OpenMP threads must sleep, not spin.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    # Without these every activation of a CPU run is mapped afresh and faulted in page by page:
    # a third of the CPU time of denoising.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
}


@dataclass(frozen=True)
class TritonInstallation:
    """A tritonserver binary, its backend directory, and extra folders of shared libraries."""

    binary: Path
    backends: Path
    libraries: tuple[Path, ...] = ()

    def environment(self) -> dict[str, str]:
        """Ours, such that the Python backend runs this very interpreter's packages."""
        environment = dict(os.environ)
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), _path()])
        libraries = [str(path) for path in self.libraries]
        libraries += filter(None, [environment.get("LD_LIBRARY_PATH")])
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
        for name, value in _TUNING.items():
            environment.setdefault(name, value)
        return environment


def find_triton(binary: Path | None, assembled: Path) -> TritonInstallation:
    """The given binary, the one on PATH, or the one of the wheel nvidia-pytriton.

    `assembled` is the folder where the wheel's backend directory is put together.

    Raises:
        ServerStartError: there is none, or it cannot run our models.
        FilesError: `assembled` is none that we put together.
    """
    if binary is not None and not binary.is_file():
        raise ServerStartError(f"there is no {binary}: give the path of the tritonserver binary")
    found = binary or shutil.which("tritonserver")
    if found is not None:
        path = Path(found).resolve()
        return TritonInstallation(path, path.parent.parent / "backends")
    return _from_wheel(assembled)


def check_numpy(version: str) -> None:
    """Refuse numpy 2: every tensor of the wheel's Python backend would be empty, silently."""
    if int(version.split(".")[0]) >= 2:
        raise ServerStartError(
            f"numpy {version} does not work with the bundled tritonserver (every answer would be "
            "empty): pip install 'numpy<2', or give another server with --tritonserver"
        )


def _from_wheel(assembled: Path) -> TritonInstallation:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ServerStartError(
            "no tritonserver found: pip install 'heliostat[server]' brings one (Linux, x86-64), "
            "or give one with --tritonserver PATH or --triton-url HOST:PORT"
        )
    check_numpy(importlib.metadata.version("numpy"))
    package = Path(spec.origin).parent
    server = package / "tritonserver"
    _assemble_backend(server, assembled)
    libraries = (package.parent / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR")))
    return TritonInstallation(server / "bin" / "tritonserver", assembled, libraries)


def _assemble_backend(server: Path, target: Path) -> None:
    """Link the Python backend and the stub of this Python's version into one folder."""
    stub = server / "python_backend_stubs" / _MINOR / "triton_python_backend_stub"
    if not stub.exists():
        known = ", ".join(sorted(path.name for path in stub.parent.parent.iterdir()))
        raise ServerStartError(
            f"the bundled tritonserver runs no Python {_MINOR} ({platform.machine()}), only "
            f"{known}: use one of these, or give a server with --tritonserver"
        )
    with atomic_folder(target, BACKENDS) as draft:
        backend = draft / "python"
        backend.mkdir()
        for source in (stub, *(server / "backends" / "python").iterdir()):
            if source.name != "__pycache__":
                (backend / source.name).symlink_to(source)


def _path() -> str:
    return os.environ.get("PATH", os.defpath)

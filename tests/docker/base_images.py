"""The images that docker/ builds upon, made of Debian's packages: no registry of images is asked."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from tests.docker.deployment import ROOT
from tests.docker.engine import GATEWAY
from tests.docker.machine import unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.docker.engine import Engine

IMAGES = Path(__file__).parent / "images"
SUITE = "bookworm"
PACKAGES = ("ca-certificates", "libpython3.11", "python3-pip", "python3-venv", "wget")
TIMEOUT_S = 1800
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def make_base_images(docker: Engine, folder: Path) -> None:
    """Of Python, Valkey and Prometheus, under the names that docker/ has them by."""
    docker.docker("import", str(_root_archive()), "debian-root:test")
    context = shutil.copytree(IMAGES, folder / "images")
    shutil.copy(CERTIFICATES, context / "ca-certificates.crt")
    (context / "pip.conf").write_text(_pip_settings())
    for services in (["python"], ["valkey", "prometheus"]):
        docker.docker("compose", "build", "--quiet", *services, folder=context)


def _root_archive() -> Path:
    """A root of Debian's as a tar, kept for the next time."""
    cache = platformdirs.user_cache_path("heliostat-tests", ensure_exists=True)
    archive = cache / f"{SUITE}-{'-'.join(PACKAGES)}.tar"
    if archive.exists():
        return archive
    sources = [str(each) for each in SOURCES if each.exists()][:1]
    if shutil.which("mmdebstrap") is None or not sources:
        unavailable("a root of Debian's cannot be made: mmdebstrap and apt's sources are needed")
    begun = archive.with_suffix(".begun.tar")
    command = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(PACKAGES)}"]
    run = subprocess.run(
        [*command, SUITE, str(begun), *sources],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert run.returncode == 0, run.stderr
    return begun.rename(archive)


def _pip_settings() -> str:
    """This machine's, as far as a container has use for them: what lies in its folders is left out."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    kept = {
        name: value
        for name, value in re.findall(r"(?m)^[\w:]+\.([\w-]+)='(.*)'$", listed.stdout)
        if name in {"index-url", "proxy"} and not value.startswith("file:")
    }
    lines = [f"{name} = {value}" for name, value in kept.items()]
    return "\n".join(["[global]", f"cert = {CERTIFICATES}", f"trusted-host = {GATEWAY}", *lines])


@contextmanager
def torch_index(folder: Path) -> Iterator[str | None]:
    """The address of an index of torch's CPU build, if pip has one here; None: it has to be PyTorch's own."""
    packages = folder / "torch"
    packages.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--constraint", str(ROOT / "constraints.txt"), "--dest", str(packages), "torch"]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)
    if not list(packages.glob("torch-*+cpu-*.whl")):
        yield None
        return
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer((GATEWAY, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://{GATEWAY}:{server.server_port}"
        finally:
            server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from heliostat_engines.files.ownership import MARKER
from heliostat_server.errors import ServerStartError
from heliostat_server.triton import installation
from heliostat_server.triton.installation import check_numpy, find_triton

if TYPE_CHECKING:
    from pathlib import Path


def test_numpy_2_is_refused_in_a_sentence() -> None:
    check_numpy("1.26.4")
    with pytest.raises(
        ServerStartError, match=r"numpy 2.1.0 does not work .* pip install 'numpy<2'"
    ):
        check_numpy("2.1.0")


def test_a_missing_binary_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match=r"there is no .*nowhere"):
        find_triton(tmp_path / "nowhere", tmp_path)


def test_the_wheels_backend_gets_the_stub_of_this_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation.shutil, "which", lambda _: None)
    found = find_triton(None, tmp_path / "backends")
    assert found.binary.exists()
    assert {path.name for path in (tmp_path / "backends" / "python").iterdir()} == {
        "libtriton_python.so",
        "triton_python_backend_stub",
        "triton_python_backend_utils.py",
    }
    # What Python leaves there while it runs, and what versions before markers left.
    (tmp_path / "backends" / "python" / "__pycache__").mkdir()
    (tmp_path / "backends" / "python" / "__pycache__" / "utils.cpython-311.pyc").touch()
    find_triton(None, tmp_path / "backends")
    (tmp_path / "backends" / MARKER).unlink()
    find_triton(None, tmp_path / "backends")
    environment = found.environment()
    assert environment["PATH"].startswith(os.path.dirname(sys.executable))  # noqa: PTH120
    assert "nvidia_pytriton.libs" in environment["LD_LIBRARY_PATH"]

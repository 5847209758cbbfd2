from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from heliostat_engines import torch_compile
from heliostat_engines.errors import FilesError, HardwareError
from heliostat_engines.torch_compile import (
    CACHE_VARIABLE,
    compile_blocks,
    compiler_problem,
    default_code_cache,
    require_compiler,
)


def test_what_is_missing_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiler_problem("cpu") == "torch.compile needs a compiler (no g++): apt-get install g++"
    monkeypatch.setitem(sys.modules, "triton", None)
    assert compiler_problem("cuda") == "torch.compile needs triton for a GPU: pip install triton"
    program = tmp_path / "g++"
    program.touch(mode=0o755)
    monkeypatch.setattr(torch_compile.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert str(compiler_problem("cpu")).endswith("apt-get install python3-dev")
    (tmp_path / "Python.h").touch()
    assert compiler_problem("cpu") is None
    monkeypatch.setenv("CXX", "another")
    with pytest.raises(HardwareError, match=r"^--x: .*CXX names another, .*, or set --y$"):
        require_compiler("cpu", "--x", "set --y")


def test_code_is_kept_in_the_users_cache_unless_torch_is_told_another_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "mine"))
    compile_blocks([torch.nn.Identity()])
    assert os.environ[CACHE_VARIABLE] == str(tmp_path / "mine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(CACHE_VARIABLE)
    compile_blocks([torch.nn.Identity()])
    folder = default_code_cache()
    assert os.environ[CACHE_VARIABLE] == str(folder)
    assert folder.is_relative_to(tmp_path)
    assert folder.stat().st_mode & 0o077 == 0
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    (tmp_path / "other" / "heliostat" / "compiled").mkdir(parents=True)
    (tmp_path / "other" / "heliostat" / "compiled" / "someones").touch()
    with pytest.raises(FilesError, match=CACHE_VARIABLE):
        compile_blocks([torch.nn.Identity()])

"""What of a machine a process may use, on trees of /proc and /sys as kernels and containers have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from heliostat_engines.errors import HardwareError
from heliostat_engines.machine import hardware
from heliostat_engines.machine.hardware import (
    choose_device,
    default_precision,
    default_threads,
    free_memory_bytes,
    total_memory_bytes,
    usable_cores,
)
from heliostat_engines.precisions import Precision

GIB = 2**30


def tree(root: Path, membership: str, files: dict[str, str]) -> Path:
    """A root with /proc/self/cgroup and files under /sys/fs/cgroup."""
    placed = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in {"proc/self/cgroup": membership, **placed}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """An affinity of eight cores, and 64 GiB of which 40 are available."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    memory = SimpleNamespace(available=40 * GIB, total=64 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "3200000 100000\n"}, 8),
        (
            "0::/pod/box\n",
            {"pod/cpu.max": "300000 100000\n", "pod/box/cpu.max": "max 100000\n"},
            3,
        ),
        (
            "0::/pod/box\n",
            {"pod/cpu.max": "600000 100000\n", "pod/box/cpu.max": "200000 100000\n"},
            2,
        ),
        ("0::/not/mounted/here\n", {"cpu.max": "400000 100000\n"}, 4),
        (
            "4:cpu,cpuacct:/docker/0a\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            "4:cpu:/a/b\n0::/\n",
            {
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "cpu/a/cpu.cfs_quota_us": "500000\n",
                "cpu/a/cpu.cfs_period_us": "100000\n",
                "cpu/a/b/cpu.cfs_quota_us": "-1\n",
                "cpu/a/b/cpu.cfs_period_us": "100000\n",
                "unified/cgroup.procs": "",
            },
            5,
        ),
    ],
    ids=[
        "none",
        "v2-max",
        "v2-two-and-a-half",
        "v2-half",
        "v2-above-the-affinity",
        "v2-above",
        "v2-nested",
        "v2-path-of-the-host",
        "v1-in-a-container",
        "v1-nested-hybrid",
    ],
)
def test_cores_are_those_of_the_smallest_quota(
    tmp_path: Path, membership: str, files: dict[str, str], cores: int
) -> None:
    root = tree(tmp_path, membership, files)
    assert usable_cores(root) == cores
    assert default_threads(root=root) == cores


def test_ranks_share_the_cores_and_an_environment_variable_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [default_threads(ranks, tmp_path) for ranks in (1, 2, 3, 8, 16)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert default_threads(1, tmp_path) == 1
    assert default_threads(2, tmp_path) == 4, "1 is torchrun's own"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [default_threads(ranks, tmp_path) for ranks in (1, 2)] == [3, 3]


@pytest.mark.parametrize(
    ("membership", "files", "free", "total"),
    [
        ("", {}, 40 * GIB, 64 * GIB),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "5\n"}, 40 * GIB, 64 * GIB),
        (
            "0::/\n",
            {
                "memory.max": str(8 * GIB),
                "memory.current": str(6 * GIB),
                "memory.stat": f"anon {2 * GIB}\ninactive_file {3 * GIB}\n",
            },
            5 * GIB,
            8 * GIB,
        ),
        (
            "0::/pod/box\n",
            {
                "pod/memory.max": str(16 * GIB),
                "pod/memory.current": str(15 * GIB),
                "pod/box/memory.max": str(8 * GIB),
                "pod/box/memory.current": str(2 * GIB),
            },
            1 * GIB,
            8 * GIB,
        ),
        (
            "9:memory:/docker/0a\n",
            {
                "memory/memory.limit_in_bytes": str(4 * GIB),
                "memory/memory.usage_in_bytes": str(5 * GIB),
                "memory/memory.stat": f"cache 1\ntotal_inactive_file {GIB // 2}\n",
            },
            0,
            4 * GIB,
        ),
        (
            "9:memory:/\n",
            {
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/memory.usage_in_bytes": "1\n",
            },
            40 * GIB,
            64 * GIB,
        ),
    ],
    ids=["none", "v2-max", "v2", "v2-nested", "v1-full", "v1-unlimited"],
)
def test_memory_is_what_the_groups_leave(
    tmp_path: Path, membership: str, files: dict[str, str], free: int, total: int
) -> None:
    root = tree(tmp_path, membership, files)
    assert (free_memory_bytes(root), total_memory_bytes(root)) == (free, total)


def test_auto_is_cuda_where_there_is_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(asked, "") for asked in ("auto", "cuda:1", "cpu")] == [
        "cuda",
        "cuda:1",
        "cpu",
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose_device(asked, "") for asked in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(HardwareError, match=r"^--device gpu, but torch sees no CUDA card"):
        choose_device("cuda", "--device gpu")


def test_it_is_imported_without_torch() -> None:
    probe = f"import sys, {hardware.__name__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("capability", "precision"),
    [
        (None, Precision.NVFP4),
        ((8, 0), Precision.NVFP4),
        ((8, 9), Precision.FP8),
        ((9, 0), Precision.FP8),
        ((10, 0), Precision.NVFP4),
        ((12, 1), Precision.NVFP4),
    ],
)
def test_a_card_explores_in_what_it_multiplies(
    capability: tuple[int, int] | None, precision: Precision
) -> None:
    assert default_precision(capability) is precision

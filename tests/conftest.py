from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of trainers, which else take all cores


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    """Tests start several processes that compute: more threads than cores would only spin."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """computing("float32"): what the CPU computes in from here on, whatever it has units for."""
    from heliostat_engines.machine import arithmetic

    def choose(name: str) -> None:
        monkeypatch.setenv(arithmetic.CPU_DTYPE, name)
        arithmetic.cpu_dtype.cache_clear()

    yield choose
    arithmetic.cpu_dtype.cache_clear()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked gpu where there is none."""
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish() -> None:
    """What is imported stays: else every collection of garbage goes through millions of objects."""
    gc.collect()
    gc.freeze()

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from heliostat_engines.errors import HardwareError
from heliostat_engines.families import get_family
from heliostat_engines.machine import arithmetic
from heliostat_engines.runtimes.torch import TorchEngine


@pytest.mark.parametrize(
    ("units", "dtype"),
    [
        ({"avx2": True, "avx512_f": True}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_a_cpu_computes_in_what_it_has_units_for(
    computing: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    units: dict[str, bool],
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    computing("")
    assert arithmetic.cpu_dtype() is dtype
    assert arithmetic.compute_dtype("cuda:1") is torch.bfloat16
    has = "has BF16" if dtype is torch.bfloat16 else "has no BF16"
    assert has in arithmetic.explanation()


def test_the_environment_forces_either(computing: Callable[[str], None]) -> None:
    for name, dtype in arithmetic.CHOICES.items():
        computing(f" {name}\n")
        assert arithmetic.compute_dtype("cpu") is dtype
        assert arithmetic.explanation() == f"{name}, as {arithmetic.CPU_DTYPE} says"


def test_another_word_is_refused_in_one_sentence(computing: Callable[[str], None]) -> None:
    computing("fp16")
    with pytest.raises(
        HardwareError, match="HELIOSTAT_CPU_DTYPE = 'fp16': set it to bfloat16 or float32"
    ):
        arithmetic.cpu_dtype()


def test_weights_of_sixteen_bits_are_widened_where_there_are_no_units(
    computing: Callable[[str], None],
) -> None:
    computing("float32")
    assert arithmetic.dtype_on("cpu", torch.float16) is torch.float32
    assert arithmetic.dtype_on("cuda", torch.float16) is torch.float16
    computing("bfloat16")
    assert arithmetic.dtype_on("cpu", torch.float16) is torch.float16
    assert arithmetic.dtype_on("cpu", torch.float32) is torch.float32


def test_an_engine_says_what_it_computes_in(
    computing: Callable[[str], None], random_checkpoint: Path
) -> None:
    for name in arithmetic.CHOICES:
        computing(name)
        assert (
            TorchEngine(get_family("demo"), str(random_checkpoint)).describe().compute_dtype == name
        )

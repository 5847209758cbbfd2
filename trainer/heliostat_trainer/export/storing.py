"""Weights as a file holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.finite import are_finite
from heliostat_trainer.errors import ConfigError

if TYPE_CHECKING:
    import torch


def stored(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor in `dtype`, on the CPU and contiguous.

    Raises:
        ConfigError: a value of it becomes infinite, as one above 65504 does in float16.
    """
    cast = tensor.detach().to(dtype).cpu().contiguous()
    if not are_finite([cast]):
        name = str(dtype).removeprefix("torch.")
        raise ConfigError(
            f"{name} does not hold these weights: one becomes infinite; export with --dtype "
            "bfloat16 or float32"
        )
    return cast

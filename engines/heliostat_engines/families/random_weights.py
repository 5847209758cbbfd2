"""Models of random weights: what tests and measurements run on when there is no checkpoint."""

from __future__ import annotations

import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VECTOR_DEVIATION = 0.1
"""Of biases and of norm gains around one."""


def build_module(
    model_class: type[Any], config: Mapping[str, Any], device: str, dtype: torch.dtype
) -> nn.Module:
    """A diffusers model with its class's own initialisation, made in `dtype` on `device`."""
    with made_on(device, dtype):
        module: nn.Module = model_class.from_config(dict(config))
    return nn.Module.to(module, dtype)  # diffusers' own `to` warns of modules it keeps apart


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Fill every parameter so that signals keep their size and nothing is zero.

    A parameter's values depend on the seed and its name alone: the first block of a model cut
    to one block is the first block of the whole. On a GPU the values are that GPU's: billions of
    them would take the host minutes.
    """
    for name, parameter in module.named_parameters():
        place = parameter.device if parameter.is_cuda else "cpu"
        generator = torch.Generator(place).manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
        values = torch.randn(parameter.shape, generator=generator, device=place)
        if parameter.ndim > 1:
            values /= parameter[0].numel() ** 0.5
        else:
            values *= VECTOR_DEVIATION
            values += name.endswith("weight")
        parameter.copy_(values)


@contextmanager
def made_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Modules that are made within are on that device, in that dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)

"""The seed -> noise contract: the one way in which server and trainer draw noise.

A seed says all there is to a sample: its initial noise, and, of a stochastic sampler, which steps
are stochastic and the noise of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

SEED_LIMIT = 2**32
"""torch's CPU generator reads 32 bits of a seed: s and s + 2^32 would draw the same noise."""


def initial_noise(seeds: Sequence[int], latent_shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise[B, *latent_shape] in float32 on the CPU, one generator a seed.

    It depends on nothing but the seed and the shape: not on the device, the batch that a seed
    travels in, or the side that draws it, so that any candidate can be redrawn elsewhere, in
    plain diffusers too. Cast and move the result afterwards.

    Raises:
        ValueError: a seed is negative or does not fit 32 bits.
    """
    return torch.cat([_one(seed, latent_shape) for seed in seeds])


def step_noise(seeds: Sequence[int], step: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise[B, *latent_shape] of a sampler's step `step`, which counts from 0.

    As `initial_noise`, but of (seed, step): independent of the initial noise and of other steps'.

    Raises:
        ValueError: a seed is negative or does not fit 32 bits.
    """
    return torch.cat([_one(_word(seed, step + 1), latent_shape) for seed in seeds])


def window_start(seed: int, starts: int) -> int:
    """Which of `starts` steps is the first stochastic one of a seed's sample."""
    return _word(seed, 0) % starts


def _word(seed: int, position: int) -> int:
    """32 bits of (seed, position)."""
    _check(seed)
    return int(np.random.SeedSequence([seed, position]).generate_state(1)[0])


def _one(seed: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
    _check(seed)
    generator = torch.Generator("cpu").manual_seed(seed)
    noise: torch.Tensor = randn_tensor((1, *latent_shape), generator=generator, dtype=torch.float32)
    return noise


def _check(seed: int) -> None:
    if not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"seed {seed} is out of range: seeds lie in [0, 2^32)")

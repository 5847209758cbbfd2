"""Every random number of a run, drawn from (run seed, purpose, step, row) and nothing else.

Without a state to carry, a resumed run draws what the uninterrupted one would have drawn, and
nothing depends on the order in which groups come back from the server.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SEEDS = 2**32
"""torch's CPU generator reads 32 bits of a seed: s and s + 2^32 draw the same noise."""


class Purpose(IntEnum):
    """What a stream of random numbers is for; the numbers are part of the results."""

    PROMPTS = 0
    CANDIDATES = 1
    SELECTION = 2
    TIMESTEPS = 3
    TRAINING_NOISE = 4
    LORA_INIT = 5
    EVALUATION = 6
    MINI_BATCHES = 7
    SHOWCASE = 8
    WATCH = 9
    HELDOUT = 10
    CURRICULUM = 11
    SPREAD = 12


def stream(seed: int, purpose: Purpose, *position: int) -> np.random.Generator:
    """The generator of one purpose at one position (step, row, ...) of the run."""
    return np.random.default_rng(np.random.SeedSequence([seed, int(purpose), *position]))


def torch_stream(seed: int, purpose: Purpose, *position: int) -> torch.Generator:
    """As `stream`, for torch; always on the CPU, so that devices agree."""
    import torch  # the configuration is read without it

    word = stream(seed, purpose, *position).integers(SEEDS)
    return torch.Generator("cpu").manual_seed(int(word))


def candidate_seeds(seed: int, purpose: Purpose, count: int, *position: int) -> tuple[int, ...]:
    """Distinct seeds[count] of initial noise."""
    drawn = stream(seed, purpose, *position).choice(SEEDS, size=count, replace=False)
    return tuple(int(value) for value in drawn)

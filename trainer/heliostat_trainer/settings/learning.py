"""[lora], [optimiser], [old_policy] and [ema]: what is trained, and how it follows the gradient."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from heliostat_engines.settings import Count, Decay, Limit, NotNegative, Positive, Settings


class LrSchedule(StrEnum):
    """How the learning rate changes over `optimiser.lr_steps`."""

    CONSTANT = "constant"
    """Not at all: the run can be continued with more steps."""
    COSINE = "cosine"
    """Falls to 0 as half a cosine, which averages the noise of the last updates away."""


class OptimiserName(StrEnum):
    """How the optimiser keeps its moments."""

    ADAMW = "adamw"
    """In float32: 8 bytes a LoRA parameter."""
    ADAMW_8BIT = "adamw_8bit"
    """In 8 bits with a scale a block of 256 (bitsandbytes): 2 bytes. Needs `heliostat[adamw-8bit]`."""


class LoraSection(Settings):
    """[lora]: the trained low-rank update."""

    rank: Count = 32
    """Rank of every module's update; at most the server's --max-rank."""
    alpha: Positive = 64.0
    """The update is scaled by alpha / rank."""


class OptimiserSection(Settings):
    """[optimiser]: AdamW on the LoRA."""

    name: OptimiserName = OptimiserName.ADAMW
    """adamw, or adamw_8bit, which keeps its moments in a quarter of the memory."""
    lr: Annotated[float, Field(gt=0, le=1)] = 3e-4
    """Learning rate, of the first step."""
    lr_schedule: LrSchedule = LrSchedule.CONSTANT
    """constant, or cosine: falls to 0 at lr_steps. A run that run.minutes ends is not there yet."""
    lr_steps: Count | None = None
    """Training steps that the schedule stretches over; by default the run.steps that the run was
    started with, and a resumed run keeps them unless this is set."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the two moments."""
    weight_decay: NotNegative = 1e-4
    """Decoupled weight decay."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    max_grad_norm: Limit = 1.0
    """The gradient is clipped to this norm; inf: it is not."""
    updates_per_step: Count = 1
    """Optimiser steps in one training step; more than 1 splits the samples at random."""
    micro_batch: Count = 48
    """Sample-timestep rows evaluated at once (memory and speed only)."""

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of training step `step`, which counts from 1, of `steps`."""
        if self.lr_schedule is LrSchedule.CONSTANT:
            return self.lr
        return self.lr * (1 + math.cos(math.pi * min(step - 1, steps) / steps)) / 2


class OldPolicySection(Settings):
    """[old_policy]: old <- decay old + (1 - decay) trained, decay = min(slope step, max)."""

    decay_slope: NotNegative = 0.001
    """By how much the decay grows each step."""
    decay_max: Decay = 0.5
    """The largest decay; by default 0 under the GRPO objectives, whose narrow clip expects samples
    of the very policy that is trained."""

    def decay(self, step: int) -> float:
        """The decay after training step `step`, which counts from 1."""
        return min(self.decay_slope * step, self.decay_max)

    def is_trained_before(self, step: int) -> bool:
        """Whether the old policy is the trained one, to the bit, when training step `step` begins."""
        return self.decay(step - 1) == 0


class EmaSection(Settings):
    """[ema]: the moving average of the trained LoRA, which is evaluated and exported."""

    decay: Decay = 0.9
    """The largest decay; it warms up as (1 + step) / (10 + step)."""

    def decay_at(self, step: int) -> float:
        """The decay after training step `step`, which counts from 1."""
        return min((1 + step) / (10 + step), self.decay)

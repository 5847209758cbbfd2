"""Draws seeds in BF16, as the server does in NVFP4: the same noise, the same sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_engines.noise import initial_noise
from heliostat_engines.sampling import guided, sample_euler
from heliostat_engines.stochastic import Trajectory
from heliostat_trainer.policy import COMPUTE_DTYPE, PolicyName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.families.family import Family
    from heliostat_engines.stochastic import StochasticSampler
    from heliostat_trainer.policy import Policy


class Artist:
    """Draws clean latents from seeds with one of the policies."""

    def __init__(
        self,
        policy: Policy,
        family: Family,
        resolution_px: int,
        batch: int,
        sampler: StochasticSampler | None = None,
    ) -> None:
        """`batch` images are drawn at once; `sampler` draws rollouts where they are stochastic."""
        self._policy = policy
        self._family = family
        self._resolution_px = resolution_px
        self._batch = batch
        self._sampler = sampler

    def prepare(self, conditioning: Conditioning) -> Conditioning:
        """Cast and move embeddings once, for all draws and updates of a step."""
        return conditioning.to(COMPUTE_DTYPE, self._policy.device)

    def draw(
        self,
        who: PolicyName,
        seeds: Sequence[int],
        conditioning: Conditioning,
        steps: int,
        *,
        null: Conditioning | None = None,
        guidance: float = 1.0,
    ) -> torch.Tensor:
        """Clean latents[B, ...] in float32 on the CPU, for seeds[B] and conditioning of B rows.

        `null` is the empty prompt's single row, needed for a guidance above 1.
        """
        parts = []
        for start in range(0, len(seeds), self._batch):
            rows = list(range(start, min(start + self._batch, len(seeds))))
            chunk = [seeds[row] for row in rows]
            parts.append(self._draw(who, chunk, conditioning.take(rows), steps, null, guidance))
        return torch.cat(parts)

    def rollout(
        self, seeds: Sequence[int], conditioning: Conditioning, steps: int
    ) -> tuple[torch.Tensor, Trajectory | None]:
        """Clean latents[B, ...] of the old policy to train on, as `draw`, and how they came about.

        There is a trajectory only where the objective needs it: then the sampler is stochastic.
        """
        if self._sampler is None:
            return self.draw(PolicyName.OLD, seeds, conditioning, steps), None
        latents, trajectories = [], []
        for start in range(0, len(seeds), self._batch):
            rows = list(range(start, min(start + self._batch, len(seeds))))
            chunk = [seeds[row] for row in rows]
            velocity = self._policy.bind(PolicyName.OLD, conditioning.take(rows))
            drawn, trajectory = self._sampler.sample(velocity, self._noise(chunk), chunk)
            latents.append(drawn.cpu())
            trajectories.append(trajectory)
        return torch.cat(latents), Trajectory.concat(trajectories)

    def _noise(self, seeds: Sequence[int]) -> torch.Tensor:
        shape = self._family.latent_shape(self._resolution_px)
        return initial_noise(seeds, shape).to(self._policy.device)

    def _draw(
        self,
        who: PolicyName,
        seeds: Sequence[int],
        conditioning: Conditioning,
        steps: int,
        null: Conditioning | None,
        guidance: float,
    ) -> torch.Tensor:
        velocity = self._policy.bind(who, conditioning)
        if null is not None:
            unconditional = self._policy.bind(who, null.repeat(len(seeds)))
            velocity = guided(velocity, unconditional, guidance)
        sigmas = self._family.sigmas(steps, self._resolution_px)
        return sample_euler(velocity, self._noise(seeds), sigmas).cpu()

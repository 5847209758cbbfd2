"""Draws seeds in BF16, as the server does in NVFP4: the same noise, the same sampler."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from heliostat_engines.progress import Stages
from heliostat_engines.sampling.euler import SAMPLERS, cut_after, guided
from heliostat_engines.sampling.noise import initial_noise
from heliostat_engines.sampling.solvers import Solver
from heliostat_trainer.policy.draws import Draw, Rollout
from heliostat_trainer.ranks.calls import announced
from heliostat_trainer.ranks.ranks import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.families.family import Family
    from heliostat_engines.resolution import Resolution
    from heliostat_engines.sampling.stochastic import StochasticSampler, Trajectory
    from heliostat_trainer.policy.policy import Policy, PolicyName


class Artist:
    """Draws clean latents from seeds with one of the policies; each rank draws its share.

    The leader has all ranks make its calls, and it alone gets all that was drawn.
    """

    def __init__(
        self,
        policy: Policy,
        family: Family,
        resolution_px: Resolution,
        batch: int,
        sampler: StochasticSampler | None = None,
        ranks: Ranks | None = None,
        undisturbed: Callable[[], AbstractContextManager[object]] = nullcontext,
        stages: Stages | None = None,
        solver: Solver = Solver.EULER,
        turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`batch` images are drawn at once; `sampler` draws rollouts where they are stochastic.

        Each batch is drawn within `undisturbed`: on a sharded transformer no rank may leave the
        others alone with half of an evaluation. `stages` hear of each batch. All of a draw is within
        `turn`: the card is the trainer's.
        """
        self.policy = policy
        self._family = family
        self._resolution_px = resolution_px
        self._batch = batch
        self.sampler = sampler
        self._sample = SAMPLERS[solver]
        self._ranks = ranks or Ranks()
        self._undisturbed = undisturbed
        self._turn = turn
        self._stages = stages or Stages()

    @property
    def capacity(self) -> int:
        """Images that all ranks draw at once."""
        return self._batch * self._ranks.size

    def prepare(self, conditioning: Conditioning) -> Conditioning:
        """Cast and move embeddings once, for all draws and updates of a step."""
        return conditioning.to(self.policy.dtype, self.policy.device)

    def draw(
        self,
        who: PolicyName,
        seeds: Sequence[int],
        conditioning: Conditioning,
        rows: Sequence[int],
        steps: int,
        *,
        null: Conditioning | None = None,
        guidance: float = 1.0,
        score_after: int | None = None,
        resolution_px: Resolution | None = None,
    ) -> torch.Tensor:
        """Clean latents[B, ...] in float32 on the CPU, for seeds[B] and rows[B] of a conditioning.

        `Draw` says what each of them means.
        """
        call = Draw(
            who, seeds, conditioning, rows, steps, null, guidance, score_after, resolution_px
        )
        with self._turn(), announced(self._ranks, call):
            return call.do(self)

    def rollout(
        self,
        seeds: Sequence[int],
        conditioning: Conditioning,
        rows: Sequence[int],
        steps: int,
        resolution_px: Resolution | None = None,
    ) -> tuple[torch.Tensor, Trajectory | None]:
        """Clean latents[B, ...] of the old policy to train on, as `draw`, and how they came about.

        There is a trajectory only where the objective needs it: then the sampler is stochastic.
        """
        call = Rollout(seeds, conditioning, rows, steps, resolution_px)
        with self._turn(), announced(self._ranks, call):
            return call.do(self)

    def spread(
        self,
        seeds: Sequence[int],
        conditioning: Conditioning,
        rows: Sequence[int],
        draw: Callable[[Sequence[int], Conditioning], dict[str, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:
        """What `draw` makes of all seeds: an equal share on each rank, a batch at a time.

        Ranks draw the same number of batches, if need be one that nobody wants: where the
        transformer is sharded, each evaluation needs all of them.
        """
        share = -(-len(seeds) // self._ranks.size)
        mine = range(min(share * self._ranks.rank, len(seeds)), len(seeds))[:share]
        parts = []
        for start in range(0, share, self._batch):
            self._ranks.meet()
            wanted = mine[start : start + self._batch]
            chunk = wanted or range(1)
            own = conditioning.take([rows[index] for index in chunk])
            with self._undisturbed():
                drawn = draw([seeds[index] for index in chunk], own)
            parts.append({name: value[: len(wanted)] for name, value in drawn.items()})
            done = (start + self._batch) * self._ranks.size
            self._stages.count(min(done, len(seeds)), len(seeds), "images")
        return _concat(self._ranks.gather(_concat(parts)))

    def sigmas(
        self,
        steps: int,
        score_after: int | None = None,
        resolution_px: Resolution | None = None,
    ) -> torch.Tensor:
        """sigmas[E + 1]: the noise levels of E evaluations, and 0; of a size of images, or the run's own."""
        sigmas = self._family.sigmas(steps, resolution_px or self._resolution_px)
        return cut_after(sigmas, score_after or steps)

    def noise(self, seeds: Sequence[int], resolution_px: Resolution | None = None) -> torch.Tensor:
        """What seeds[B] begin at, [B, ...] on the policy's device."""
        shape = self._family.latent_shape(resolution_px or self._resolution_px)
        return initial_noise(seeds, shape).to(self.policy.device)

    def denoise(
        self,
        who: PolicyName,
        noise: torch.Tensor,
        conditioning: Conditioning,
        sigmas: torch.Tensor,
        null: Conditioning | None = None,
        guidance: float = 1.0,
    ) -> torch.Tensor:
        """Clean latents[B, ...] on the CPU of a single batch, from noise[B, ...] and a conditioning of B rows."""
        velocity = self.policy.bind(who, conditioning)
        if null is not None:
            unconditional = self.policy.bind(who, null.repeat(len(noise)))
            velocity = guided(velocity, unconditional, guidance)
        return self._sample(velocity, noise, sigmas).cpu()


def _concat(parts: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

"""Draws seeds in BF16, as the server does in NVFP4: the same noise, the same sampler."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from heliostat_engines.progress import Stages
from heliostat_engines.sampling.euler import SAMPLERS, cut_after, guided
from heliostat_engines.sampling.noise import initial_noise
from heliostat_engines.sampling.solvers import Solver
from heliostat_engines.sampling.stochastic import Trajectory
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.ranks.ranks import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.families.family import Family
    from heliostat_engines.sampling.stochastic import StochasticSampler
    from heliostat_trainer.policy.policy import Policy


class Artist:
    """Draws clean latents from seeds with one of the policies; each rank draws its share.

    All ranks make the same calls; only the leader gets all that was drawn.
    """

    def __init__(
        self,
        policy: Policy,
        family: Family,
        resolution_px: int,
        batch: int,
        sampler: StochasticSampler | None = None,
        ranks: Ranks | None = None,
        undisturbed: Callable[[], AbstractContextManager[object]] = nullcontext,
        stages: Stages | None = None,
        solver: Solver = Solver.EULER,
    ) -> None:
        """`batch` images are drawn at once; `sampler` draws rollouts where they are stochastic.

        Each batch is drawn within `undisturbed`: on a sharded transformer no rank may leave the
        others alone with half of an evaluation. `stages` hear of each batch.
        """
        self._policy = policy
        self._family = family
        self._resolution_px = resolution_px
        self._batch = batch
        self._sampler = sampler
        self._sample = SAMPLERS[solver]
        self._ranks = ranks or Ranks()
        self._undisturbed = undisturbed
        self._stages = stages or Stages()

    @property
    def capacity(self) -> int:
        """Images that all ranks draw at once."""
        return self._batch * self._ranks.size

    def prepare(self, conditioning: Conditioning) -> Conditioning:
        """Cast and move embeddings once, for all draws and updates of a step."""
        return conditioning.to(self._policy.dtype, self._policy.device)

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
    ) -> torch.Tensor:
        """Clean latents[B, ...] in float32 on the CPU, for seeds[B] and rows[B] of a conditioning.

        `null` is the empty prompt's single row, needed for a guidance above 1. With `score_after`,
        they are as predicted after so many of the steps.
        """
        sigmas = self._sigmas(steps, score_after)

        def some(chunk: Sequence[int], own: Conditioning) -> dict[str, torch.Tensor]:
            return {"latents": self._draw(who, chunk, own, sigmas, null, guidance)}

        return self._spread(seeds, conditioning, rows, some)["latents"]

    def rollout(
        self, seeds: Sequence[int], conditioning: Conditioning, rows: Sequence[int], steps: int
    ) -> tuple[torch.Tensor, Trajectory | None]:
        """Clean latents[B, ...] of the old policy to train on, as `draw`, and how they came about.

        There is a trajectory only where the objective needs it: then the sampler is stochastic.
        """
        sampler, sigmas = self._sampler, self._sigmas(steps)

        def some(chunk: Sequence[int], own: Conditioning) -> dict[str, torch.Tensor]:
            if sampler is None:
                return {"latents": self._draw(PolicyName.OLD, chunk, own, sigmas, None, 1.0)}
            velocity = self._policy.bind(PolicyName.OLD, own)
            drawn, path = sampler.sample(velocity, self._noise(chunk), chunk)
            fields = {"path": path.latents, "first": path.first, "log_probs": path.log_probs}
            return {"latents": drawn.cpu(), **fields}

        drawn = self._spread(seeds, conditioning, rows, some)
        if sampler is None:
            return drawn["latents"], None
        path = Trajectory(drawn["path"], drawn["first"], drawn["log_probs"])
        return drawn["latents"], path

    def _spread(
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

    def _sigmas(self, steps: int, score_after: int | None = None) -> torch.Tensor:
        sigmas = self._family.sigmas(steps, self._resolution_px)
        return cut_after(sigmas, score_after or steps)

    def _noise(self, seeds: Sequence[int]) -> torch.Tensor:
        shape = self._family.latent_shape(self._resolution_px)
        return initial_noise(seeds, shape).to(self._policy.device)

    def _draw(
        self,
        who: PolicyName,
        seeds: Sequence[int],
        conditioning: Conditioning,
        sigmas: torch.Tensor,
        null: Conditioning | None,
        guidance: float,
    ) -> torch.Tensor:
        velocity = self._policy.bind(who, conditioning)
        if null is not None:
            unconditional = self._policy.bind(who, null.repeat(len(seeds)))
            velocity = guided(velocity, unconditional, guidance)
        return self._sample(velocity, self._noise(seeds), sigmas).cpu()


def _concat(parts: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

"""Drawing in BF16, rewarded by the server: the kept seeds again, or whole pools without NVFP4."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from heliostat_engines.decoders import DecoderName
from heliostat_trainer.clock import Phase
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.types import Group, Samples, in_prompt_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from heliostat_engines.conditioning import Conditioning
    from heliostat_trainer.clock import RunClock
    from heliostat_trainer.policy.artist import Artist
    from heliostat_trainer.rollouts.service import RolloutService
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.tuning import Shape
    from heliostat_trainer.types import GroupRequest


class Redrawing:
    """Draws with the old policy; `conditioning` has a row for each prompt of the step."""

    def __init__(
        self, config: TrainConfig, artist: Artist, server: RolloutService, clock: RunClock
    ) -> None:
        self._recipe = config.recipe
        self._rewards = config.reward.trained
        self._artist = artist
        self._server = server
        self._clock = clock

    def redraw(
        self,
        requests: Sequence[GroupRequest],
        conditioning: Conditioning,
        *,
        drawing: Phase = Phase.REDRAW,
        scoring: Phase = Phase.SCORE,
    ) -> list[Samples]:
        """Samples of each request, with all steps, as they are trained on."""
        samples: list[Samples] = []
        for together in _of_one_size(requests):
            seeds, rows = _of_each_seed(together)
            with self._clock.phase(drawing):
                latents, trajectory = self._artist.rollout(
                    seeds, conditioning, rows, self._recipe.steps, together[0].resolution_px
                )
            rewards = self._score(together, latents, scoring)
            samples += Samples.of(together, latents, rewards, trajectory)
        return _in_order_of(requests, samples)

    def pools(
        self, requests: Sequence[GroupRequest], conditioning: Conditioning
    ) -> Iterator[Group]:
        """The groups of the recipes that draw them in BF16, without the server."""
        draw = self._candidates if self._recipe.redraws else self.redraw
        size = self._groups_a_draw(len(requests[0].seeds))
        for start in range(0, len(requests), size):
            together = requests[start : start + size]
            for request, samples in zip(together, draw(together, conditioning), strict=True):
                assert samples.parts is not None
                yield Group.rewarded(
                    request, samples.parts, samples.latents, trajectory=samples.trajectory
                )

    def drawn_together(self, groups: Iterator[Group], shape: Shape) -> Iterator[list[Group]]:
        """Neighbouring prompts' groups, as soon as all of them are complete.

        Which ones are drawn together depends on the prompts' order alone, never on timing.
        """
        size = self._groups_a_draw(shape.kept)
        waiting: defaultdict[int, list[Group]] = defaultdict(list)
        for group in groups:
            share = group.request.row // size
            waiting[share].append(group)
            if len(waiting[share]) == min(size, shape.prompts - share * size):
                yield in_prompt_order(waiting.pop(share))

    def _groups_a_draw(self, seeds: int) -> int:
        """How many prompts with so many seeds each keep all ranks drawing; at least one."""
        return max(1, self._artist.capacity // seeds)

    def _candidates(
        self, requests: Sequence[GroupRequest], conditioning: Conditioning
    ) -> list[Samples]:
        """Candidates as the server would explore them, but in BF16."""
        samples: list[Samples] = []
        for together in _of_one_size(requests):
            seeds, rows = _of_each_seed(together)
            first = together[0]
            with self._clock.phase(Phase.EXPLORE):
                latents = self._artist.draw(
                    PolicyName.OLD,
                    seeds,
                    conditioning,
                    rows,
                    first.steps,
                    score_after=first.score_after,
                    resolution_px=first.resolution_px,
                )
            rewards = self._score(together, latents, Phase.EXPLORE, first.decoder)
            samples += Samples.of(together, latents, rewards, None)
        return _in_order_of(requests, samples)

    def _score(
        self,
        requests: Sequence[GroupRequest],
        latents: torch.Tensor,
        phase: Phase,
        decoder: DecoderName = DecoderName.FULL,
    ) -> NDArray[np.float64]:
        """rewards[B, R] of the requests' B seeds, by the server."""
        prompts = [request.prompt for request in requests for _ in request.seeds]
        with self._clock.waiting(phase):
            return self._server.score(latents, prompts, self._rewards, decoder=decoder).rewards


def _of_one_size(requests: Sequence[GroupRequest]) -> list[list[GroupRequest]]:
    """Those whose images have the same size, together: a batch has one shape."""
    sizes = dict.fromkeys(request.resolution_px for request in requests)
    return [[each for each in requests if each.resolution_px == size] for size in sizes]


def _in_order_of(requests: Sequence[GroupRequest], samples: Sequence[Samples]) -> list[Samples]:
    by_row = {each.row: each for each in samples}
    return [by_row[request.row] for request in requests]


def _of_each_seed(requests: Sequence[GroupRequest]) -> tuple[list[int], list[int]]:
    """seeds[B] and rows[B] of requests with B seeds in all."""
    pairs = [(seed, request.row) for request in requests for seed in request.seeds]
    return [seed for seed, _ in pairs], [row for _, row in pairs]

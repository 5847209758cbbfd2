"""Drawing in BF16, rewarded by the server: the kept seeds again, or whole pools without NVFP4."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat_engines.decoders import DecoderName
from heliostat_trainer.clock import Phase
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.types import Group, Samples, in_prompt_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.sampling.stochastic import Trajectory
    from heliostat_trainer.clock import RunClock
    from heliostat_trainer.policy.artist import Artist
    from heliostat_trainer.rollouts.service import RolloutService
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.tuning import Shape
    from heliostat_trainer.types import GroupRequest


@dataclass(frozen=True)
class _Drawn:
    """Requests whose images have one size, and what was drawn of them."""

    requests: Sequence[GroupRequest]
    latents: torch.Tensor
    trajectory: Trajectory | None = None
    decoder: DecoderName = DecoderName.FULL


class Redrawing:
    """Draws with the old policy; `conditioning` has a row for each prompt of the step."""

    def __init__(
        self,
        config: TrainConfig,
        artist: Artist,
        server: RolloutService,
        clock: RunClock,
        *,
        takes_turns: bool = False,
    ) -> None:
        """`takes_turns`: the trainer draws while the server rests, and the other way round."""
        self._recipe = config.recipe
        self._rewards = config.reward.trained
        self._artist = artist
        self._server = server
        self._clock = clock
        self._takes_turns = takes_turns

    def redraw(
        self,
        requests: Sequence[GroupRequest],
        conditioning: Conditioning,
        *,
        drawing: Phase = Phase.REDRAW,
        scoring: Phase = Phase.SCORE,
    ) -> list[Samples]:
        """Samples of each request, with all steps, as they are trained on."""
        (samples,) = self.redraw_each([requests], conditioning, drawing=drawing, scoring=scoring)
        return samples

    def redraw_each(
        self,
        shares: Iterable[Sequence[GroupRequest]],
        conditioning: Conditioning,
        *,
        drawing: Phase = Phase.REDRAW,
        scoring: Phase = Phase.SCORE,
    ) -> Iterator[list[Samples]]:
        """As `redraw`, of requests that come a share at a time."""
        drawn = ((requests, self._kept(requests, conditioning, drawing)) for requests in shares)
        return self._scored(drawn, scoring)

    def pools(
        self, requests: Sequence[GroupRequest], conditioning: Conditioning
    ) -> Iterator[Group]:
        """The groups of the recipes that draw them in BF16, without the server."""
        size = self._groups_a_draw(len(requests[0].seeds))
        shares = [requests[start : start + size] for start in range(0, len(requests), size)]
        if self._recipe.redraws:
            drawn = ((share, self._candidates(share, conditioning)) for share in shares)
            scored = self._scored(drawn, Phase.EXPLORE)
        else:
            scored = self.redraw_each(shares, conditioning)
        for share, drawn_share in zip(shares, scored, strict=True):
            for request, samples in zip(share, drawn_share, strict=True):
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

    def _kept(
        self, requests: Sequence[GroupRequest], conditioning: Conditioning, phase: Phase
    ) -> list[_Drawn]:
        """Samples with all steps."""
        drawn: list[_Drawn] = []
        for together in _of_one_size(requests):
            seeds, rows = _of_each_seed(together)
            with self._clock.phase(phase):
                latents, trajectory = self._artist.rollout(
                    seeds, conditioning, rows, self._recipe.steps, together[0].resolution_px
                )
            drawn.append(_Drawn(together, latents, trajectory))
        return drawn

    def _candidates(
        self, requests: Sequence[GroupRequest], conditioning: Conditioning
    ) -> list[_Drawn]:
        """Candidates as the server would explore them, but in BF16."""
        drawn: list[_Drawn] = []
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
            drawn.append(_Drawn(together, latents, decoder=first.decoder))
        return drawn

    def _scored(
        self, drawn: Iterable[tuple[Sequence[GroupRequest], Sequence[_Drawn]]], phase: Phase
    ) -> Iterator[list[Samples]]:
        """Samples of each share's requests.

        Where server and trainer take turns, all is drawn before the first is scored: one turn of each, however many
        shares there are. What is drawn together is the same either way.
        """
        for requests, parts in list(drawn) if self._takes_turns else drawn:
            samples: list[Samples] = []
            for part in parts:
                rewards = self._score(part.requests, part.latents, phase, part.decoder)
                samples += Samples.of(part.requests, part.latents, rewards, part.trajectory)
            yield _in_order_of(requests, samples)

    def _score(
        self,
        requests: Sequence[GroupRequest],
        latents: torch.Tensor,
        phase: Phase,
        decoder: DecoderName,
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

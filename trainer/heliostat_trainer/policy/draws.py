"""What an `Artist` is asked to draw, as data that other ranks can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from heliostat_engines.resolution import read_resolution
from heliostat_engines.sampling.stochastic import Trajectory
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.ranks.calls import Message, conditioning_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.resolution import Resolution
    from heliostat_trainer.policy.artist import Artist
    from heliostat_trainer.ranks.calls import Prepare
    from heliostat_trainer.ranks.ranks import Tensors

NULL = "null"
"""The name of the empty prompt's conditioning."""


@dataclass(frozen=True)
class Draw:
    """Clean latents of a policy, for seeds[B] and rows[B] of a conditioning."""

    NAME: ClassVar = "draw"

    who: PolicyName
    seeds: Sequence[int]
    conditioning: Conditioning
    rows: Sequence[int]
    steps: int
    null: Conditioning | None = None
    """The empty prompt's single row, needed for a guidance above 1."""
    guidance: float = 1.0
    score_after: int | None = None
    """The latents are as predicted after so many of the steps; None: after all."""
    resolution_px: Resolution | None = None
    """Size of the images; None: the run's own."""

    def message(self) -> Message:
        """As the leader tells it."""
        asked, tensors = _asked(self)
        how = {"guidance": self.guidance, "score_after": self.score_after}
        if self.null is not None:
            tensors |= conditioning_tensors(self.null, NULL)
        return Message(self.NAME, {"who": self.who, **asked, **how}, tensors)

    @classmethod
    def read(cls, message: Message, prepare: Prepare) -> Draw:
        """As another rank is told it."""
        given = dict(message.arguments)
        return cls(
            who=PolicyName(given.pop("who")),
            conditioning=prepare(message.conditioning()),
            null=prepare(message.conditioning(NULL)) if message.has_conditioning(NULL) else None,
            resolution_px=_size(given.pop("resolution_px")),
            **given,
        )

    def do(self, artist: Artist) -> torch.Tensor:
        """Latents[B, ...] in float32 on the CPU."""
        sigmas = artist.sigmas(self.steps, self.score_after, self.resolution_px)

        def some(chunk: Sequence[int], own: Conditioning) -> Tensors:
            noise = artist.noise(chunk, self.resolution_px)
            return {
                "latents": artist.denoise(self.who, noise, own, sigmas, self.null, self.guidance)
            }

        return artist.spread(self.seeds, self.conditioning, self.rows, some)["latents"]


@dataclass(frozen=True)
class Rollout:
    """Clean latents of the old policy to train on, for seeds[B] and rows[B] of a conditioning."""

    NAME: ClassVar = "rollout"

    seeds: Sequence[int]
    conditioning: Conditioning
    rows: Sequence[int]
    steps: int
    resolution_px: Resolution | None = None
    """Size of the images; None: the run's own."""

    def message(self) -> Message:
        """As the leader tells it."""
        return Message(self.NAME, *_asked(self))

    @classmethod
    def read(cls, message: Message, prepare: Prepare) -> Rollout:
        """As another rank is told it."""
        given = dict(message.arguments)
        size = _size(given.pop("resolution_px"))
        return cls(conditioning=prepare(message.conditioning()), resolution_px=size, **given)

    def do(self, artist: Artist) -> tuple[torch.Tensor, Trajectory | None]:
        """Latents[B, ...] as of `Draw`; how they came about, if the artist's sampler is stochastic."""
        sampler = artist.sampler
        sigmas = artist.sigmas(self.steps, resolution_px=self.resolution_px)

        def some(chunk: Sequence[int], own: Conditioning) -> Tensors:
            noise = artist.noise(chunk, self.resolution_px)
            if sampler is None:
                return {"latents": artist.denoise(PolicyName.OLD, noise, own, sigmas)}
            velocity = artist.policy.bind(PolicyName.OLD, own)
            drawn, path = sampler.sample(velocity, noise, chunk)
            fields = {"path": path.latents, "first": path.first, "log_probs": path.log_probs}
            return {"latents": drawn.cpu(), **fields}

        drawn = artist.spread(self.seeds, self.conditioning, self.rows, some)
        if sampler is None:
            return drawn["latents"], None
        path = Trajectory(drawn["path"], drawn["first"], drawn["log_probs"])
        return drawn["latents"], path


def _size(told: object) -> Resolution | None:
    """Of what JSON holds."""
    return None if told is None else read_resolution(told)


def _asked(call: Draw | Rollout) -> tuple[dict[str, Any], Tensors]:
    """Of a call, what both have: of the conditioning only the rows that are asked for, each once."""
    distinct = sorted(set(call.rows))
    place = {row: at for at, row in enumerate(distinct)}
    rows = [place[row] for row in call.rows]
    arguments = {
        "seeds": list(call.seeds),
        "rows": rows,
        "steps": call.steps,
        "resolution_px": call.resolution_px,
    }
    return arguments, conditioning_tensors(call.conditioning.take(distinct))

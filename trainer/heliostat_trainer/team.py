"""How ranks work together: the leader announces a call with its arguments, and all of them make it.

Only what evaluates the transformer is announced: drawing and training. Prompts, groups, scores,
metrics and files are the leader's alone, so that the loop knows nothing of ranks.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from heliostat_engines.conditioning import Conditioning
from heliostat_trainer.folder.packing import packed, unpacked
from heliostat_trainer.learning.learner import Learner
from heliostat_trainer.policy.artist import Artist
from heliostat_trainer.policy.policy import PolicyName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from heliostat_engines.sampling.stochastic import Trajectory
    from heliostat_trainer.ranks.ranks import Ranks, Tensors
    from heliostat_trainer.types import Samples, UpdateReport


class Call(StrEnum):
    """What all ranks do at once."""

    START = "start"
    """Build the model with the server's LoRA targets."""
    RESTORE = "restore"
    """Take over a checkpoint's tensors."""
    DRAW = "draw"
    ROLLOUT = "rollout"
    UPDATE = "update"


@contextmanager
def announced(
    ranks: Ranks, call: Call, arguments: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """Have the other ranks make a call; within, the leader makes it too.

    Raises:
        RankFailedError: another rank failed.
        StopRequestedError: the user stopped it.
    """
    with ranks.explained():
        ranks.broadcast(json.dumps({"call": call, **arguments}), tensors)
        yield


def listen(ranks: Ranks) -> tuple[Call, dict[str, Any], Tensors]:
    """The leader's next call and its arguments.

    Raises:
        RunEndedError: there is none.
    """
    text, tensors = ranks.broadcast("", {})
    arguments: dict[str, Any] = json.loads(text)
    return Call(arguments.pop("call")), arguments, tensors


class LeadingArtist(Artist):
    """Draws with all ranks."""

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
        """As `Artist.draw`."""
        conditioning, rows = _asked(conditioning, rows)
        arguments: dict[str, Any] = {
            "who": who,
            "seeds": list(seeds),
            "rows": list(rows),
            "steps": steps,
        }
        tensors = _of_conditioning(conditioning, "conditioning")
        if null is not None:
            tensors |= _of_conditioning(null, "null")
        how: dict[str, Any] = {"guidance": guidance, "score_after": score_after}
        with announced(self._ranks, Call.DRAW, arguments | how, tensors):
            return super().draw(who, seeds, conditioning, rows, steps, null=null, **how)

    def rollout(
        self, seeds: Sequence[int], conditioning: Conditioning, rows: Sequence[int], steps: int
    ) -> tuple[torch.Tensor, Trajectory | None]:
        """As `Artist.rollout`."""
        conditioning, rows = _asked(conditioning, rows)
        arguments = {"seeds": list(seeds), "rows": list(rows), "steps": steps}
        tensors = _of_conditioning(conditioning, "conditioning")
        with announced(self._ranks, Call.ROLLOUT, arguments, tensors):
            return super().rollout(seeds, conditioning, rows, steps)


class LeadingLearner(Learner):
    """Trains with all ranks."""

    def update(
        self,
        samples: Sequence[Samples],
        conditioning: Conditioning,
        step: int,
        replayed: Sequence[Samples] = (),
    ) -> UpdateReport:
        """As `Learner.update`."""
        groups, tensors = packed([*samples, *replayed])
        tensors |= _of_conditioning(conditioning, "conditioning")
        with announced(self._ranks, Call.UPDATE, {"groups": groups, "step": step}, tensors):
            return super().update(samples, conditioning, step, replayed)

    def restore(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """As `Learner.restore`."""
        with announced(self._ranks, Call.RESTORE, {"step": step}, tensors):
            super().restore(tensors, step)


class Helper:
    """A rank that is not the leader."""

    def __init__(self, ranks: Ranks, artist: Artist, learner: Learner) -> None:
        self._ranks = ranks
        self._artist = artist
        self._learner = learner

    def help(self) -> None:
        """Make the leader's calls, until it ends the run.

        Raises:
            RunEndedError: it has.
        """
        while True:
            self._make(*listen(self._ranks))

    def _make(self, call: Call, arguments: dict[str, Any], tensors: Tensors) -> None:
        if call is Call.RESTORE:
            self._learner.restore(tensors, arguments["step"])
            return
        conditioning = _conditioning(tensors, "conditioning")
        assert conditioning is not None
        conditioning = self._artist.prepare(conditioning)
        if call is Call.UPDATE:
            samples = unpacked(arguments["groups"], tensors)  # what is replayed shows in its rows
            self._learner.update(samples, conditioning, arguments["step"])
        elif call is Call.ROLLOUT:
            self._artist.rollout(conditioning=conditioning, **arguments)
        else:
            null = _conditioning(tensors, "null")
            arguments["who"] = PolicyName(arguments["who"])
            arguments["null"] = None if null is None else self._artist.prepare(null)
            self._artist.draw(conditioning=conditioning, **arguments)


def _asked(conditioning: Conditioning, rows: Sequence[int]) -> tuple[Conditioning, Sequence[int]]:
    """The rows that are asked for, each once, and where those asked for are now."""
    distinct = sorted(set(rows))
    place = {row: at for at, row in enumerate(distinct)}
    return conditioning.take(distinct), [place[row] for row in rows]


def _of_conditioning(conditioning: Conditioning, name: str) -> Tensors:
    tensors = {f"{name}/tokens": conditioning.tokens, f"{name}/pooled": conditioning.pooled}
    mask = conditioning.mask
    return tensors if mask is None else tensors | {f"{name}/mask": mask}


def _conditioning(tensors: Tensors, name: str) -> Conditioning | None:
    if f"{name}/tokens" not in tensors:
        return None
    fields = (tensors[f"{name}/tokens"], tensors[f"{name}/pooled"])
    return Conditioning(*fields, mask=tensors.get(f"{name}/mask"))

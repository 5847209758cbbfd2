"""What all ranks do at once, as data: the leader announces a call, and every rank makes it.

Only what evaluates the transformer is announced: drawing and training. Prompts, groups, scores,
metrics and files are the leader's alone, so that the loop knows nothing of ranks.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from heliostat_engines.conditioning import Conditioning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch

    from heliostat_trainer.ranks.ranks import Ranks, Tensors

    Prepare = Callable[[Conditioning], Conditioning]
    """Casts embeddings that the leader has sent, and moves them to this rank's device."""

CONDITIONING = "conditioning"
"""The name of a call's only or most important one."""


@dataclass(frozen=True)
class Message:
    """A call on its way to the other ranks."""

    call: str
    """Which one."""
    arguments: Mapping[str, Any]
    """What JSON holds of it."""
    tensors: Mapping[str, torch.Tensor]

    def conditioning(self, name: str = CONDITIONING) -> Conditioning:
        """What `conditioning_tensors` wrote under a name."""
        tokens, pooled = self.tensors[f"{name}/tokens"], self.tensors[f"{name}/pooled"]
        return Conditioning(tokens, pooled, mask=self.tensors.get(f"{name}/mask"))

    def has_conditioning(self, name: str) -> bool:
        """Whether `conditioning_tensors` wrote anything under a name."""
        return f"{name}/tokens" in self.tensors


class Call(Protocol):
    """Something that all ranks do at once: `read` makes one of a message, and `do` does it."""

    def message(self) -> Message:
        """What the other ranks are told."""


@contextmanager
def announced(ranks: Ranks, call: Call) -> Iterator[None]:
    """Have the other ranks make a call; within, the leader makes it too.

    Raises:
        RankFailedError: another rank failed.
        StopRequestedError: the user stopped it.
    """
    message = call.message()
    with ranks.explained():
        text = json.dumps({"call": message.call, **message.arguments})
        ranks.broadcast(text, message.tensors)
        yield


def listen(ranks: Ranks) -> Message:
    """The leader's next call.

    Raises:
        RunEndedError: there is none.
    """
    text, tensors = ranks.broadcast("", {})
    arguments: dict[str, Any] = json.loads(text)
    return Message(arguments.pop("call"), arguments, tensors)


def conditioning_tensors(conditioning: Conditioning, name: str = CONDITIONING) -> Tensors:
    """A conditioning as tensors by name."""
    tensors = {f"{name}/tokens": conditioning.tokens, f"{name}/pooled": conditioning.pooled}
    mask = conditioning.mask
    return tensors if mask is None else tensors | {f"{name}/mask": mask}

"""What a `Learner` is asked to do, as data that other ranks can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from heliostat_trainer.folder.packing import packed, unpacked
from heliostat_trainer.ranks.calls import Message, conditioning_tensors
from heliostat_trainer.types import has_contrast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from heliostat_engines.conditioning import Conditioning
    from heliostat_trainer.learning.learner import Learner
    from heliostat_trainer.ranks.calls import Prepare
    from heliostat_trainer.types import Samples, UpdateReport


@dataclass(frozen=True)
class Update:
    """Train on a step's samples, and on replayed ones."""

    NAME: ClassVar = "update"

    samples: Sequence[Samples]
    conditioning: Conditioning
    step: int
    replayed: Sequence[Samples] = ()

    def message(self) -> Message:
        """As the leader tells it."""
        groups, tensors = packed([*self.samples, *self.replayed])
        return Message(
            self.NAME,
            {"groups": groups, "step": self.step},
            tensors | conditioning_tensors(self.conditioning),
        )

    @classmethod
    def read(cls, message: Message, prepare: Prepare) -> Update:
        """As another rank is told it. What is replayed shows in its rows."""
        samples = unpacked(message.arguments["groups"], message.tensors)
        return cls(samples, prepare(message.conditioning()), message.arguments["step"])

    def do(self, learner: Learner) -> UpdateReport:
        """What came of it. Raises as `Learner.update`."""
        sums = learner.train([*self.samples, *self.replayed], self.conditioning, self.step)
        contrast = sum(has_contrast(group.rewards) for group in self.samples)
        return sums.report(len(self.samples) - contrast)


@dataclass(frozen=True)
class Restore:
    """Go on from a checkpoint's tensors, after `step`."""

    NAME: ClassVar = "restore"

    tensors: Mapping[str, torch.Tensor]
    step: int

    def message(self) -> Message:
        """As the leader tells it."""
        return Message(self.NAME, {"step": self.step}, self.tensors)

    @classmethod
    def read(cls, message: Message) -> Restore:
        """As another rank is told it."""
        return cls(message.tensors, message.arguments["step"])

    def do(self, learner: Learner) -> None:
        """Take them over."""
        learner.take_over(self.tensors, self.step)

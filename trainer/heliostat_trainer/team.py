"""How ranks work together: the leader announces calls, and the others, its helpers, make them too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from heliostat_trainer.learning.updates import Restore, Update
from heliostat_trainer.policy.draws import Draw, Rollout
from heliostat_trainer.ranks.calls import Message, listen
from heliostat_trainer.settings.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heliostat_trainer.learning.learner import Learner
    from heliostat_trainer.policy.artist import Artist
    from heliostat_trainer.ranks.ranks import Ranks


@dataclass(frozen=True)
class Start:
    """Build the model with the server's LoRA targets: the first call."""

    NAME: ClassVar = "start"

    config: TrainConfig
    targets: Mapping[str, tuple[int, int]]
    cpu_dtype: str
    """What the leader's CPU computes in."""

    def message(self) -> Message:
        """As the leader tells it."""
        arguments = {
            "config": self.config.model_dump(mode="json"),
            "targets": dict(self.targets),
            "cpu_dtype": self.cpu_dtype,
        }
        return Message(self.NAME, arguments, {})

    @classmethod
    def read(cls, message: Message) -> Start:
        """As another rank is told it."""
        given = message.arguments
        targets = {name: (into, out) for name, (into, out) in given["targets"].items()}
        return cls(TrainConfig.model_validate(given["config"]), targets, given["cpu_dtype"])


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
            self._make(listen(self._ranks))

    def _make(self, message: Message) -> None:
        prepare = self._artist.prepare
        match message.call:
            case Draw.NAME:
                Draw.read(message, prepare).do(self._artist)
            case Rollout.NAME:
                Rollout.read(message, prepare).do(self._artist)
            case Update.NAME:
                Update.read(message, prepare).do(self._learner)
            case Restore.NAME:
                Restore.read(message).do(self._learner)
            case unknown:  # passed over, it would leave the leader waiting for this rank
                raise ValueError(f"the leader calls for {unknown!r}, which no other rank knows")

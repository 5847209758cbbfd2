"""Who asks rollout servers, and with how much patience."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from heliostat_trainer.rollouts.tokens import GivenTokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heliostat_trainer.rollouts.tokens import Tokens

SHORTEST_SILENCE_S = 60.0


@dataclass(frozen=True)
class Caller:
    """The same for all servers that a run asks."""

    experiment: str = ""
    """Opened by the first call; empty: that of nobody, who only looks."""
    tokens: Tokens = field(default_factory=GivenTokens)
    authority_file: Path | None = None
    """PEM certificates that the servers' must be signed by; None: the system's."""
    patience_s: float = 10.0
    """For how long what fails is tried again; of several servers, while none is there."""
    groups_in_flight: int = 4
    """Queued at each server."""
    say: Callable[[str], None] = lambda _: None

    @property
    def silence_s(self) -> float:
        """How long a server may say nothing while it draws or scores, before it counts as gone."""
        return max(self.patience_s, SHORTEST_SILENCE_S)

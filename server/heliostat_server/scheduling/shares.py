"""What each experiment is owed, and how much it may have waiting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Share:
    """One experiment's terms."""

    weight: float = 1.0
    """Its part of the engine, relative to the others of its priority."""
    priority: int = 0
    """Higher ones go first, whatever the weights."""
    max_queued_images: int = 16_384
    """Images that may wait; more are refused until some are drawn."""


class ExperimentShares(Protocol):
    """Where the terms come from."""

    def get(self, experiment: str) -> Share:
        """The terms as they are now; quick, for it is asked with every request."""


class EqualShares:
    """The same terms for all."""

    def __init__(self, share: Share | None = None) -> None:
        self._share = share or Share()

    def get(self, experiment: str) -> Share:  # noqa: ARG002
        """The terms, whoever asks."""
        return self._share

"""Where a scheduler learns what each experiment is owed."""

from __future__ import annotations

from typing import Protocol

from heliostat_server.experiments.terms import Share


class ExperimentShares(Protocol):
    """Where the terms come from."""

    def get(self, experiment: str) -> Share:
        """The terms as they are now; quick, for it is asked with every request."""


class EqualShares:
    """The same terms for all."""

    def __init__(self) -> None:
        self._share = Share()

    def get(self, experiment: str) -> Share:  # noqa: ARG002
        """The terms, whoever asks."""
        return self._share

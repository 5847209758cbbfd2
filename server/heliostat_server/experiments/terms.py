"""What is known of an experiment."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 (pydantic reads it)
from typing import Annotated, Any

from pydantic import Field

from heliostat_engines.settings import Settings

Weight = Annotated[float, Field(ge=1e-3, le=1e3)]


class Share(Settings):
    """An experiment's terms: what it is owed, and how much it may have waiting."""

    weight: Weight = 1.0
    """Its part of the engine, relative to the others of its priority."""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    """Higher ones go first, whatever the weights."""
    max_queued_images: Annotated[int, Field(ge=1, le=2**31)] = 16_384
    """Images that may wait; more are refused until some are drawn."""
    paused: bool = False
    """Whether its rollouts are put off; what waits already is drawn."""


class ShareChange(Settings):
    """New terms; what is None stays as it is."""

    weight: Weight | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = None
    max_queued_images: Annotated[int, Field(ge=1, le=2**31)] | None = None
    paused: bool | None = None

    def changes(self) -> dict[str, Any]:
        """The terms that are to change."""
        return self.model_dump(exclude_none=True)


class Usage(Settings):
    """What an experiment has used, ever."""

    images: int = 0
    """Candidates denoised."""
    nfes: int = 0
    """Evaluations of the transformer, counted for each image."""
    seconds: float = 0.0
    """Seconds of the engine."""


class Version(Settings):
    """A published adapter that is still kept."""

    version: int
    sha256: str
    pinned: bool
    """Whether it stays however many follow."""
    bytes: int


class Experiment(Settings):
    """One experiment, as the store has it."""

    name: str
    created: datetime
    share: Share
    latest_version: int
    """0: it has published nothing."""
    versions: tuple[Version, ...]
    usage: Usage
    tuned: str = ""
    """What its run has decided last to make its steps of, and why; empty: nothing."""


class Event(Settings):
    """Something that was done to an experiment."""

    id: str
    """Of Redis' stream; later ones are larger."""
    at: datetime
    experiment: str
    what: str
    """created, published, tuned, rolled back, pinned, unpinned, changed, token issued, tokens revoked
    or deleted."""
    detail: str

"""What a scheduler is: it decides whose batch is drawn next, and knows nothing of drawing."""

from __future__ import annotations

from typing import Protocol, TypeVar


class Job(Protocol):
    """One request, drawn batch by batch."""

    @property
    def experiment(self) -> str:
        """Whose it is: experiments share the engine fairly."""

    @property
    def is_urgent(self) -> bool:
        """Whether it goes before all others: short, and somebody waits for it."""

    @property
    def has_work(self) -> bool:
        """Whether a batch is left to draw; false once it failed or was cancelled."""


JobT = TypeVar("JobT", bound=Job)


class Scheduler(Protocol[JobT]):
    """Holds the jobs and hands out the next one to draw a batch of."""

    def submit(self, job: JobT) -> None:
        """Take a job in."""

    def next(self) -> JobT | None:
        """The job whose next batch is due; waits for one. None once closed.

        A job comes back in a later turn for as long as it has work.
        """

    def close(self) -> list[JobT]:
        """Let `next` answer None from now on; answers the jobs that still had work."""

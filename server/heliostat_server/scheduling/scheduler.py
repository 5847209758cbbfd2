"""What a scheduler is, and what it goes by: it decides whose batch is drawn next, and knows nothing of drawing."""

from __future__ import annotations

from typing import Protocol, TypeVar

from heliostat_server.experiments.terms import Share


class Job(Protocol):
    """One request, drawn batch by batch. A batch is drawn under one adapter."""

    @property
    def experiment(self) -> str:
        """Whose it is: experiments share the engine fairly."""

    @property
    def is_urgent(self) -> bool:
        """Whether it goes before all others: short, and somebody waits for it."""

    @property
    def has_work(self) -> bool:
        """Whether a batch is left to draw; false once it failed or was cancelled."""

    @property
    def images_left(self) -> int:
        """Images not drawn yet; 0 without work."""

    @property
    def batch_cost(self) -> float:
        """What the next batch costs: images x evaluations of the transformer for each."""

    @property
    def cost_left(self) -> float:
        """What all its batches left cost."""


JobT = TypeVar("JobT", bound=Job)


class Scheduler(Protocol[JobT]):
    """Holds the jobs and hands out the next one to draw a batch of."""

    def submit(self, job: JobT) -> None:
        """Take a job in.

        Raises:
            RequestError: it is larger than any queue.
            PutOffError: it has to come again later.
        """

    def next(self) -> JobT | None:
        """The job whose next batch is due; waits for one. None once closed.

        A job comes back in a later turn for as long as it has work.
        """

    def waiting(self) -> list[JobT]:
        """The jobs that have work."""

    def close(self) -> list[JobT]:
        """Let `next` answer None from now on; answers the jobs that still had work."""


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

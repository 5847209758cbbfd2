"""Waiting for a server that is gone or cannot go on, for as long as `server.patience_s` says."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from heliostat_trainer.errors import AskAgainError, PatienceEndedError, ServerGoneError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 3.0


class Waiting(Protocol):
    """What becomes of a call that fails for now."""

    def call(self, action: Callable[[], T]) -> T:
        """The action's result. Raises AskAgainError or PatienceEndedError."""

    def answered(self) -> None:
        """The server is there."""

    def anew(self) -> Waiting:
        """For another thread's calls."""


class Patience:
    """Retries an action that fails for now, and counts for how long it has.

    The clock starts at the first failure after an answer, so that a long rollout does not use
    up the patience of an outage at its end.
    """

    def __init__(self, seconds: float, url: str, say: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._url = url
        self._say = say
        self._failing_since: float | None = None

    def anew(self) -> Patience:
        """As patient, for another thread's requests."""
        return Patience(self._seconds, self._url, self._say)

    def answered(self) -> None:
        """The server is there: the next failure starts the clock anew."""
        self._failing_since = None

    def call(self, action: Callable[[], T]) -> T:
        """The action's result.

        Raises:
            PatienceEndedError: it still fails `seconds` after the first failure.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(AskAgainError),
            stop=self._exhausted,
            wait=wait_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
            before_sleep=self._announce,
            retry_error_callback=self._give_up,
        )
        result: T = retrying(action)
        self.answered()
        return result

    def _exhausted(self, state: RetryCallState) -> bool:  # noqa: ARG002
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        return now - self._failing_since >= self._seconds

    def _announce(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            self._say(
                f"waiting for the rollout server at {self._url}, up to {self._seconds:g} s "
                f"(server.patience_s): {_cause(state)}"
            )

    def _give_up(self, state: RetryCallState) -> NoReturn:
        if isinstance(_error(state), ServerGoneError):
            raise PatienceEndedError(
                f"no rollout server at {self._url} within {self._seconds:g} s ({_cause(state)}): start "
                "it with `heliostat serve`, correct server.url, or raise server.patience_s"
            )
        raise PatienceEndedError(
            f"the rollout server at {self._url} could not go on within {self._seconds:g} s: "
            f"{_cause(state)}; continue with --resume, or raise server.patience_s"
        )


def _cause(state: RetryCallState) -> str:
    return str(_error(state))


def _error(state: RetryCallState) -> BaseException | None:
    assert state.outcome is not None
    return state.outcome.exception()

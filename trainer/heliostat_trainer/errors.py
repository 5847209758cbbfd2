"""What ends a run early, or has a server asked again: each message says what happened and what to do."""

from __future__ import annotations

from typing import ClassVar

from heliostat_engines.errors import ConfigError as ConfigError  # the readers of settings raise it
from heliostat_engines.errors import FilesError, HeliostatError

DIVERGED = (
    "the last checkpoint is kept: lower optimiser.lr and start anew under another run.name, for a "
    "run cannot be resumed with another rate"
)
"""What becomes of a run whose numbers are not finite any more."""


class ServerRefusedError(HeliostatError):
    """The server understood a request and refuses it; asking again would not help."""


class TokenRefusedError(ServerRefusedError):
    """The server takes none of the tokens that the trainer has, or gives them no right to this."""


class AskAgainError(HeliostatError, ConnectionError):
    """A server did not do what it was asked; the same request may succeed in a while."""

    state: ClassVar[str]
    """What is said of that server meanwhile."""


class ServerGoneError(AskAgainError):
    """The server does not answer, or a model of it is down, or it is not the one that it was."""

    state = "is gone"


class ServerUnableError(AskAgainError):
    """The server is there, and says itself that it cannot do this just now."""

    state = "cannot go on"


class ServerBusyError(AskAgainError):
    """The server has too much of ours waiting: it takes that one request again later."""

    state = "is busy"

    def __init__(self, sentence: str, retry_after_s: float, request_id: str) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class ServerLeftOutError(AskAgainError):
    """One of several servers is there, but cannot do what the others are asked for."""

    state = "is left out"


class PatienceEndedError(HeliostatError, ConnectionError):
    """The server was gone, or could not go on, for longer than server.patience_s."""


class DivergedError(HeliostatError, ArithmeticError):
    """A loss, gradient or reward is NaN or infinite."""


class OutOfMemoryError(HeliostatError, MemoryError):
    """The device has too little memory for what the settings ask it to do at once."""


class RunFolderError(FilesError):
    """A run folder that cannot be started into, resumed from, or written to."""


class CompareError(HeliostatError, ValueError):
    """Runs that cannot be set side by side."""


class InterruptedRunError(HeliostatError):
    """The user stopped the run; it can be resumed."""


class RankFailedError(HeliostatError):
    """Another process of the run failed: it says why."""

"""What ends a run early: each message says what happened and what to do."""

from __future__ import annotations

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


class ServerAwayError(HeliostatError, ConnectionError):
    """The transport failed or a model is not up: the same request may succeed in a while."""


class ServerUnableError(ServerAwayError):
    """The server is there, and says itself that it cannot do this just now."""


class LeftOutError(ServerUnableError):
    """A server that came later, and cannot do what the others are asked for."""


class ServerBusyError(ServerUnableError):
    """The server has too much of ours waiting: it takes that one request again later."""

    def __init__(self, sentence: str, retry_after_s: float, request_id: str) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class ServerUnreachableError(HeliostatError, ConnectionError):
    """The server stayed away for longer than server.patience_s."""


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

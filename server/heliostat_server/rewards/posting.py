"""HTTP requests that are worth another try when the other side is busy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests
import tenacity

from heliostat_engines import secret

if TYPE_CHECKING:
    from pathlib import Path

_BUSY = frozenset({429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 20.0


class BusyError(Exception):
    """Worth another try, after so many seconds if the server says so."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class RefusedError(Exception):
    """The server does not take such a request."""


def read_token(path: Path | None, setting: str) -> str | None:
    """The token in a file, if one is named. Raises SecretError if it cannot be read or sent."""
    return None if path is None else secret.read_token(path, setting)


def post(url: str, body: dict[str, Any], token: str | None, timeout_s: float) -> str:
    """Post JSON; the answer's text.

    Raises:
        BusyError: there is no answer, or the server is busy or broken.
        RefusedError: it does not take the request.
    """
    try:
        response = requests.post(
            url,
            json=body,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=timeout_s,
        )
    except requests.RequestException as error:
        raise BusyError(type(error).__name__) from error
    if response.status_code in _BUSY:
        raise BusyError(f"status {response.status_code}", _retry_after_s(response))
    if not response.ok:
        raise RefusedError(f"status {response.status_code}: {response.text[:200]}")
    text: str = response.text
    return text


def retrying(attempts: int, *errors: type[Exception]) -> tenacity.Retrying:
    """Tries again on BusyError and `errors`, `attempts` times in all; then raises the last one."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((BusyError, *errors)),
        stop=tenacity.stop_after_attempt(attempts),
        wait=_wait,
        reraise=True,
    )


def _retry_after_s(response: requests.Response) -> float | None:
    try:
        return float(response.headers.get("Retry-After", ""))
    except ValueError:
        return None


_backoff = tenacity.wait_exponential_jitter(initial=0.2, max=_LONGEST_WAIT_S)


def _wait(state: tenacity.RetryCallState) -> float:
    """As long as the server says, else ever longer."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, BusyError) and error.retry_after_s is not None:
        return min(error.retry_after_s, _LONGEST_WAIT_S)
    return float(_backoff(state))

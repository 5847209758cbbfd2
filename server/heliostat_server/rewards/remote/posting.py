"""HTTP requests that are worth another try when the other side is busy."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import requests
import tenacity

from heliostat_engines.files import secret
from heliostat_engines.machine.network import host_of, http_detour, is_here

if TYPE_CHECKING:
    from pathlib import Path

_BUSY = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_NEVER = frozenset({HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED})
"""Statuses of a server error that another try does not mend."""
_LONGEST_WAIT_S = 20.0
SHOWN_CHARS = 200
"""Of another server's words."""


class BusyError(Exception):
    """Worth another try, after so many seconds if the server says so."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class RefusedError(Exception):
    """The server does not take such a request; status: 0 if it could not even be sent."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


def read_token(path: Path | None, setting: str) -> str | None:
    """The token in a file, if one is named. Raises SecretError if it cannot be read or sent."""
    return None if path is None else secret.read_token(path, setting)


def post(url: str, body: dict[str, Any], token: str | None, timeout_s: float) -> str:
    """Post JSON; the answer's text.

    Raises:
        BusyError: there is no answer, or the server is busy or broken.
        RefusedError: it does not take the request; has its words.
    """
    response = send("POST", url, timeout_s, json=body, token=token)
    if response.ok:
        text: str = response.text
        return text
    reason = f"status {response.status_code}"
    if said := shown(response.text, token):
        reason += f": {said}"
    if _is_busy(response.status_code):
        raise BusyError(reason, _retry_after_s(response))
    raise RefusedError(reason, response.status_code)


def send(
    method: str,
    url: str,
    timeout_s: float,
    *,
    json: dict[str, Any] | None = None,
    token: str | None = None,
) -> requests.Response:
    """The answer to a request, whatever its status. What is on this machine is asked by no proxy.

    Raises:
        BusyError: there is none.
        RefusedError: the request cannot be sent at all.
    """
    host = host_of(url)
    try:
        return requests.request(
            method,
            url,
            json=json,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=timeout_s,
            proxies={"no_proxy": host} if is_here(host) else None,
        )
    except requests.RequestException as error:
        kind = type(error).__name__
        if isinstance(error, ValueError):  # a URL or header that is none
            raise RefusedError(kind) from error
        raise BusyError(kind + http_detour(url)) from error


def shown(text: str, token: str | None = None) -> str:
    """Another server's words as they may be shown: one line, not too long, without our token."""
    words = " ".join(text.split())
    if token:
        words = words.replace(token, "***")
    return words if len(words) <= SHOWN_CHARS else f"{words[:SHOWN_CHARS]}…"


def retrying(attempts: int, *errors: type[Exception]) -> tenacity.Retrying:
    """Tries again on BusyError and `errors`, `attempts` times in all; then raises the last one."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((BusyError, *errors)),
        stop=tenacity.stop_after_attempt(attempts),
        wait=_wait,
        reraise=True,
    )


def _is_busy(status: int) -> bool:
    return status in _BUSY or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _NEVER)


def _retry_after_s(response: requests.Response) -> float | None:
    try:
        seconds = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


_backoff = tenacity.wait_exponential_jitter(initial=0.2, max=_LONGEST_WAIT_S)


def _wait(state: tenacity.RetryCallState) -> float:
    """As long as the server says, else ever longer."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, BusyError) and error.retry_after_s is not None:
        return min(error.retry_after_s, _LONGEST_WAIT_S)
    return float(_backoff(state))

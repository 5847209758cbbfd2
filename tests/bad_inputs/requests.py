"""HTTP requests to the control plane and its dashboard, written byte by byte."""

from __future__ import annotations

import json
import re
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from hypothesis import strategies as st

from tests.bad_inputs import adapters, odd
from tests.bad_inputs.messages import NAMES, TOKENS
from tests.bad_inputs.outcome import ACCEPTED, Outcome, Verdict, refused
from tests.bad_inputs.plane import Plane, running_plane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TIMEOUT_S = 20.0
TOKEN = b"{token}"
"""Stands in a request for the caller's token, which is another each time."""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW", "get")
PATHS = (
    "/v1/health",
    "/v1/info",
    "/v1/events",
    "/v1/experiments",
    "/v1/experiments/{name}",
    "/v1/experiments/{name}/open",
    "/v1/experiments/{name}/tokens",
    "/v1/experiments/{name}/versions",
    "/v1/experiments/{name}/versions/{version}/rollback",
    "/v1/experiments/{name}/versions/{version}/pin",
    "/openapi.json",
    "/docs",
    "/static/{name}",
    "/login",
    "/logout",
    "/",
    "/overview",
    "/experiments",
    "/experiments/{name}",
    "/experiments/{name}/live",
    "/experiments/{name}/terms",
    "/experiments/{name}/pause",
    "/experiments/{name}/groups/{version}-1/pictures",
    "/experiments/{name}/groups/{version}-1/pictures.webp",
)
TYPES = (
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "multipart/form-data",
    "text/plain",
    "application/json; charset=utf-16",
    "\xff",
)
HEADERS = (
    "Expect: 100-continue",
    "Content-Encoding: gzip",
    "Cookie: heliostat-session=x",
    "Origin: http://elsewhere",
    "HX-Request: true",
    "X-Forwarded-For: 1.2.3.4",
    "Range: bytes=0-",
    "Transfer-Encoding: chunked",
    "Content-Length: 5",
    "Connection: upgrade\r\nUpgrade: websocket",
    "X: " + "y" * 70_000,
    "\x00: x",
    "no colon",
)
FIELDS = ("name", "share", "weight", "priority", "max_queued_images", "paused", "token", "nosuch")


@dataclass(frozen=True)
class Request:
    """content: all of what is sent, with TOKEN in the place of the caller's."""

    content: bytes
    caller: str = ""


bodies = (
    st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(NAMES) | odd.anything, max_size=3).map(
        json.dumps
    )
    | odd.json_texts
)
forms = st.dictionaries(st.sampled_from(FIELDS), odd.texts | odd.numbers, max_size=3).map(
    lambda fields: urlencode(fields, errors="replace")
)


@st.composite
def uploads(draw: Callable[..., Any]) -> bytes:
    """A form with an adapter's files, or with some of its parts."""
    files = draw(adapters.adapters)
    parts = {
        'name="sha256"': draw(st.sampled_from([files.sha256, files.sha256, "00"])).encode(),
        'name="config"; filename="c"': files.config,
        'name="tensors"; filename="t"': files.tensors,
    }
    for name in draw(st.lists(st.sampled_from(sorted(parts)), max_size=1)):
        del parts[name]
    lines = [
        f"--b\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + data + b"\r\n"
        for name, data in parts.items()
    ]
    return b"".join(lines) + draw(st.sampled_from([b"--b--\r\n", b"--b--\r\n", b"", b"--b"]))


@st.composite
def requests(draw: Callable[..., Any]) -> Request:
    if draw(st.integers(0, 19)) == 0:
        return Request(draw(st.binary(max_size=60)) + b"\r\n\r\n")
    kind = draw(st.sampled_from(TYPES[:3] + TYPES))
    content = _body(draw, kind)
    length = len(content) + draw(st.sampled_from([0] * 12 + [-1, 1, 10**30, -(10**9)]))
    caller = draw(st.sampled_from([*TOKENS, ""]))
    headers = [f"Host: {draw(st.sampled_from(['h', '127.0.0.1', '', 'a b']))}"]
    headers += [f"Content-Type: {kind}"] if content or draw(st.booleans()) else []
    headers += [f"Content-Length: {length}"] if draw(st.integers(0, 15)) else []
    headers += [f"Authorization: Bearer {TOKEN.decode()}"] if caller else []
    headers += draw(st.lists(st.sampled_from(HEADERS), max_size=1))
    method = draw(st.sampled_from(METHODS[:5] + METHODS))
    head = f"{method} {draw(targets())} HTTP/1.1\r\n" + "\r\n".join(headers) + "\r\n\r\n"
    return Request(head.encode("latin-1", "replace") + content, caller)


def _body(draw: Callable[..., Any], kind: str) -> bytes:
    if draw(st.integers(0, 3)) == 0:
        return b""
    if kind.startswith("multipart"):
        return draw(uploads())
    if "form" in kind:
        return draw(forms).encode()
    return draw(bodies).encode("utf-8", "surrogatepass")[: 2**17]


@st.composite
def targets(draw: Callable[..., Any]) -> str:
    """The path, most of the time one that there is."""
    if draw(st.integers(0, 9)) == 0:
        return draw(
            st.sampled_from(["*", "//", "/%", "/%00", "/../etc", "/v1", "http://h/v1/info"])
        )
    name = quote(draw(st.sampled_from(NAMES) | odd.texts), safe="", errors="replace")
    version = quote(draw(odd.numbers), safe="", errors="replace")[:5000]
    path = draw(st.sampled_from(PATHS)).format(name=name, version=version)
    query = draw(
        st.just({})
        | st.dictionaries(
            st.sampled_from(["experiment", "count", "axis", "version", "before", "reward", "x"]),
            st.sampled_from(NAMES) | odd.numbers | odd.texts,
            max_size=2,
        )
    )
    return path + (f"?{urlencode(query, errors='replace')}" if query else "")


class Sender:
    """Sends them over connections of their own."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        host, _, port = plane.http.partition(":")
        self._address = (host, int(port))

    def run(self, request: Request) -> Verdict:
        plane = self._plane
        plane.renew()
        token = plane.tokens.get(request.caller, "").encode()
        answer = self._answer(request.content.replace(TOKEN, token))
        return plane.judged(_judged(answer), request.caller)

    def _answer(self, content: bytes) -> bytes | None:
        """All that comes back; None: nothing in time."""
        answer = b""
        with socket.create_connection(self._address, TIMEOUT_S) as connection:
            try:
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    answer += part
            except TimeoutError:
                return answer or None
            except OSError:  # it has heard enough
                return answer
        return answer


def _judged(answer: bytes | None) -> Verdict:
    if answer is None:
        return Verdict(Outcome.HUNG, "no answer", "no answer")
    match = re.match(rb"HTTP/1\.1 (\d{3})", answer)
    if match is None:
        return Verdict(Outcome.REFUSED, "the connection was closed")
    status, body = int(match[1]), answer.partition(b"\r\n\r\n")[2].decode("utf-8", "replace")
    if status >= 500:
        return Verdict(Outcome.TRACEBACK, body[:300], f"status {status}")
    if status < 400:
        return ACCEPTED
    try:
        return refused(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return Verdict(Outcome.REFUSED, f"status {status}")


@contextmanager
def opened(root: Path) -> Iterator[Callable[[Request], Verdict]]:
    with running_plane(root) as plane:
        yield Sender(plane).run

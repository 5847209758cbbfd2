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
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW", "get")
ROUTES = (
    ("GET", "/v1/health"),
    ("GET", "/v1/info"),
    ("GET", "/v1/events"),
    ("GET", "/v1/experiments"),
    ("POST", "/v1/experiments"),
    ("POST", "/v1/experiments"),
    ("GET", "/v1/experiments/{name}"),
    ("PATCH", "/v1/experiments/{name}"),
    ("PATCH", "/v1/experiments/{name}"),
    ("DELETE", "/v1/experiments/{name}"),
    ("POST", "/v1/experiments/{name}/open"),
    ("POST", "/v1/experiments/{name}/tokens"),
    ("DELETE", "/v1/experiments/{name}/tokens"),
    ("POST", "/v1/experiments/{name}/versions"),
    ("POST", "/v1/experiments/{name}/versions"),
    ("POST", "/v1/experiments/{name}/versions/{version}/rollback"),
    ("PUT", "/v1/experiments/{name}/versions/{version}/pin"),
    ("DELETE", "/v1/experiments/{name}/versions/{version}/pin"),
    ("GET", "/openapi.json"),
    ("GET", "/static/{name}"),
    ("GET", "/"),
    ("POST", "/login"),
    ("POST", "/logout"),
    ("POST", "/experiments"),
    ("GET", "/experiments/{name}"),
    ("GET", "/experiments/{name}/live"),
    ("GET", "/experiments/{name}/numbers"),
    ("POST", "/experiments/{name}/terms"),
    ("POST", "/experiments/{name}/terms"),
    ("POST", "/experiments/{name}/pause"),
    ("POST", "/experiments/{name}/tokens/revoke"),
    ("POST", "/experiments/{name}/versions/{version}/rollback"),
    ("POST", "/experiments/{name}/versions/{version}/pin"),
    ("GET", "/experiments/{name}/groups/{version}-1"),
    ("POST", "/experiments/{name}/groups/{version}-1/pictures"),
    ("GET", "/experiments/{name}/groups/{version}-1/pictures.webp"),
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
CHUNKED, FIVE_BYTES = "Transfer-Encoding: chunked", "Content-Length: 5"
HEADERS = (
    "Expect: 100-continue",
    "Content-Encoding: gzip",
    "Cookie: heliostat-session=x",
    "Origin: http://elsewhere",
    "HX-Request: true",
    "X-Forwarded-For: 1.2.3.4",
    "Range: bytes=0-",
    CHUNKED,
    FIVE_BYTES,
    "Connection: upgrade\r\nUpgrade: websocket",
    "X: " + "y" * 70_000,
    "\x00: x",
    "no colon",
)
HOSTS = ("h", "h", "127.0.0.1", "127.0.0.1:80", "[::1]", "", "a b")
FIELDS = ("name", "share", "weight", "priority", "max_queued_images", "paused", "token", "nosuch")


@dataclass(frozen=True)
class Request:
    """content: all of what is sent, with {token}, {session}, {host}, {port} for what they are."""

    content: bytes
    caller: str = ""
    is_whole: bool = True
    """Else the server waits for more, which never comes."""


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
    if draw(st.integers(0, 29)) == 0:
        return Request(draw(st.binary(max_size=60)) + b"\r\n\r\n")
    method, path = draw(st.sampled_from(ROUTES))
    kind = draw(odd.mostly(st.just(_usual_type(path)), st.sampled_from(TYPES)))
    content = b"" if method in {"GET", "DELETE"} else _body(draw, kind)
    length = len(content) + draw(st.sampled_from([0] * 20 + [-1, 1, 10**30, -(10**9)]))
    caller = draw(st.sampled_from([*TOKENS, ""]))
    headers = [f"Host: {draw(odd.mostly(st.just('{host}'), st.sampled_from(HOSTS), times=15))}"]
    headers += [f"Content-Type: {kind}"] if content or draw(st.booleans()) else []
    headers += [f"Content-Length: {length}"] if draw(st.integers(0, 15)) else []
    if caller and path.startswith("/v1"):
        headers += ["Authorization: Bearer {token}"]
    elif caller:
        headers += ["Cookie: heliostat-{port}={session}", "Origin: http://{host}"]
    more = draw(st.sampled_from(HEADERS)) if draw(st.integers(0, 9)) == 0 else ""
    headers += [more] if more else []
    headers += ["Connection: close"]
    if draw(st.integers(0, 19)) == 0:
        method = draw(st.sampled_from(METHODS))
    head = f"{method} {draw(_target(path))} HTTP/1.1\r\n" + "\r\n".join(headers) + "\r\n\r\n"
    is_whole = length <= len(content) and more not in {CHUNKED, FIVE_BYTES}
    return Request(head.encode("latin-1", "replace") + content, caller, is_whole)


def _usual_type(path: str) -> str:
    if not path.startswith("/v1"):
        return TYPES[1]
    return TYPES[2] if path.endswith("/versions") else TYPES[0]


def _body(draw: Callable[..., Any], kind: str) -> bytes:
    if draw(st.integers(0, 3)) == 0:
        return b""
    if kind.startswith("multipart"):
        return draw(uploads())
    if "form" in kind:
        return draw(forms).encode()
    return draw(bodies).encode("utf-8", "surrogatepass")[: 2**17]


@st.composite
def _target(draw: Callable[..., Any], path: str) -> str:
    """The path, filled in, and a query; now and then something else."""
    if draw(st.integers(0, 19)) == 0:
        return draw(
            st.sampled_from(
                ["*", "//", "/%", "/%00", "/../etc", "/v1", "http://h/v1/info", "/docs"]
            )
        )
    name = draw(odd.mostly(st.sampled_from(NAMES), odd.texts, times=4))
    version = draw(odd.mostly(st.integers(0, 3).map(str), odd.numbers, times=2))[:5000]
    filled = path.format(
        name=quote(name, safe="", errors="replace"), version=quote(version, errors="replace")
    )
    fields = st.sampled_from(["experiment", "count", "axis", "version", "before", "reward", "x"])
    values = st.sampled_from([*NAMES, "time", "version", "1-1"]) | odd.numbers | odd.texts
    query = draw(odd.mostly(st.just({}), st.dictionaries(fields, values, max_size=2), times=2))
    return filled + (f"?{urlencode(query, errors='replace')}" if query else "")


class Sender:
    """Sends them over connections of their own."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        host, _, port = plane.http.partition(":")
        self._address = (host, int(port))

    def run(self, request: Request) -> Verdict:
        plane = self._plane
        plane.renew()
        content = request.content
        for name, value in {
            b"{host}": plane.http,
            b"{port}": str(self._address[1]),
            b"{token}": plane.tokens.get(request.caller, ""),
            b"{session}": plane.session(request.caller),
        }.items():
            content = content.replace(name, value.encode())
        return plane.judged(_judged(self._answer(content, request.is_whole)), request.caller)

    def _answer(self, content: bytes, is_whole: bool) -> bytes | None:
        """All that comes back; None: nothing in time."""
        answer = b""
        with socket.create_connection(self._address, TIMEOUT_S) as connection:
            try:
                connection.sendall(content)
                if not is_whole:
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

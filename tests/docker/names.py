"""The names of a cluster's services, as its DNS tells them: a name leads to the pods that are ready, and to no others."""

from __future__ import annotations

import ipaddress
import socketserver
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DOMAIN = "svc.cluster.local"
PORT = 53
TTL_S = 1
HEADER = struct.Struct("!6H")
"""Of RFC 1035, 4.1.1: id, flags, questions, answers, authorities, additional."""
ANSWER, NO_SUCH_NAME = 0x8580, 0x8583
"""A final answer of the one that knows."""
A, IN = 1, 1
NAME_OF_THE_QUESTION = 0xC00C
"""A pointer to where it stands."""


def resolver(namespace: str, server: str) -> list[str]:
    """The lines of a pod's resolv.conf."""
    searched = (f"{namespace}.{DOMAIN}", DOMAIN, DOMAIN.partition(".")[2])
    return [f"nameserver {server}", f"search {' '.join(searched)}", "options ndots:5"]


@contextmanager
def serve_names(address: str, lookup: Callable[[str], Sequence[str] | None]) -> Iterator[None]:
    """Answer at the address by UDP, for the block.

    `lookup` has the IPv4 addresses of a full name, or None where there is no such service.
    """

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, socket = self.request
            socket.sendto(answer(data, lookup), self.client_address)

    with socketserver.ThreadingUDPServer((address, PORT), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def answer(query: bytes, lookup: Callable[[str], Sequence[str] | None]) -> bytes:
    """A message for a message of one question."""
    labels, place = [], HEADER.size
    while length := query[place]:
        labels.append(query[place + 1 : place + 1 + length].decode())
        place += 1 + length
    end = place + 5
    question = query[HEADER.size : end]
    (kind,) = struct.unpack("!H", query[place + 1 : place + 3])
    found = lookup(".".join(labels).lower())
    addresses = found or () if kind == A else ()
    records = b"".join(
        struct.pack("!HHHIH4s", NAME_OF_THE_QUESTION, A, IN, TTL_S, 4, packed)
        for packed in (ipaddress.IPv4Address(each).packed for each in addresses)
    )
    flags = NO_SUCH_NAME if found is None else ANSWER
    (identity,) = struct.unpack("!H", query[:2])
    return HEADER.pack(identity, flags, 1, len(addresses), 0, 0) + question + records

"""Ports nobody listens on."""

from __future__ import annotations

import socket

from heliostat_server.settings import LOOPBACK


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether we could listen on a port."""
    with socket.socket(_family(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_ports(count: int, host: str = LOOPBACK) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.socket(_family(host)) for _ in range(count)]
    try:
        for each in sockets:
            each.bind((host, 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def choose_port(wanted: int | None, usual: int | None, last: int | None, host: str) -> int:
    """The wanted port; with 0 or None the usual, last or any one, whichever is free first.

    wanted: 0 takes no usual one. usual, last: None if there is none.
    """
    if wanted:
        return wanted
    candidates = (usual if wanted is None else None, last)
    free = (port for port in candidates if port and is_free(port, host))
    return next(free, None) or free_ports(1, host)[0]


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET

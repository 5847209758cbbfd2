from __future__ import annotations

import socket

from heliostat_server.processes.ports import free_ports, is_free


def test_free_ports_are_free_and_taken_ones_are_not() -> None:
    first, second = free_ports(2)
    assert first != second
    with socket.create_server(("127.0.0.1", first)):
        assert not is_free(first)
    assert is_free(second)

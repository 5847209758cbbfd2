"""Serving the HTTP application beside everything else of a process."""

from __future__ import annotations

import socket
from threading import Thread
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI

STOP_TIMEOUT_S = 5
BACKLOG = 128


class WebServer:
    """Uvicorn in a thread."""

    def __init__(
        self, app: FastAPI, host: str, port: int, *, certificate: Path | None, key: Path | None
    ) -> None:
        """Listen on host:port, with TLS if there is a certificate. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        self.port = int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        self._server = uvicorn.Server(config)
        self._thread = Thread(
            target=self._server.run, args=([self._socket],), name="web", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End, in seconds."""
        self._server.should_exit = True
        self._thread.join(STOP_TIMEOUT_S)
        self._socket.close()

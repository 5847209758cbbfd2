"""`heliostat serve`: run the rollout server in the foreground."""

from __future__ import annotations

import signal
from threading import Event
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from heliostat_server.errors import ServerStartError
from heliostat_server.launcher.server import RolloutServer
from heliostat_server.logs import configure_logs

if TYPE_CHECKING:
    from heliostat_server.settings import ServeSettings


def serve(settings: ServeSettings) -> None:
    """Start the server, say where it is, and keep it running until SIGINT or SIGTERM.

    Raises:
        ServerRunningError: another server has the state folder.
        ServerStartError: it cannot be started, or keeps dying.
        HeliostatError: a setting is wrong; the message names it.
    """
    console = Console(stderr=True)
    configure_logs(colours=console.is_terminal)
    stopping = Event()
    handlers = {
        number: signal.signal(number, lambda *_: stopping.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with RolloutServer(settings, stopping) as server:
            console.print(_summary(server))
            server.watch()
            console.print("stopping")
    except ServerStartError:
        if not stopping.is_set():
            raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _summary(server: RolloutServer) -> Table:
    description, record, state = server.describe(), server.record, server.state
    engine = description.engine
    rows = {
        "control": f"[bold]{record.control}[/bold]  (point trainers here)",
        "rollouts": _endpoints(record.rollout, record.ports),
        "model": f"{engine.family} on {engine.runtime}, {engine.precision}, "
        f"{engine.nvfp4_linears} of {engine.linears} linears in NVFP4",
        "batch": str(description.limits.batch),
        "rewards": ", ".join(description.rewards),
        "state": str(state.path),
        "log": str(state.triton_log),
    }
    table = Table(title="heliostat rollout server", show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _endpoints(rollout: str | None, ports: object) -> str:
    return f"gRPC {rollout}" if ports is None else f"gRPC {rollout}  ({ports})"

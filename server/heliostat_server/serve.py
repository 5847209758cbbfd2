"""`heliostat serve`: run the rollout server in the foreground."""

from __future__ import annotations

import signal
from threading import Event
from typing import TYPE_CHECKING

import structlog
from rich.console import Console
from rich.table import Table

from heliostat_engines.progress import Stages, Ticker
from heliostat_server.errors import ServerStartError
from heliostat_server.launcher.launcher import Launcher
from heliostat_server.logs import configure_logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_server.settings import ServeSettings


def serve(
    settings: ServeSettings, on_start: Callable[[str, str], None] = lambda _url, _token: None
) -> None:
    """Start the server, say where it is, and keep it running until SIGINT or SIGTERM.

    on_start: is told the control plane's URL and the administrator's token, before it answers.

    Raises:
        ServerRunningError: another server has the state folder.
        ServerStartError: it cannot be started, or keeps dying.
        HeliostatError: a setting is wrong; the message names it.
    """
    console = Console(stderr=True)
    configure_logs(colours=console.is_terminal)
    stopping, stages = Event(), Stages()
    log = structlog.get_logger("server")
    handlers = {
        number: signal.signal(number, lambda *_: stopping.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with (
            Ticker(stages.sentence, log.info),
            Launcher(settings, stopping, on_start, stages) as launcher,
        ):
            console.print(_summary(launcher))
            launcher.watch()
            console.print("stopping")
    except ServerStartError:
        if not stopping.is_set():
            raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _summary(launcher: Launcher) -> Table:
    description, record, state = launcher.describe(), launcher.record, launcher.state
    engine = description.engine
    rows = {
        "control": f"[bold]{launcher.control_url}[/bold]  (point trainers here)"
        if record.control
        else "none: it is elsewhere",
        "dashboard": record.http or "none",
        "rollouts": f"gRPC {record.rollout}",
        "metrics": _metrics(launcher),
        "model": f"{engine.family} on {engine.runtime}, {engine.precision}, "
        f"{engine.nvfp4_linears} of {engine.linears} linears quantised",
        "batch": str(description.limits.batch),
        "rewards": ", ".join(description.rewards),
        "state": str(state.path),
        "token": f"{launcher.admin_token_path} (the administrator's)",
        "log": str(state.triton_log) if record.triton else "Triton's is where it runs",
    }
    table = Table(title="heliostat rollout server", show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _metrics(launcher: Launcher) -> str:
    record = launcher.record
    if record.triton is None:
        return "where Triton runs"
    if record.ports is None or record.ports.metrics is None:
        return "none: give --metrics-port for Prometheus' page"
    return f"port {record.ports.metrics}"

"""A rollout server for as long as a block runs."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from heliostat.credentials import remember
from heliostat_engines.machine.hardware import AUTO
from heliostat_engines.progress import shown
from heliostat_server.control.validation import first_problem
from heliostat_server.errors import ServerStartError
from heliostat_server.launcher.background import background_server
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.settings import DEVICE_VARIABLE, ServeSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console


@dataclass(frozen=True)
class Serving:
    """A running server: its control plane, and the administrator's token."""

    url: str
    token: str


@contextmanager
def running_server(state: Path, console: Console) -> Iterator[Serving]:
    """Run a server on free ports; yields where it is and stops it in the end.

    The console shows what it loads. It runs in a session of its own, so that Ctrl-C reaches the
    trainer first.

    Raises:
        FilesError: the state folder is none of a server's.
        ServerStartError: with the reason that the server gave.
    """
    settings = _settings(state)
    with ExitStack() as running:
        with shown(console) as stages, stages.during("start the rollout server"):
            record = running.enter_context(background_server(settings, stages.part))
        url = f"grpc://{record.control}"
        token = StateFolder(state).read_admin_token()
        remember(url, token)
        yield Serving(url, token)


def _settings(state: Path) -> ServeSettings:
    device = os.environ.get(DEVICE_VARIABLE) or AUTO  # as `heliostat serve` takes it
    try:
        return ServeSettings.model_validate(
            {"state": state, "port": 0, "http_port": 0, "device": device}
        )
    except ValidationError as error:
        raise ServerStartError(f"{DEVICE_VARIABLE}: {first_problem(error.errors())}") from error

"""The control plane of one server: gRPC and HTTP over the same operations."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from heliostat_server.control.dashboard.build import build_dashboard
from heliostat_server.control.grpc import ControlService, start_control
from heliostat_server.control.http import build_app
from heliostat_server.control.operations import Operations
from heliostat_server.control.publisher import Publisher
from heliostat_server.control.web import WebServer
from heliostat_server.experiments.authority import Authority
from heliostat_server.experiments.tokens import digest
from heliostat_server.processes.periodic import PeriodicThread
from heliostat_server.store.stores import Stores

if TYPE_CHECKING:
    from heliostat_server.control.operations import RolloutEngine
    from heliostat_server.settings import ServeSettings
    from heliostat_server.store.adapters import AdapterStore
    from heliostat_server.triton.client import TritonClient


GRACE_S = 1.0
SWEEP_INTERVAL_S = 60.0


class Sweeper:
    """Removes objects of adapters that the store has forgotten, every minute, in a thread of its own."""

    def __init__(self, adapters: AdapterStore, *, interval_s: float = SWEEP_INTERVAL_S) -> None:
        self._adapters = adapters
        self._log = structlog.get_logger("control")
        self._thread = PeriodicThread("sweep", self._sweep, interval_s)

    def close(self) -> None:
        """End."""
        self._thread.close()

    def _sweep(self) -> None:
        try:
            self._adapters.sweep()
        except Exception as error:
            self._log.warning("adapters' storage not swept", reason=str(error))


@dataclass(frozen=True)
class Plane:
    """The running servers."""

    control: Any
    web: WebServer
    sweeper: Sweeper

    def stop(self) -> None:
        """Stop them, in seconds."""
        self.web.stop()
        self.control.stop(GRACE_S).wait()
        self.sweeper.close()


def start_plane(
    settings: ServeSettings,
    redis_url: str,
    engine: RolloutEngine,
    triton: TritonClient,
    admin_token: str,
    ports: tuple[int, int],
) -> Plane:
    """Serve gRPC and HTTP on the two ports.

    Raises:
        OSError: a port is taken.
    """
    stores = Stores.connect(
        redis_url, keep_versions=settings.keep_versions, adapters_url=settings.adapters_url
    )
    authority = Authority(stores.experiments, (digest(admin_token),))
    ours = version("heliostat")
    publisher = Publisher(stores.adapters, triton)
    operations = Operations(
        engine, stores.experiments, stores.adapters, stores.steps, publisher, triton, ours
    )
    control = start_control(
        ControlService(operations, authority), f"{settings.host}:{ports[0]}", _credentials(settings)
    )
    app = build_app(operations, authority, ours)
    app.include_router(build_dashboard(operations, authority, stores, triton))
    try:
        web = WebServer(
            app,
            settings.host,
            ports[1],
            certificate=settings.tls_certificate,
            key=settings.tls_key,
        )
    except OSError:
        control.stop(None)
        raise
    return Plane(control, web, Sweeper(stores.adapters))


def _credentials(settings: ServeSettings) -> Any | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
    return grpc.ssl_server_credentials([pair])

"""The control plane of one server: gRPC and HTTP over the same operations."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import grpc

from heliostat_server.control.dashboard.build import build_dashboard
from heliostat_server.control.grpc import ControlService, start_control
from heliostat_server.control.http import build_app
from heliostat_server.control.operations import Operations
from heliostat_server.control.publisher import Publisher
from heliostat_server.control.web import WebServer
from heliostat_server.experiments.authority import Authority
from heliostat_server.experiments.tokens import digest
from heliostat_server.store.stores import Stores

if TYPE_CHECKING:
    from heliostat_server.control.operations import RolloutEngine
    from heliostat_server.settings import ServeSettings
    from heliostat_server.triton.client import TritonClient


def start_plane(
    settings: ServeSettings,
    redis_url: str,
    engine: RolloutEngine,
    triton: TritonClient,
    admin_token: str,
    ports: tuple[int, int],
) -> tuple[Any, WebServer]:
    """Serve gRPC and HTTP on the two ports; answers the running servers.

    Raises:
        OSError: a port is taken.
    """
    stores = Stores.connect(redis_url, keep_versions=settings.keep_versions)
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
    return control, web


def _credentials(settings: ServeSettings) -> Any | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
    return grpc.ssl_server_credentials([pair])

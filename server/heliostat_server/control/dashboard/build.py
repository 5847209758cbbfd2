"""The dashboard, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_server.control.dashboard.curves import Curves
from heliostat_server.control.dashboard.pictures import Pictures
from heliostat_server.control.dashboard.routes import dashboard_routes
from heliostat_server.control.dashboard.steps import Steps
from heliostat_server.control.dashboard.views import Views

if TYPE_CHECKING:
    from fastapi import APIRouter

    from heliostat_server.control.dashboard.pictures import Painter
    from heliostat_server.control.operations import Operations
    from heliostat_server.experiments.authority import Authority
    from heliostat_server.store.stores import Stores


def build_dashboard(
    operations: Operations,
    authority: Authority,
    stores: Stores,
    painter: Painter,
) -> APIRouter:
    """Its pages, for the root of the HTTP application."""
    views = Views(
        operations,
        stores,
        Curves(stores.groups),
        Steps(stores.steps),
        Pictures(stores.sheets, painter),
    )
    return dashboard_routes(operations, views, stores.sessions(authority))

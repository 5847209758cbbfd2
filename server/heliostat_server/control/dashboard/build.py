"""The dashboard, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_server.control.dashboard.curves import Curves
from heliostat_server.control.dashboard.pictures import Pictures
from heliostat_server.control.dashboard.routes import dashboard_routes
from heliostat_server.control.dashboard.views import Views
from heliostat_server.store.activity import ActivityStore
from heliostat_server.store.groups import RedisGroups
from heliostat_server.store.sessions import Sessions

if TYPE_CHECKING:
    from fastapi import APIRouter

    from heliostat_server.control.dashboard.pictures import Painter
    from heliostat_server.control.operations import Operations
    from heliostat_server.experiments.authority import Authority


def build_dashboard(
    operations: Operations,
    authority: Authority,
    redis_url: str,
    painter: Painter,
) -> APIRouter:
    """Its pages, for the root of the HTTP application."""
    groups = RedisGroups.connect(redis_url)
    views = Views(
        operations,
        groups,
        ActivityStore.connect(redis_url),
        Curves(groups),
        Pictures.connect(redis_url, painter),
    )
    return dashboard_routes(operations, views, Sessions.connect(redis_url, authority))

"""What every page has: a template, headers that lock the browser down, errors in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException

from heliostat_engines.errors import HeliostatError
from heliostat_server.control.dashboard.frame import number
from heliostat_server.control.dashboard.words import FILTERS
from heliostat_server.control.validation import first_problem
from heliostat_server.errors import ForbiddenError, RequestError, TokenError, code_of, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fastapi import Request

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not no-referrer: forms would then be sent with the origin `null`.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LOGIN = "/login"
_FETCHED = "HX-Request"
"""A header of requests for a part of a page."""

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(FILTERS, number=number)


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A template, filled in; what is filled in is escaped."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(values), status)


def go_to(path: str) -> RedirectResponse:
    """Read another page, after something was done."""
    return RedirectResponse(path, status_code=303)


class PageRoute(APIRoute):
    """A route whose errors are pages, and whose answers carry the headers of all pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with that around it."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                _check_origin(request)
                response = await handle(request)
            except TokenError:
                response = _to_login(request)
            except HeliostatError as error:
                response = _problem(request, error)
            except RequestValidationError as error:
                response = _problem(request, RequestError(first_problem(error.errors())))
            except HTTPException as error:  # Starlette's own: a form that is none
                response = _problem(request, RequestError(error.detail))
            except Exception as error:
                structlog.get_logger("dashboard").error("failed", exc_info=error)
                response = _problem(request, error)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return guarded


def _check_origin(request: Request) -> None:
    """Refuse what another site's page sends. Raises ForbiddenError."""
    if request.method in {"GET", "HEAD"}:
        return
    if urlsplit(request.headers.get("origin", "")).netloc != request.headers.get("host"):
        raise ForbiddenError("this was not sent by a page of the dashboard: open it and try again")


def _to_login(request: Request) -> Response:
    if _FETCHED in request.headers:
        return Response(status_code=401, headers={"HX-Redirect": LOGIN})
    return go_to(LOGIN)


def _problem(request: Request, error: Exception) -> Response:
    response = page("problem.html", code_of(error).http, sentence=describe(error))
    if _FETCHED in request.headers:
        # What is shown stays; the next try may do better.
        response.headers["HX-Reswap"] = "none"
    return response

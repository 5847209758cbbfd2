"""The addresses of the dashboard."""

# No postponed annotations: FastAPI reads those of functions within functions.

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Path, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from pydantic import StringConstraints

from heliostat_engines.errors import HeliostatError
from heliostat_server.control.dashboard.curves import Axis
from heliostat_server.control.dashboard.pages import LOGIN, STATIC, PageRoute, go_to, page
from heliostat_server.control.dashboard.stacks import SERVER, TRAINER
from heliostat_server.control.dashboard.views import GALLERY_GROUPS, LATEST, Excerpt, Sought, Views
from heliostat_server.control.http import VersionNumber
from heliostat_server.control.operations import Operations
from heliostat_server.errors import NotFoundError, TokenError, code_of, describe
from heliostat_server.experiments.authority import Caller
from heliostat_server.experiments.terms import ShareChange
from heliostat_server.store.sessions import SESSION_S, Sessions

GROUP_ID = r"^\d{1,20}-\d{1,20}$"
GroupId = Annotated[str, Path(pattern=GROUP_ID)]
ExperimentName = Annotated[str, StringConstraints(max_length=100)]
RewardName = Annotated[str, Query(max_length=100)]
STATIC_AGE_S = 300


def dashboard_routes(  # noqa: C901
    operations: Operations, views: Views, sessions: Sessions
) -> APIRouter:
    """Pages at the root; each but the login asks who is signed in."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)
    assets = {path.name for path in STATIC.iterdir()}

    def caller(request: Request) -> Caller:
        return sessions.caller(_session(request))

    By = Annotated[Caller, Depends(caller)]  # noqa: N806

    @router.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in assets:
            raise NotFoundError(f"there is no file {name[:100]!r}")
        headers = {"Cache-Control": f"max-age={STATIC_AGE_S}"}
        return FileResponse(STATIC / name, headers=headers)

    @router.get(LOGIN)
    def login_page() -> HTMLResponse:
        return page("login.html", problem="")

    @router.post(LOGIN)
    def login(request: Request, token: Annotated[str, Form(max_length=1000)] = "") -> Response:
        try:
            session = sessions.open(token)
        except TokenError as error:
            return page("login.html", code_of(error).http, problem=describe(error))
        response = go_to("/")
        response.set_cookie(
            _cookie(request),
            session,
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    @router.post("/logout")
    def logout(request: Request) -> Response:
        sessions.close(_session(request))
        response = go_to(LOGIN)
        response.delete_cookie(_cookie(request), httponly=True, samesite="strict")
        return response

    def shown(
        find: Annotated[str, Query(max_length=100)] = "",
        at: Annotated[int, Query(ge=1, le=10**6, alias="page")] = 1,
    ) -> Sought:
        return Sought(find.strip(), at)

    Which = Annotated[Sought, Depends(shown)]  # noqa: N806

    @router.get("/")
    def overview(by: By, which: Which) -> HTMLResponse:
        return page("overview.html", by=by, view=views.overview(by, which))

    @router.get("/overview")
    def live_overview(by: By, which: Which) -> HTMLResponse:
        return page("overview_live.html", by=by, view=views.overview(by, which))

    @router.get("/compare")
    def compare(
        by: By, of: Annotated[list[ExperimentName], Query(max_length=2, default_factory=list)]
    ) -> HTMLResponse:
        chosen = [name.strip() for name in of]
        view = views.beside(by, chosen) if len(chosen) == 2 else None
        return page("compare.html", by=by, names=views.names(by), chosen=chosen, view=view)

    @router.post("/experiments")
    def create(by: By, name: Annotated[str, Form(max_length=200)]) -> HTMLResponse:
        _, token = operations.create(by, name.strip(), ShareChange())
        return experiment_page(by, name.strip(), token=token)

    def experiment_page(
        by: Caller,
        name: str,
        axis: Axis = Axis.VERSION,
        shown: Excerpt = LATEST,
        token: str = "",
    ) -> HTMLResponse:
        cards = views.gallery(by, name, shown)
        return page(
            "experiment.html",
            by=by,
            live=views.live(by, name, axis),
            events=views.events(by, name),
            cards=cards,
            rewards=sorted({reward for card in cards for reward in card.group.names}),
            shown=shown,
            older=cards[-1].kept.id if len(cards) == GALLERY_GROUPS else "",
            token=token,
        )

    @router.get("/experiments/{name}")
    def experiment(
        by: By,
        name: str,
        axis: Axis = Axis.VERSION,
        version: Annotated[int | None, Query(ge=0, le=2**53)] = None,
        before: Annotated[str, Query(pattern=GROUP_ID)] = "",
        reward: RewardName = "",
    ) -> HTMLResponse:
        return experiment_page(by, name, axis, Excerpt(version, before, reward))

    @router.get("/experiments/{name}/live")
    def live_experiment(by: By, name: str, axis: Axis = Axis.VERSION) -> HTMLResponse:
        return page("experiment_live.html", live=views.live(by, name, axis))

    @router.get("/experiments/{name}/numbers")
    def numbers(by: By, name: str, axis: Axis = Axis.VERSION) -> HTMLResponse:
        live = views.live(by, name, axis)
        return page("numbers.html", by=by, live=live, trainer=TRAINER, server=SERVER)

    @router.post("/experiments/{name}/pause")
    def pause(by: By, name: str) -> Response:
        operations.change(by, name, ShareChange(paused=True))
        return go_to(_path(name))

    @router.post("/experiments/{name}/resume")
    def resume(by: By, name: str) -> Response:
        operations.change(by, name, ShareChange(paused=False))
        return go_to(_path(name))

    @router.post("/experiments/{name}/terms")
    def terms(by: By, name: str, share: Annotated[ShareChange, Form()]) -> Response:
        operations.change(by, name, share)
        return go_to(_path(name))

    @router.post("/experiments/{name}/tokens")
    def issue(by: By, name: str) -> HTMLResponse:
        return experiment_page(by, name, token=operations.issue_token(by, name))

    @router.post("/experiments/{name}/tokens/revoke")
    def revoke(by: By, name: str) -> Response:
        operations.revoke_tokens(by, name)
        return go_to(_path(name))

    @router.post("/experiments/{name}/versions/{version}/pin")
    def pin(by: By, name: str, version: VersionNumber) -> Response:
        operations.pin(by, name, version)
        return go_to(_path(name) + "#versions")

    @router.post("/experiments/{name}/versions/{version}/unpin")
    def unpin(by: By, name: str, version: VersionNumber) -> Response:
        operations.unpin(by, name, version)
        return go_to(_path(name) + "#versions")

    @router.post("/experiments/{name}/versions/{version}/rollback")
    def roll_back(by: By, name: str, version: VersionNumber) -> Response:
        operations.roll_back(by, name, version)
        return go_to(_path(name) + "#versions")

    @router.get("/experiments/{name}/groups/{group}")
    def group_page(by: By, name: str, group: GroupId, reward: RewardName = "") -> HTMLResponse:
        return page("group_page.html", by=by, card=views.card(by, name, group, reward))

    @router.post("/experiments/{name}/groups/{group}/pictures")
    def draw(
        by: By, name: str, group: GroupId, request: Request, reward: RewardName = ""
    ) -> HTMLResponse:
        template = "group.html" if "HX-Request" in request.headers else "group_page.html"
        try:
            views.draw(by, name, group, reward)
        except TokenError:
            raise
        except HeliostatError as error:
            card = views.card(by, name, group, reward, describe(error))
            return page(template, code_of(error).http, by=by, card=card)
        return page(template, by=by, card=views.card(by, name, group, reward))

    @router.get("/experiments/{name}/groups/{group}/pictures.webp")
    def sheet(by: By, name: str, group: GroupId, reward: RewardName = "") -> Response:
        found = views.sheet(by, name, group, reward)
        if found is None:
            raise NotFoundError("these pictures are not drawn, or not kept any longer")
        return Response(found, media_type="image/webp")

    return router


def _cookie(request: Request) -> str:
    """Named after the port: cookies of one host are shared by all of its ports."""
    return f"heliostat-{request.url.port or 'session'}"


def _session(request: Request) -> str:
    return request.cookies.get(_cookie(request), "")


def _path(name: str) -> str:
    return f"/experiments/{quote(name)}"

"""The operations over HTTP: a FastAPI application."""

# No postponed annotations: FastAPI reads those of functions within functions.

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, FastAPI, File, Form, Path, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from pydantic import Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heliostat_engines.adapters import CONFIG_FILE, TENSORS_FILE, AdapterFiles
from heliostat_engines.errors import HeliostatError
from heliostat_engines.settings import Settings
from heliostat_server.control.operations import Operations, ServerInfo
from heliostat_server.control.publisher import Published
from heliostat_server.control.upload import check_digest
from heliostat_server.control.validation import first_problem
from heliostat_server.errors import PutOffError, RequestError, code_of, describe
from heliostat_server.experiments.authority import Authority, Caller
from heliostat_server.experiments.terms import Event, Experiment, ShareChange
from heliostat_wire.errors import Code

MAX_BODY_BYTES = 2**16
"""Of a request other than an upload."""
FORM_BYTES = 2**21
"""What an upload has beside the tensors: the config, and the form's own lines."""

DESCRIPTION = """
What `heliostat experiment` does, over HTTP. Every call but `/v1/health` carries the header
`Authorization: Bearer TOKEN`, of an experiment or of the administrator. An error is
`{"code": ..., "error": ...}`, the code being one of gRPC's.
"""


VersionNumber = Annotated[int, Path(ge=1, le=2**53)]


class NewExperiment(Settings):
    """An experiment to make."""

    name: Annotated[str, Field(max_length=100)]
    share: ShareChange = ShareChange()


class Created(Settings):
    """An experiment, and a token of it, which is shown this once."""

    experiment: Experiment
    token: str


class Token(Settings):
    """A bearer token; empty: go on with the one that was sent."""

    token: str


class Revoked(Settings):
    """How many tokens are void."""

    revoked: int


class PublishedVersion(Settings):
    """A version that came to be, and how it met the model."""

    version: int
    sha256: str
    bound_modules: int
    target_modules: int


class Problem(Settings):
    """Why a request was not carried out."""

    code: Code
    error: str


class Health(Settings):
    """That the control plane answers."""

    status: str = "ok"


def build_app(operations: Operations, authority: Authority, version: str) -> FastAPI:
    """The application: the API under /v1, its documentation under /docs."""
    # FastAPI's own documentation page loads its scripts from elsewhere.
    app = FastAPIOffline(title="heliostat control plane", version=version, description=DESCRIPTION)
    app.add_exception_handler(HeliostatError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(_BodyLimit, max_adapter_bytes=operations.max_adapter_bytes)
    app.include_router(_routes(operations, authority), prefix="/v1")
    return app


def _routes(operations: Operations, authority: Authority) -> APIRouter:  # noqa: C901
    bearer = HTTPBearer(auto_error=False, description="A token of an experiment, or the admin's.")

    def caller(
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
        request: Request,
    ) -> Caller:
        del credentials  # For the documentation; its parser would hide what was sent.
        return authority.caller(request.headers.get("authorization"))

    By = Annotated[Caller, Depends(caller)]  # noqa: N806
    problems = {status.value: {"model": Problem} for status in (code.http for code in Code)}
    public = APIRouter()
    api = APIRouter(responses=problems)  # type: ignore[arg-type]

    @public.get("/health", tags=["server"])
    def health() -> Health:
        """Answer, for load balancers; says nothing of the models."""
        return Health()

    @api.get("/info", tags=["server"])
    def info(by: By, experiment: str = "") -> ServerInfo:
        """Say what the server is, and where rollouts are asked for."""
        return operations.info(by, experiment)

    @api.get("/events", tags=["server"])
    def events(
        by: By, experiment: str = "", count: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[Event]:
        """List what was done to experiments, newest first."""
        return operations.events(by, experiment, count)

    @api.get("/experiments", tags=["experiments"])
    def list_experiments(by: By) -> list[Experiment]:
        """List the experiments that the token may see."""
        return operations.all(by)

    @api.post("/experiments", status_code=HTTPStatus.CREATED, tags=["experiments"])
    def create(by: By, new: NewExperiment) -> Created:
        """Make an experiment (administrator)."""
        experiment, token = operations.create(by, new.name, new.share)
        return Created(experiment=experiment, token=token)

    @api.get("/experiments/{name}", tags=["experiments"])
    def get(by: By, name: str) -> Experiment:
        """Say all that is known of an experiment."""
        return operations.get(by, name)

    @api.patch("/experiments/{name}", tags=["experiments"])
    def change(by: By, name: str, share: ShareChange) -> Experiment:
        """Pause or resume an experiment, or change its terms (administrator)."""
        return operations.change(by, name, share)

    @api.delete("/experiments/{name}", status_code=HTTPStatus.NO_CONTENT, tags=["experiments"])
    def delete(by: By, name: str) -> None:
        """Forget an experiment, its tokens, versions, usage and groups; its events stay (administrator)."""
        operations.delete(by, name)

    @api.post("/experiments/{name}/open", tags=["tokens"])
    def open_(by: By, name: str) -> Token:
        """Answer a token of an experiment, made if it is not there (administrator)."""
        return Token(token=operations.open(by, name))

    @api.post("/experiments/{name}/tokens", status_code=HTTPStatus.CREATED, tags=["tokens"])
    def issue(by: By, name: str) -> Token:
        """Answer one more token of an experiment (administrator)."""
        return Token(token=operations.issue_token(by, name))

    @api.delete("/experiments/{name}/tokens", tags=["tokens"])
    def revoke(by: By, name: str) -> Revoked:
        """Make all tokens of an experiment void (administrator)."""
        return Revoked(revoked=operations.revoke_tokens(by, name))

    @api.post("/experiments/{name}/versions", status_code=HTTPStatus.CREATED, tags=["adapters"])
    def publish(
        by: By,
        name: str,
        sha256: Annotated[str, Form(max_length=64)],
        config: Annotated[UploadFile, File(description=f"PEFT's {CONFIG_FILE}")],
        tensors: Annotated[UploadFile, File(description=TENSORS_FILE)],
    ) -> PublishedVersion:
        """Publish an adapter; `sha256` is of the config followed by the tensors."""
        files = AdapterFiles(config.file.read(), tensors.file.read())
        check_digest(files, sha256)
        return _published(operations.publish(by, name, files))

    @api.post("/experiments/{name}/versions/{version}/rollback", tags=["adapters"])
    def roll_back(by: By, name: str, version: VersionNumber) -> PublishedVersion:
        """Make a kept version the next one."""
        return _published(operations.roll_back(by, name, version))

    @api.put("/experiments/{name}/versions/{version}/pin", tags=["adapters"])
    def pin(by: By, name: str, version: VersionNumber) -> Experiment:
        """Keep a version however many follow."""
        return operations.pin(by, name, version)

    @api.delete("/experiments/{name}/versions/{version}/pin", tags=["adapters"])
    def unpin(by: By, name: str, version: VersionNumber) -> Experiment:
        """Let a version go as others do."""
        return operations.unpin(by, name, version)

    public.include_router(api)
    return public


def _published(published: Published) -> PublishedVersion:
    fields = {name: getattr(published, name) for name in PublishedVersion.model_fields}
    return PublishedVersion(**fields)


def problem(error: HeliostatError) -> JSONResponse:
    """An error as the API tells it."""
    code = code_of(error)
    headers = {}
    if isinstance(error, PutOffError):
        headers["Retry-After"] = str(error.retry_after_s)
    if code is Code.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    body = Problem(code=code, error=describe(error)).model_dump()
    return JSONResponse(body, code.http, headers)


def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HeliostatError)
    return problem(error)


def _malformed(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return problem(RequestError(first_problem(error.errors())))


def _failed(_: Request, error: Exception) -> JSONResponse:
    structlog.get_logger("http").error("failed", exc_info=error)
    body = Problem(code=Code.INTERNAL, error=describe(error)).model_dump()
    return JSONResponse(body, Code.INTERNAL.http)


class _BodyLimit:
    """Refuses requests that are too large before they are read."""

    def __init__(self, app: ASGIApp, *, max_adapter_bytes: Callable[[], int]) -> None:
        self._app = app
        self._max_adapter_bytes = max_adapter_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            limit = self._limit(scope)
        except HeliostatError as error:
            await problem(error)(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > limit:
            await problem(_too_large(limit))(scope, receive, send)
            return
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise _too_large(limit)
            return message

        await self._app(scope, limited, send)

    def _limit(self, scope: Scope) -> int:
        is_upload = scope["method"] == "POST" and scope["path"].endswith("/versions")
        return self._max_adapter_bytes() + FORM_BYTES if is_upload else MAX_BODY_BYTES


def _too_large(limit: int) -> RequestError:
    return RequestError(f"the request has more than {limit} bytes, which is as much as is taken")

"""The gRPC service Control."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from pydantic import ValidationError

from heliostat_engines.errors import HeliostatError
from heliostat_proto import control_pb2, control_pb2_grpc
from heliostat_server.control.messages import (
    event_message,
    experiment_message,
    info_message,
    published_message,
    rest_message,
    share_change,
)
from heliostat_server.control.upload import receive_adapter, receive_header
from heliostat_server.control.validation import first_problem
from heliostat_server.errors import RequestError, UnavailableError, code_of, describe
from heliostat_wire.errors import Code
from heliostat_wire.names import CODE_KEY
from heliostat_wire.steps import StepReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heliostat_server.control.operations import Operations
    from heliostat_server.experiments.authority import Authority, Caller

MAX_MESSAGE_BYTES = 16 * 2**20
"""Largest message taken: a chunk of an adapter."""
UPLOADS = 16
"""Adapters taken in at once: each is held whole in memory."""
WORKERS = UPLOADS + 64
"""Threads. Uploads wait for the engine: however many do, others are still answered."""
UPLOAD_POLL_S = 5.0
"""How soon an upload that waits for its place is given up once its client is gone."""
MAX_EVENTS = 1000


class ControlService(control_pb2_grpc.ControlServicer):
    """Operations over gRPC: tells who calls, and turns errors into statuses."""

    def __init__(self, operations: Operations, authority: Authority) -> None:
        self._operations = operations
        self._authority = authority
        self._uploads = BoundedSemaphore(UPLOADS)
        self._log = structlog.get_logger("control")

    # The names of methods are those of the .proto.

    def Open(self, request: control_pb2.OpenRequest, context: Any) -> control_pb2.OpenResponse:
        with self._calling(context) as caller:
            token = self._operations.open(caller, request.experiment)
            return control_pb2.OpenResponse(token=token)

    def Info(self, request: control_pb2.InfoRequest, context: Any) -> control_pb2.InfoResponse:
        with self._calling(context) as caller:
            return info_message(self._operations.info(caller, request.experiment))

    def Publish(
        self, request_iterator: Iterator[control_pb2.PublishRequest], context: Any
    ) -> control_pb2.PublishResponse:
        with self._calling(context) as caller:
            # Before the bytes are taken: a foreign token sends none.
            header = receive_header(request_iterator, self._operations.max_adapter_bytes())
            caller.check_owns(header.experiment)
            with self._uploading(context):
                files = receive_adapter(header, request_iterator)
                report = StepReport.read(header.step) if header.HasField("step") else None
                published = self._operations.publish(
                    caller, header.experiment, files, header.tuned, report
                )
            self._log.info("published", experiment=header.experiment, version=published.version)
            return published_message(published)

    def RollBack(
        self, request: control_pb2.VersionRequest, context: Any
    ) -> control_pb2.PublishResponse:
        with self._calling(context) as caller:
            return published_message(
                self._operations.roll_back(caller, request.experiment, request.version)
            )

    def Pin(self, request: control_pb2.VersionRequest, context: Any) -> control_pb2.Experiment:
        with self._calling(context) as caller:
            return experiment_message(
                self._operations.pin(caller, request.experiment, request.version)
            )

    def Unpin(self, request: control_pb2.VersionRequest, context: Any) -> control_pb2.Experiment:
        with self._calling(context) as caller:
            return experiment_message(
                self._operations.unpin(caller, request.experiment, request.version)
            )

    def Rest(
        self, request: control_pb2.ExperimentRequest, context: Any
    ) -> control_pb2.RestResponse:
        with self._calling(context) as caller:
            return rest_message(self._operations.rest(caller, request.experiment))

    def GetExperiment(
        self, request: control_pb2.ExperimentRequest, context: Any
    ) -> control_pb2.Experiment:
        with self._calling(context) as caller:
            return experiment_message(self._operations.get(caller, request.experiment))

    def ListExperiments(
        self,
        request: control_pb2.ListExperimentsRequest,  # noqa: ARG002
        context: Any,
    ) -> control_pb2.ListExperimentsResponse:
        with self._calling(context) as caller:
            experiments = map(experiment_message, self._operations.all(caller))
            return control_pb2.ListExperimentsResponse(experiments=experiments)

    def ListEvents(
        self, request: control_pb2.ListEventsRequest, context: Any
    ) -> control_pb2.ListEventsResponse:
        with self._calling(context) as caller:
            if not 0 <= request.count <= MAX_EVENTS:
                raise RequestError(f"count = {request.count}: ask for up to {MAX_EVENTS}")
            events = self._operations.events(caller, request.experiment, request.count or 100)
            return control_pb2.ListEventsResponse(events=map(event_message, events))

    def ChangeExperiment(
        self, request: control_pb2.ChangeExperimentRequest, context: Any
    ) -> control_pb2.Experiment:
        with self._calling(context) as caller:
            share = share_change(request.share)
            return experiment_message(self._operations.change(caller, request.experiment, share))

    def CreateExperiment(
        self, request: control_pb2.CreateExperimentRequest, context: Any
    ) -> control_pb2.CreateExperimentResponse:
        with self._calling(context) as caller:
            share = share_change(request.share)
            experiment, token = self._operations.create(caller, request.experiment, share)
            return control_pb2.CreateExperimentResponse(
                experiment=experiment_message(experiment), token=token
            )

    def DeleteExperiment(
        self, request: control_pb2.ExperimentRequest, context: Any
    ) -> control_pb2.DeleteExperimentResponse:
        with self._calling(context) as caller:
            self._operations.delete(caller, request.experiment)
            return control_pb2.DeleteExperimentResponse()

    def IssueToken(
        self, request: control_pb2.ExperimentRequest, context: Any
    ) -> control_pb2.IssueTokenResponse:
        with self._calling(context) as caller:
            token = self._operations.issue_token(caller, request.experiment)
            return control_pb2.IssueTokenResponse(token=token)

    def RevokeTokens(
        self, request: control_pb2.ExperimentRequest, context: Any
    ) -> control_pb2.RevokeTokensResponse:
        with self._calling(context) as caller:
            revoked = self._operations.revoke_tokens(caller, request.experiment)
            return control_pb2.RevokeTokensResponse(revoked=revoked)

    @contextmanager
    def _uploading(self, context: Any) -> Iterator[None]:
        """Hold one of the places for uploads; the bytes wait at the client until there is one."""
        while not self._uploads.acquire(timeout=UPLOAD_POLL_S):
            if not context.is_active():
                raise UnavailableError("the client went away before its upload had a place")
        try:
            yield
        finally:
            self._uploads.release()

    @contextmanager
    def _calling(self, context: Any) -> Iterator[Caller]:
        """Who calls; errors become statuses: a sentence for the caller, tracebacks for the log."""
        try:
            yield self._authority.caller(dict(context.invocation_metadata()).get("authorization"))
        except ValidationError as error:
            _abort(context, Code.INVALID_ARGUMENT, first_problem(error.errors()))
        except HeliostatError as error:
            if type(error) is not UnavailableError:
                self._log.warning("refused", reason=str(error))
            _abort(context, code_of(error), describe(error))
        except grpc.RpcError:
            raise  # The client went away while it was sending.
        except Exception as error:
            self._log.exception("failed")
            _abort(context, code_of(error), describe(error))


def _abort(context: Any, code: Code, sentence: str) -> None:
    context.set_trailing_metadata(((CODE_KEY, code.value),))
    context.abort(grpc.StatusCode[code], sentence)


def start_control(service: ControlService, address: str, credentials: Any | None = None) -> Any:
    """Serve Control on host:port, with TLS if there are credentials; answers the grpc.Server.

    Raises:
        OSError: the port is taken.
    """
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    server = grpc.server(ThreadPoolExecutor(WORKERS, "control"), options=options)
    control_pb2_grpc.add_ControlServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}") from error
    if bound == 0:
        raise OSError(f"cannot listen on {address}")
    server.start()
    return server

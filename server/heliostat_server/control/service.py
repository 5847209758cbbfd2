"""The gRPC service Control."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import structlog

from heliostat_engines.errors import HeliostatError
from heliostat_proto import control_pb2, control_pb2_grpc
from heliostat_server.control.upload import receive_adapter
from heliostat_server.errors import Code, UnavailableError, code_of, describe
from heliostat_server.experiments import check_experiment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heliostat_server.adapters.store import AdapterStore
    from heliostat_server.control.publisher import Publisher
    from heliostat_server.description import ServerDescription

MAX_MESSAGE_BYTES = 16 * 2**20
"""Largest message taken: a chunk of an adapter."""
WORKERS = 8

_STATUS = {
    Code.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}


class RolloutEngine(Protocol):
    """What the control plane asks of the side that runs Triton."""

    @property
    def rollout_address(self) -> str:
        """host:port of Triton's gRPC endpoint."""

    def describe(self) -> ServerDescription:
        """Engine, limits, rewards. Raises UnavailableError while it is not ready."""


class ControlService(control_pb2_grpc.ControlServicer):
    """Info and Publish."""

    def __init__(self, engine: RolloutEngine, store: AdapterStore, publisher: Publisher) -> None:
        self._engine = engine
        self._store = store
        self._publisher = publisher
        self._log = structlog.get_logger("control")

    def Info(  # noqa: N802
        self,
        request: control_pb2.InfoRequest,
        context: Any,
    ) -> control_pb2.InfoResponse:
        """What this server is, and the experiment's latest version if one is named."""
        with self._refusing(context):
            latest = 0
            if request.experiment:
                check_experiment(request.experiment)
                latest = self._store.latest(request.experiment)
            return _info(self._engine.describe(), self._engine.rollout_address, latest)

    def Publish(  # noqa: N802
        self,
        request_iterator: Iterator[control_pb2.PublishRequest],
        context: Any,
    ) -> control_pb2.PublishResponse:
        """Receive an adapter and make it the experiment's next version."""
        with self._refusing(context):
            max_bytes = self._engine.describe().limits.max_adapter_bytes
            experiment, files = receive_adapter(request_iterator, max_bytes)
            published = self._publisher.publish(experiment, files)
            self._log.info("published", experiment=experiment, version=published.version)
            return control_pb2.PublishResponse(
                version=published.version,
                sha256=published.sha256,
                bound_modules=published.bound_modules,
                target_modules=published.target_modules,
            )

    @contextmanager
    def _refusing(self, context: Any) -> Iterator[None]:
        """Turn errors into gRPC statuses: one sentence for the caller, tracebacks for the log."""
        try:
            yield
        except HeliostatError as error:
            if not isinstance(error, UnavailableError):
                self._log.warning("refused", reason=str(error))
            context.abort(_STATUS[code_of(error)], describe(error))
        except grpc.RpcError:
            raise  # The client went away while it was sending.
        except Exception as error:
            self._log.exception("failed")
            context.abort(grpc.StatusCode.INTERNAL, describe(error))


def start_control(service: ControlService, address: str) -> Any:
    """Serve Control on host:port; answers the running grpc.Server.

    Raises:
        OSError: the port is taken.
    """
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    server = grpc.server(ThreadPoolExecutor(WORKERS, "control"), options=options)
    control_pb2_grpc.add_ControlServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}") from error
    if bound == 0:
        raise OSError(f"cannot listen on {address}")
    server.start()
    return server


def _info(
    description: ServerDescription, rollout_address: str, latest: int
) -> control_pb2.InfoResponse:
    engine, limits = description.engine, description.limits
    targets = {
        name: control_pb2.LinearShape(in_features=shape[0], out_features=shape[1])
        for name, shape in engine.lora_targets.items()
    }
    return control_pb2.InfoResponse(
        server_version=version("heliostat"),
        rollout_address=rollout_address,
        engine=control_pb2.EngineInfo(
            family=engine.family,
            checkpoint=engine.checkpoint,
            runtime=engine.runtime,
            precision=engine.precision,
            nvfp4_linears=engine.nvfp4_linears,
            linears=engine.linears,
            lora_targets=targets,
            max_rank=engine.max_rank,
            resolution_px=description.resolution_px,
        ),
        rewards=description.rewards,
        limits=control_pb2.Limits(
            **limits.model_dump(include=set(control_pb2.Limits.DESCRIPTOR.fields_by_name))
        ),
        latest_version=latest,
    )

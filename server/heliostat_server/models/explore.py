"""The model `explore`: the explore service between Triton's requests and its other models."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb

from heliostat_engines.adapters import Binding
from heliostat_engines.families import get_family
from heliostat_engines.sampling.solvers import Solver
from heliostat_proto.rollout_pb2 import LoadReport
from heliostat_server.models.exporter import TritonExporter
from heliostat_server.models.guard import Guard
from heliostat_server.models.siblings import Models
from heliostat_server.models.tensors import (
    read_seeds,
    read_spec,
    response,
    rest_report,
    stream_error_response,
)
from heliostat_server.rewards.registry import RewardBook, offered_rewards
from heliostat_server.sampling.explorer import Explorer
from heliostat_server.sampling.loading import load_engine, offered_decoders
from heliostat_server.sampling.metrics import ExploreMetrics
from heliostat_server.sampling.service import ExploreService
from heliostat_server.sampling.sleeping import Sleeper
from heliostat_server.sampling.writers import GroupWriter, UsageWriter
from heliostat_server.scheduling.deficit_round_robin import QUANTUM_NFES, DeficitRoundRobin
from heliostat_server.scoring.prompts import PromptCache
from heliostat_server.store.adapters import AdapterStore
from heliostat_server.store.description import ServerDescription
from heliostat_server.store.groups import RedisGroups
from heliostat_server.store.shares import StoredShares
from heliostat_server.store.usage import RedisUsage
from heliostat_server.triton.load_log import log_compilation
from heliostat_wire.names import Model, Tensor
from heliostat_wire.specs import json_element
from heliostat_wire.tensors import DrawnBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.machine.given_back import GivenBack
    from heliostat_server.sampling.jobs import ExploreJob, FinishedBatch
    from heliostat_server.settings import ModelSettings


class ExploreModel:
    """An explore service and what runs beside it."""

    def __init__(self, settings: ModelSettings) -> None:
        metrics = ExploreMetrics()
        self._guard = Guard(settings)
        self._service = start_explore(settings, metrics)
        self._exporter = TritonExporter(metrics.registry)

    def execute(self, requests: Sequence[Any]) -> None:
        """Queue requests; answers come later."""
        for request in requests:
            self._service.submit(
                read_spec(request),
                read_seeds(request) or [],
                TritonReply(request),
                partial(self._guard.caller, request),
                _timeout_s(request),
            )

    def close(self) -> None:
        """End requests and threads."""
        self._service.close()
        self._exporter.close()


def start_explore(settings: ModelSettings, metrics: ExploreMetrics) -> ExploreService:
    """Load the engine, say what it is, and start serving."""
    family = get_family(settings.family)
    engine = load_engine(family, settings, log_compilation)
    rewards = RewardBook(settings.family, offered_rewards(settings)).names
    decoders = offered_decoders(family, settings)
    models = Models(settings.internal_token)
    explorer = Explorer(
        family,
        engine,
        AdapterStore.connect(
            settings.redis,
            keep_versions=settings.keep_versions,
            adapters_url=settings.adapters_url,
        ),
        PromptCache(models.encode),
        models.score,
        batch=settings.limits.batch,
        resolution_px=settings.resolution_px,
        metrics=metrics,
        sleeper=Sleeper.of(settings, Model.EXPLORE.value, engine),
    )
    ServerDescription(
        engine=engine.describe(),
        resolution_px=settings.resolution_px,
        rewards=rewards,
        limits=settings.limits,
        checks_prompts=True,
        scores_early=True,
        solvers=tuple(Solver),
        decoders=decoders,
        sleeps=settings.sleep,
    ).write(settings.redis)
    scheduler: DeficitRoundRobin[ExploreJob] = DeficitRoundRobin(
        StoredShares.connect(settings.redis),
        quantum=settings.limits.batch * QUANTUM_NFES,
        max_queued_images=settings.limits.max_queued_images,
    )
    usage = UsageWriter(RedisUsage.connect(settings.redis))
    groups = GroupWriter(RedisGroups.connect(settings.redis))
    return ExploreService(
        explorer, scheduler, settings.limits, rewards, metrics, usage, groups, decoders
    )


class TritonReply:
    """Answers one decoupled Triton request."""

    def __init__(self, request: Any) -> None:
        self._id = request.request_id()
        self._sender = request.get_response_sender()

    def batch(self, batch: FinishedBatch) -> None:
        """Send SEEDS, REWARDS, VERSION, and LATENTS if asked for."""
        drawn = DrawnBatch(
            np.array(batch.seeds, np.int64), batch.rewards.numpy(), batch.version, batch.latents
        )
        self._sender.send(response(drawn.arrays()))

    def report(self, outcome: Binding | GivenBack) -> None:
        """Send REPORT."""
        if isinstance(outcome, Binding):
            report = LoadReport(bound_modules=outcome.bound, target_modules=outcome.targets)
            self._sender.send(response({Tensor.REPORT: json_element(report)}))
        else:
            self._sender.send(rest_report(outcome))

    def fail(self, error: BaseException) -> None:
        """Send an error and end."""
        self._sender.send(
            stream_error_response(error, self._id), flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        )

    def finish(self) -> None:
        """End."""
        self._sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        """Whether the client is gone."""
        return bool(self._sender.is_cancelled())


def _timeout_s(request: Any) -> float | None:
    """KServe's request parameter `timeout`, which is in microseconds; 0 is none."""
    return request.timeout() / 1e6 or None

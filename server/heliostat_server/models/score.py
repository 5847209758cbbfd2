"""The model `score`: latents in, rewards and images out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from heliostat_engines.families import get_family
from heliostat_proto.rollout_pb2 import ScoreSpec
from heliostat_server.models.exporter import TritonExporter
from heliostat_server.models.guard import Guard
from heliostat_server.models.siblings import Models
from heliostat_server.models.tensors import (
    answer_each,
    read_seeds,
    read_spec,
    read_tensor,
    response,
    rest_report,
)
from heliostat_server.rewards.registry import RewardBook, offered_rewards
from heliostat_server.sampling.loading import load_decoders
from heliostat_server.sampling.sleeping import Sleeper
from heliostat_server.scoring.metrics import ScoreMetrics
from heliostat_server.scoring.prompts import PromptCache
from heliostat_server.scoring.scorer import Scorer
from heliostat_server.specs import parse_spec
from heliostat_wire.names import Model, Tensor
from heliostat_wire.specs import json_element
from heliostat_wire.tensors import score_arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_server.settings import ModelSettings


class ScoreModel:
    """Answers Triton's requests with a Scorer."""

    def __init__(self, settings: ModelSettings) -> None:
        family = get_family(settings.family)
        self._log = structlog.get_logger(Model.SCORE.value)
        self._guard = Guard(settings)
        metrics = ScoreMetrics()
        self._exporter = TritonExporter(metrics.registry)
        decoders = load_decoders(family, settings)
        rewards = RewardBook(settings.family, offered_rewards(settings), settings.torch_device)
        self._sleeper = Sleeper.of(settings, Model.SCORE.value, decoders, rewards)
        self._scorer = Scorer(
            decoders,
            rewards,
            PromptCache(Models(settings.internal_token).encode),
            settings.limits,
            [family.latent_shape(size) for size in settings.resolutions],
            metrics,
            settings.torch_device,
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """REWARDS, and IMAGES if asked for, or REPORT, or an error, for each request."""
        return answer_each(requests, self._answer, self._log)

    def close(self) -> None:
        """Stop what runs beside the requests."""
        self._exporter.close()

    def _answer(self, request: Any) -> Any:
        caller, spec = self._guard.caller(request), read_spec(request)
        latents = read_tensor(request, Tensor.LATENTS)
        if latents is None and parse_spec(spec, ScoreSpec()).HasField("rest"):
            caller.check_admin()
            return rest_report(self._sleeper.sleep())
        self._sleeper.wake()
        if latents is None:
            return response({Tensor.REPORT: json_element(self._scorer.check(spec))})
        scored = self._scorer.score(spec, latents, read_seeds(request))
        images = None if scored.images is None else scored.images.numpy()
        return response(score_arrays(scored.rewards.numpy(), images, scored.decode_s))

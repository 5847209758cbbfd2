"""The model `text_encoder`: prompts in, embeddings out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
import triton_python_backend_utils as pb

from heliostat_engines.families import get_family
from heliostat_proto.rollout_pb2 import EncodeSpec
from heliostat_server.errors import RequestError
from heliostat_server.models.guard import Guard
from heliostat_server.models.tensors import answer_each, read_spec, response, rest_report
from heliostat_server.sampling.sleeping import Sleeper
from heliostat_server.specs import check_count, check_lengths, parse_spec
from heliostat_wire.names import Model, Tensor
from heliostat_wire.tensors import conditioning_arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_server.settings import ModelSettings


class TextEncoderModel:
    """Answers Triton's requests with the family's text encoder."""

    def __init__(self, settings: ModelSettings) -> None:
        self._limits = settings.limits
        self._guard = Guard(settings)
        self._log = structlog.get_logger(Model.TEXT_ENCODER.value)
        family = get_family(settings.family)
        self._encoder = family.load_text_encoder(settings.checkpoint).to(settings.torch_device)
        self._sleeper = Sleeper.of(settings, Model.TEXT_ENCODER.value, self._encoder)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """TOKENS, POOLED, and MASK where there is one, or an error, for each request."""
        return answer_each(requests, self._answer, self._log)

    def _answer(self, request: Any) -> Any:
        caller = self._guard.caller(request)
        if self._asks_rest(request):
            caller.check_admin()
            return rest_report(self._sleeper.sleep())
        self._sleeper.wake()
        return response(conditioning_arrays(self._encoder.encode(self._prompts(request))))

    def _asks_rest(self, request: Any) -> bool:
        if pb.get_input_tensor_by_name(request, Tensor.SPEC) is None:
            return False
        return parse_spec(read_spec(request), EncodeSpec()).HasField("rest")

    def _prompts(self, request: Any) -> list[str]:
        tensor = pb.get_input_tensor_by_name(request, Tensor.PROMPTS)
        if tensor is None:
            raise RequestError(f"{Tensor.PROMPTS} are missing")
        texts = tensor.as_numpy().reshape(-1)
        try:
            prompts = [bytes(text).decode() for text in texts]
        except UnicodeDecodeError as error:
            raise RequestError(f"a prompt is not UTF-8: {error}") from error
        if not prompts:
            raise RequestError(f"{Tensor.PROMPTS} is empty")
        check_count(len(prompts), "prompts in one request", self._limits.max_seeds)
        check_lengths(prompts, self._limits.max_prompt_chars)
        return prompts

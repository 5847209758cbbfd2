"""The model `text_encoder`: prompts in, embeddings out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
import triton_python_backend_utils as pb

from heliostat_engines.families import get_family
from heliostat_server.errors import RequestError
from heliostat_server.models.guard import Guard
from heliostat_server.models.tensors import answer_each, response
from heliostat_server.sampling.sleeping import Sleeper
from heliostat_server.scoring.prompts import PromptCache
from heliostat_server.specs import check_count, check_lengths
from heliostat_wire.names import Model, Tensor
from heliostat_wire.tensors import conditioning_arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.conditioning import Conditioning
    from heliostat_server.settings import ModelSettings


class TextEncoderModel:
    """Answers Triton's requests with the family's text encoder."""

    def __init__(self, settings: ModelSettings) -> None:
        self._limits = settings.limits
        self._guard = Guard(settings)
        self._log = structlog.get_logger(Model.TEXT_ENCODER.value)
        family = get_family(settings.family)
        self._encoder = family.load_text_encoder(settings.checkpoint).to(settings.torch_device)
        self._encode = self._encoder.encode
        if settings.sleep:
            self._sleeper = Sleeper.of(settings, Model.TEXT_ENCODER.value, self._encoder)
            self._sleeper.sleep()
            self._encode = PromptCache(self._encode_awake).encode

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """TOKENS, POOLED, and MASK where there is one, or an error, for each request."""
        return answer_each(requests, self._answer, self._log)

    def _answer(self, request: Any) -> Any:
        self._guard.caller(request)
        return response(conditioning_arrays(self._encode(self._prompts(request))))

    def _encode_awake(self, prompts: Sequence[str]) -> Conditioning:
        """On the trainer's card it is awake for new prompts alone: there is no room for it beside what draws."""
        self._sleeper.wake()
        try:
            return self._encoder.encode(prompts)
        finally:
            self._sleeper.sleep()

    def _prompts(self, request: Any) -> list[str]:
        texts = pb.get_input_tensor_by_name(request, Tensor.PROMPTS).as_numpy().reshape(-1)
        try:
            prompts = [bytes(text).decode() for text in texts]
        except UnicodeDecodeError as error:
            raise RequestError(f"a prompt is not UTF-8: {error}") from error
        if not prompts:
            raise RequestError(f"{Tensor.PROMPTS} is empty")
        check_count(len(prompts), "prompts in one request", self._limits.max_seeds)
        check_lengths(prompts, self._limits.max_prompt_chars)
        return prompts

"""The server's other models, asked from within one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb
from google.protobuf import json_format

from heliostat_engines.conditioning import Conditioning
from heliostat_proto.rollout_pb2 import ScoreSpec
from heliostat_server.models.tensors import error_of, output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from heliostat_engines.decoders import DecoderName


class Models:
    """Asks `text_encoder` and `score`, and waits for the answer. Raises the errors they give."""

    def __init__(self, internal_token: str) -> None:
        self._parameters = {"authorization": f"Bearer {internal_token}"}

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning[B] of prompts[B]."""
        texts = np.array([prompt.encode() for prompt in prompts], dtype=np.object_)
        answer = self._call("text_encoder", {"PROMPTS": texts}, ["TOKENS", "POOLED", "MASK"])
        tokens, pooled = output(answer, "TOKENS"), output(answer, "POOLED")
        assert tokens is not None
        assert pooled is not None
        return Conditioning(tokens, pooled, output(answer, "MASK"))

    def score(
        self,
        latents: torch.Tensor,
        prompt: str,
        rewards: Sequence[str],
        seeds: Sequence[int],
        decoder: DecoderName,
    ) -> torch.Tensor:
        """rewards[B, R] of latents[B, ...], all of one prompt; the seeds name them in errors."""
        asked = ScoreSpec(prompts=[prompt], rewards=rewards, decoder=decoder)
        spec = json_format.MessageToJson(asked, indent=None)
        inputs = {
            "SPEC": np.array([spec.encode()], np.object_),
            "LATENTS": latents.numpy(),
            "SEEDS": np.array(seeds, np.int64),
        }
        scored = output(self._call("score", inputs, ["REWARDS"]), "REWARDS")
        assert scored is not None
        return scored

    def _call(self, model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Any:
        answer = pb.InferenceRequest(
            model_name=model,
            inputs=[pb.Tensor(name, np.ascontiguousarray(value)) for name, value in inputs.items()],
            requested_output_names=list(outputs),
            parameters=self._parameters,
        ).exec()
        if answer.has_error():
            raise error_of(model, answer.error())
        return answer

"""The server's other models, asked from within one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton_python_backend_utils as pb

from heliostat_proto.rollout_pb2 import ScoreSpec
from heliostat_server.errors import error_of
from heliostat_server.models.tensors import outputs, pb_tensors
from heliostat_server.sampling.explorer import Rewarded
from heliostat_wire.names import Model, Tensor
from heliostat_wire.tensors import (
    ENCODE_OUTPUTS,
    encode_inputs,
    read_conditioning,
    score_inputs,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.decoders import DecoderName
    from heliostat_wire.tensors import Arrays


class Models:
    """Asks `text_encoder` and `score`, and waits for the answer. Raises the errors they give."""

    def __init__(self, internal_token: str) -> None:
        self._parameters = {"authorization": f"Bearer {internal_token}"}

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning[B] of prompts[B]."""
        return read_conditioning(
            self._call(Model.TEXT_ENCODER, encode_inputs(prompts), ENCODE_OUTPUTS)
        )

    def score(
        self,
        latents: torch.Tensor,
        prompt: str,
        rewards: Sequence[str],
        seeds: Sequence[int],
        decoder: DecoderName,
    ) -> Rewarded:
        """Of latents[B, ...], all of one prompt; the seeds name them in errors."""
        asked = ScoreSpec(prompts=[prompt], rewards=rewards, decoder=decoder)
        inputs = score_inputs(asked, latents.numpy(), seeds)
        scored = self._call(Model.SCORE, inputs, [Tensor.REWARDS, Tensor.DECODE_S])
        return Rewarded(torch.from_numpy(scored[Tensor.REWARDS]), float(scored[Tensor.DECODE_S][0]))

    def _call(self, model: Model, inputs: Arrays, names: Sequence[str]) -> Arrays:
        answer = pb.InferenceRequest(
            model_name=model.value,
            inputs=pb_tensors(inputs),
            requested_output_names=[str(name) for name in names],
            parameters=self._parameters,
        ).exec()
        if answer.has_error():
            error = answer.error()
            raise error_of(f"the server's model {model}", error.message(), error.code().name)
        return outputs(answer, names)

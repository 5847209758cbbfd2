"""Requests and answers as arrays by name: what one side writes the other reads.

How arrays get onto the wire is in `kserve`; between Triton's models they are its own tensors. torch is imported where
tensors are made: who only asks a server how it is does not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat_wire.names import Tensor
from heliostat_wire.specs import json_element

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from heliostat_engines.conditioning import Conditioning
    from heliostat_proto.rollout_pb2 import ExploreSpec, ScoreSpec

Arrays = dict[str, "NDArray[Any]"]
"""By the names of tensors."""


def explore_inputs(spec: ExploreSpec, seeds: Sequence[int] | None = None) -> Arrays:
    """Of the model `explore`: a rollout has seeds, a load none."""
    inputs: Arrays = {Tensor.SPEC: json_element(spec)}
    if seeds is not None:
        inputs[Tensor.SEEDS] = np.array(seeds, np.int64)
    return inputs


def score_inputs(
    spec: ScoreSpec,
    latents: NDArray[np.float32] | None = None,
    seeds: Sequence[int] | None = None,
) -> Arrays:
    """Of the model `score`: latents[B, ...]; none: the spec's prompts are only checked.

    seeds[B] name the rows in errors.
    """
    inputs: Arrays = {Tensor.SPEC: json_element(spec)}
    if latents is not None:
        inputs[Tensor.LATENTS] = latents
    if seeds is not None:
        inputs[Tensor.SEEDS] = np.array(seeds, np.int64)
    return inputs


def encode_inputs(prompts: Sequence[str]) -> Arrays:
    """Of the model `text_encoder`: prompts[B]."""
    return {Tensor.PROMPTS: np.array([prompt.encode() for prompt in prompts], np.object_)}


ENCODE_OUTPUTS = (Tensor.TOKENS, Tensor.POOLED, Tensor.MASK)


def conditioning_arrays(conditioning: Conditioning) -> Arrays:
    """The answer of `text_encoder`: embeddings in float32, and the mask where there is one."""
    arrays: Arrays = {
        Tensor.TOKENS: conditioning.tokens.float().numpy(),
        Tensor.POOLED: conditioning.pooled.float().numpy(),
    }
    if conditioning.mask is not None:
        arrays[Tensor.MASK] = conditioning.mask.numpy()
    return arrays


def read_conditioning(arrays: Mapping[str, NDArray[Any]]) -> Conditioning:
    """What `conditioning_arrays` wrote, in memory of its own."""
    from heliostat_engines.conditioning import Conditioning

    mask = arrays.get(Tensor.MASK)
    return Conditioning(
        tokens=_tensor(arrays[Tensor.TOKENS]),
        pooled=_tensor(arrays[Tensor.POOLED]),
        mask=None if mask is None else _tensor(mask),
    )


@dataclass(frozen=True)
class DrawnBatch:
    """An answer of `explore`: seeds[B], rewards[B, R], latents[B, ...] if asked for.

    version: of the adapter that they were drawn with; 0: the base model.
    """

    seeds: NDArray[np.int64]
    rewards: NDArray[np.float32]
    version: int
    latents: torch.Tensor | None = None

    def arrays(self) -> Arrays:
        """As the model answers it."""
        arrays: Arrays = {
            Tensor.SEEDS: self.seeds,
            Tensor.REWARDS: self.rewards,
            Tensor.VERSION: np.array([self.version], np.int64),
        }
        if self.latents is not None:
            arrays[Tensor.LATENTS] = self.latents.numpy()
        return arrays

    @staticmethod
    def read(arrays: Mapping[str, NDArray[Any]]) -> DrawnBatch:
        """What `arrays` wrote; latents in memory of their own."""
        latents = arrays.get(Tensor.LATENTS)
        return DrawnBatch(
            arrays[Tensor.SEEDS],
            arrays[Tensor.REWARDS],
            int(arrays[Tensor.VERSION][0]),
            None if latents is None else _tensor(latents),
        )


def score_arrays(
    rewards: NDArray[np.float32], images: NDArray[np.uint8] | None, decode_s: float = 0.0
) -> Arrays:
    """The answer of `score`: rewards[B, R], and images[B, H, W, 3] if asked for.

    decode_s: in which latents became images.
    """
    arrays: Arrays = {Tensor.REWARDS: rewards, Tensor.DECODE_S: np.array([decode_s], np.float32)}
    if images is not None:
        arrays[Tensor.IMAGES] = images
    return arrays


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    import torch

    # A message's memory cannot be written to, and Triton's is gone after the call.
    return torch.from_numpy(array.copy())

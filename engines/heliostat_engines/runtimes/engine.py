"""The engine: what the sampler calls, whatever runtime lies behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch

    from heliostat_engines.adapters import Adapter, Binding
    from heliostat_engines.conditioning import Conditioning


class EngineInfo(BaseModel):
    """What an engine says of itself."""

    model_config = ConfigDict(frozen=True)

    family: str
    checkpoint: str
    runtime: str
    """tensorrt, tensorrt_rtx, torch or torch-compile."""
    precision: str
    """nvfp4, nvfp4-w4a16, fp8 or bf16: what the block linears run in."""
    compute_dtype: str = "bfloat16"
    """bfloat16 or float32: what is not quantised, and the products of what is."""
    nvfp4_linears: int
    """How many are quantised, to `precision`; the name is of when there was NVFP4 alone."""
    linears: int
    lora_targets: dict[str, tuple[int, int]]
    """name -> (in_features, out_features) of every linear with a LoRA side branch."""
    max_rank: int
    slots: int
    """How many adapters are resident at once."""
    resident_bytes: int
    weights_digest: str = ""
    """Of the transformer's weights (`families.weights`); empty: not known."""


class Engine(Protocol):
    """A compiled diffusion transformer that takes adapters while it runs."""

    def describe(self) -> EngineInfo:
        """Family, runtime, precision, LoRA targets and limits."""

    def make_resident(self, adapter: Adapter) -> Binding:
        """Make an adapter resident; the batches in flight keep theirs. Idempotent.

        Raises:
            AdapterError: it does not bind every target, or is not zero and changes nothing.
        """

    def is_resident(self, sha256: str) -> bool:
        """Whether `velocity` can be asked for this adapter as it is."""

    def velocity(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning,
        adapter: str | None = None,
    ) -> torch.Tensor:
        """velocity[B, ...] at latents[B, ...], sigma[B], under the adapter of that sha256.

        None is the base model. Raises KeyError if the adapter is not resident.
        """

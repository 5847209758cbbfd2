"""The demo family: diffusers' SD3Transformer2DModel on 8x8x16 latents of 64 px images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from typing_extensions import override

from heliostat_engines import calibration
from heliostat_engines.conditioning import Conditioning
from heliostat_engines.errors import CheckpointError
from heliostat_engines.families.family import Decoder, Family, TextEncoder
from heliostat_engines.precision import Keep, PrecisionMap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

LATENT_CHANNELS = 16
DOWNSCALE = 8
TIMESTEPS = 1000.0
"""The transformer counts noise in timesteps, sigma * 1000."""


class DemoFamily(Family):
    """SD3.5's structure at 5 M parameters; weights ship with the package."""

    name = "demo"
    default_checkpoint = str(Path(__file__).parent / "weights")
    default_resolution_px = 64
    lora_targets: ClassVar[tuple[str, ...]] = (
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
    )
    precision_map: ClassVar[PrecisionMap] = PrecisionMap(
        keep=(
            Keep("pos_embed", "embeds the latents: outliers, and a sliver of the work"),
            Keep("context_embedder", "embeds the text: outliers, and a sliver of the work"),
            Keep("time_text_embed", "conditions every block: its error is everywhere"),
            Keep("norm1", "modulation: scales and shifts every channel"),
            Keep("norm1_context", "modulation: scales and shifts every channel"),
            Keep("norm_out", "modulation of the output"),
            Keep("proj_out", "writes the velocity itself"),
        )
    )

    @override
    def latent_shape(self, resolution_px: int) -> tuple[int, ...]:
        if resolution_px != self.default_resolution_px:
            raise CheckpointError(
                f"the demo model draws {self.default_resolution_px} px images only, "
                f"not {resolution_px}: set resolution_px = {self.default_resolution_px}"
            )
        side = resolution_px // DOWNSCALE
        return (LATENT_CHANNELS, side, side)

    @override
    def load_transformer(self, checkpoint: str, dtype: torch.dtype) -> nn.Module:
        from diffusers import SD3Transformer2DModel

        return _load(SD3Transformer2DModel, checkpoint, "transformer", dtype)

    @override
    def load_text_encoder(self, checkpoint: str) -> TextEncoder:
        from heliostat_engines.families.demo.text_encoder import DemoTextEncoder

        return DemoTextEncoder()

    @override
    def load_decoder(self, checkpoint: str) -> Decoder:
        return DemoDecoder(checkpoint)

    @override
    def velocity(
        self,
        transformer: nn.Module,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        dtype = torch.bfloat16
        embeddings = conditioning.to(dtype)
        velocity: torch.Tensor = transformer(
            hidden_states=latents.to(dtype),
            encoder_hidden_states=embeddings.tokens,
            pooled_projections=embeddings.pooled,
            timestep=sigma * TIMESTEPS,
            return_dict=False,
        )[0]
        return velocity

    @override
    def probe_conditioning(self, transformer: nn.Module) -> Conditioning:
        config: Any = transformer.config
        return Conditioning(
            tokens=torch.ones(1, 1, config.joint_attention_dim),
            pooled=torch.ones(1, config.pooled_projection_dim),
        )

    @override
    def activation_amax(self, checkpoint: str) -> Mapping[str, float] | None:
        path = Path(checkpoint) / "transformer" / calibration.FILE
        if not path.exists():
            return None
        amax: dict[str, float] = json.loads(path.read_text())
        return amax


class DemoDecoder:
    """AutoencoderKL's decoder in float32 (1 M parameters: BF16 gains nothing here)."""

    def __init__(self, checkpoint: str) -> None:
        from diffusers import AutoencoderKL

        self._vae: Any = _load(AutoencoderKL, checkpoint, "vae", torch.float32)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """latents[B, 16, 8, 8] -> images[B, 3, 64, 64] in 0..1."""
        config = self._vae.config
        unscaled = latents.float() / config.scaling_factor + config.shift_factor
        images: torch.Tensor = self._vae.decode(unscaled, return_dict=False)[0]
        return (images / 2 + 0.5).clamp(0, 1)


def _load(model: type, checkpoint: str, part: str, dtype: torch.dtype) -> nn.Module:
    folder = Path(checkpoint) / part
    if not (folder / "config.json").exists():
        raise CheckpointError(
            f"{checkpoint} has no {part}/config.json: point the checkpoint at a folder in "
            "diffusers' layout, or leave it out for the weights that ship with the package"
        )
    loaded: nn.Module = model.from_pretrained(folder, torch_dtype=dtype)  # type: ignore[attr-defined]
    return loaded.eval().requires_grad_(False)

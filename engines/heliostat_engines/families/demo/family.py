"""The demo family: diffusers' SD3Transformer2DModel on 8x8x16 latents of 64 px images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from typing_extensions import override

from heliostat_engines.decoders import DecoderName
from heliostat_engines.errors import CheckpointError
from heliostat_engines.families import calibration
from heliostat_engines.families.assumptions import TRANSFORMER_CONFIG, check_assumptions, equal
from heliostat_engines.families.decoder import (
    KL_DECODER,
    TINY_FOLDER,
    decoders_at_hand,
    kl_decoder,
    load_kl_decoder,
    load_tiny_decoder,
)
from heliostat_engines.families.family import Resolutions, Size, TextEncoder
from heliostat_engines.families.precision import PrecisionMap
from heliostat_engines.families.public_names import SD3_CODE, PublicNames
from heliostat_engines.families.sd3.structure import (
    EMBEDDERS,
    LATENTS,
    MODULATION,
    OUTPUTS,
    Sd3Family,
)
from heliostat_engines.families.tiny import tiny_decoder, tiny_vae
from heliostat_engines.files.text import content_of, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from heliostat_engines.families.decoder import VaeDecoder

WEIGHTS = Path(__file__).parent / "weights"
BATCH = 256
"""Images decoded together: 64 px take little memory."""
PUBLISHED: dict[str, Any] = read_json(WEIGHTS / "transformer" / "config.json")
TINY = PUBLISHED | {
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "caption_projection_dim": 64,
}


class DemoFamily(Sd3Family):
    """SD3.5's structure at 5 M parameters; weights ship with the package."""

    name = "demo"
    default_checkpoint = str(WEIGHTS)
    default_resolution_px = 64
    resolutions = Resolutions(smallest_px=64, largest_px=64, multiple_px=64)
    text_tokens = 16
    pipeline = None
    assumptions = (
        *LATENTS,
        *equal(
            TRANSFORMER_CONFIG,
            joint_attention_dim=PUBLISHED["joint_attention_dim"],
            pooled_projection_dim=PUBLISHED["pooled_projection_dim"],
        ),
    )
    decoder_assumptions = KL_DECODER
    precision_map: ClassVar[PrecisionMap] = PrecisionMap(keep=EMBEDDERS + MODULATION + OUTPUTS)
    transformer_configs: ClassVar[Mapping[Size, Mapping[str, Any]]] = {
        Size.TINY: TINY,
        Size.PUBLISHED: PUBLISHED,
    }

    @override
    def public_names(self, config: Mapping[str, Any]) -> PublicNames:
        """Nobody else knows it; its layout is SD3's."""
        return PublicNames("heliostat-demo", SD3_CODE, "heliostat-demo")

    @override
    def load_text_encoder(self, checkpoint: str) -> TextEncoder:
        from heliostat_engines.families.demo.text_encoder import DemoTextEncoder

        return DemoTextEncoder()

    @override
    def load_decoder(self, checkpoint: str, decoder: DecoderName = DecoderName.FULL) -> VaeDecoder:
        """AutoencoderKL's decoder in float32 (1 M parameters: BF16 gains nothing here), or the tiny one."""
        if decoder is DecoderName.TINY:
            return load_tiny_decoder(checkpoint, None, torch.float32, at_once=BATCH)
        check_assumptions(self.name, checkpoint, self.decoder_assumptions)
        return load_kl_decoder(checkpoint, torch.float32, at_once=BATCH)

    @override
    def build_text_encoders(self, size: Size, device: str = "meta") -> tuple[nn.Module, ...]:
        """None: its embeddings are looked up on the host."""
        return ()

    @override
    def build_decoder(self, size: Size, device: str = "meta") -> VaeDecoder:
        if size is Size.TINY:
            return kl_decoder(tiny_vae(0).to(device, torch.float32), at_once=BATCH)
        decoder = self.load_decoder(self.default_checkpoint)
        decoder.module.to(device)
        return kl_decoder(decoder.module.vae, at_once=BATCH)

    @override
    def decoders(self, checkpoint: str) -> tuple[DecoderName, ...]:
        return decoders_at_hand(checkpoint, None)

    @override
    def write_tiny_checkpoint(self, folder: Path, seed: int = 0) -> None:
        self.tiny_transformer(seed).save_pretrained(folder / "transformer")
        tiny_vae(seed).save_pretrained(folder / "vae")
        tiny_decoder(seed).save_pretrained(folder / TINY_FOLDER)

    @override
    def activation_amax(self, checkpoint: str) -> Mapping[str, float] | None:
        path = Path(checkpoint) / "transformer" / calibration.FILE
        if not path.exists():
            return None
        with content_of(path, kind=CheckpointError):
            return {str(name): float(most) for name, most in read_json(path).items()}

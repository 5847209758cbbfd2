"""A family's decoder as an ONNX file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.export import Dim

from heliostat_engines.errors import BuildError
from heliostat_engines.families.decoder import VaeDecoder
from heliostat_engines.plans.graph_manifest import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from heliostat_engines.families.family import Decoder, Family

LATENTS = "latents"
IMAGES = "images"
GRAPH_FILE = "decoder.onnx"
OPSET = 20
"""Before attention became one operator: autoencoders attend with one head of hundreds of channels,
for which TensorRT has no kernel, but it fuses the parts.
"""


def export_decoder(family: Family, decoder: Decoder, folder: Path) -> TensorSpec:
    """Write latents[B, C, h, w] -> images[B, 3, H, W] (float32, 0..1); its weights keep their dtype.

    Returns the input. Batch and size are dynamic.

    Raises:
        BuildError: it is no autoencoder of diffusers.
    """
    if not isinstance(decoder, VaeDecoder):
        raise BuildError(
            f"the decoder of {family.name} is no diffusers autoencoder: choose --decoder none"
        )
    channels, height, width = family.latent_shape(family.resolutions.smallest_px)
    program = torch.onnx.export(
        decoder.module.eval(),
        (torch.zeros(2, channels, height, 2 * width),),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=[LATENTS],
        output_names=[IMAGES],
        dynamic_shapes=({0: Dim.DYNAMIC, 2: Dim.AUTO, 3: Dim.AUTO},),
    )
    assert program is not None
    folder.mkdir(parents=True, exist_ok=True)
    program.save(folder / GRAPH_FILE, external_data=True)
    return TensorSpec(name=LATENTS, dtype="float", shape=("batch", channels, "height", "width"))

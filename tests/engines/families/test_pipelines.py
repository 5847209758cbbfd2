"""Our sampler around a family draws what the family's own diffusers pipeline draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch

from heliostat_engines.decoders import DecoderName
from heliostat_engines.families import get_family
from heliostat_engines.families.family import Family
from heliostat_engines.resolution import Resolution, width_height
from heliostat_engines.sampling.euler import sample_euler
from heliostat_engines.sampling.noise import initial_noise
from tests.engines.families.pipelines import (
    PIPELINES,
    call_pipeline,
    encode,
    instruction,
    load_pipeline,
)

PROMPTS = ["a red cat on a mat", "two Blue dogs, 42 of them!"]
STEPS = 4
SIDE_PX = {"sana": 512}
EVERY = pytest.mark.parametrize("name", PIPELINES)
EVERY_SHAPE = pytest.mark.parametrize(
    ("name", "resolution_px"),
    [(name, SIDE_PX.get(name, 256)) for name in PIPELINES]
    # As 832 x 1216 and 1216 x 832 are, in half and in less.
    + [(name, (416, 608) if name == "sana" else (256, 368)) for name in PIPELINES]
    + [("flux", (368, 256))],
)


def side_px(name: str) -> int:
    return SIDE_PX.get(name, 256)


def draw(
    family: Family, checkpoint: Path, noise: torch.Tensor, resolution_px: Resolution
) -> torch.Tensor:
    transformer = family.load_transformer(str(checkpoint), torch.float32)
    conditioning = family.load_text_encoder(str(checkpoint)).encode(PROMPTS)
    with torch.inference_mode():
        return sample_euler(
            lambda latents, sigma: family.velocity(transformer, latents, sigma, conditioning),
            noise,
            family.sigmas(STEPS, resolution_px),
        )


@EVERY_SHAPE
def test_our_latents_are_the_pipelines(
    name: str, resolution_px: Resolution, tiny_checkpoint: Callable[[str], Path]
) -> None:
    family, checkpoint = get_family(name), tiny_checkpoint(name)
    noise = initial_noise([3, 4], family.latent_shape(resolution_px))
    pipeline = load_pipeline(name, checkpoint)
    expected = call_pipeline(name, pipeline, PROMPTS, noise, STEPS, resolution_px, "latent")
    ours = draw(family, checkpoint, noise, resolution_px)
    assert torch.isfinite(ours).all()
    assert (expected - noise).norm() > 0.1 * noise.norm()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@EVERY_SHAPE
def test_our_images_are_the_pipelines_up_to_the_decoders_precision(
    name: str, resolution_px: Resolution, tiny_checkpoint: Callable[[str], Path]
) -> None:
    family, checkpoint = get_family(name), tiny_checkpoint(name)
    noise = initial_noise([3, 4], family.latent_shape(resolution_px))
    pipeline = load_pipeline(name, checkpoint)
    expected = call_pipeline(name, pipeline, PROMPTS, noise, STEPS, resolution_px, "pt")
    latents = draw(family, checkpoint, noise, resolution_px)
    ours = family.load_decoder(str(checkpoint)).decode(latents)
    width, height = width_height(resolution_px)
    assert ours.shape == (2, 3, height, width)
    assert ours.dtype == torch.float32
    assert expected.std() > 0.1
    assert (ours - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("name", ["flux", "flux-schnell", "sd3.5-large", "sd3.5-medium"])
def test_the_tiny_decoder_is_the_pipelines_with_its_vae_replaced(
    name: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    family, checkpoint = get_family(name), tiny_checkpoint(name)
    noise = initial_noise([3, 4], family.latent_shape(side_px(name)))
    pipeline = load_pipeline(name, checkpoint)
    pipeline.vae = diffusers.AutoencoderTiny.from_pretrained(checkpoint / "vae_tiny")
    expected = call_pipeline(name, pipeline, PROMPTS, noise, STEPS, side_px(name), "pt")
    decoder = family.load_decoder(str(checkpoint), DecoderName.TINY)
    ours = decoder.decode(draw(family, checkpoint, noise, side_px(name)))
    assert expected.std() > 0.1
    assert (ours - expected).norm() < 0.02 * expected.norm()


@EVERY
def test_the_text_encoder_is_the_pipelines_whatever_the_batch(
    name: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    checkpoint = tiny_checkpoint(name)
    encoder = get_family(name).load_text_encoder(str(checkpoint))
    together = encoder.encode([*PROMPTS, "", PROMPTS[0]])
    expected = encode(name, load_pipeline(name, checkpoint), PROMPTS)
    assert torch.equal(together.tokens[:2].float(), expected["prompt_embeds"])
    for row, prompt in enumerate([*PROMPTS, ""]):
        alone = encoder.encode([prompt])
        assert torch.equal(together.tokens[row], alone.tokens[0])
        assert torch.equal(together.pooled[row], alone.pooled[0])
        if together.mask is not None and alone.mask is not None:
            assert torch.equal(together.mask[row], alone.mask[0])
    assert torch.equal(together.tokens[0], together.tokens[3])
    assert not torch.equal(together.tokens[0], together.tokens[1])
    assert len(encoder.encode([])) == 0


def test_sanas_unconditional_row_is_the_pipelines(tiny_checkpoint: Callable[[str], Path]) -> None:
    """SanaPipeline encodes its negative prompt without the instruction."""
    checkpoint = tiny_checkpoint("sana")
    pipeline = load_pipeline("sana", checkpoint)
    with torch.no_grad():
        _, _, tokens, mask = pipeline.encode_prompt(
            PROMPTS[0], complex_human_instruction=instruction(pipeline)
        )
    ours = get_family("sana").load_text_encoder(str(checkpoint)).encode([""])
    assert ours.mask is not None
    assert torch.equal(ours.tokens, tokens)
    assert torch.equal(ours.mask, mask)

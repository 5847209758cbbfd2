"""Our sampler around a family draws what the family's own diffusers pipeline draws."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from heliostat_engines.decoders import DecoderName
from heliostat_engines.families import get_family
from heliostat_engines.families.family import Family
from heliostat_engines.resolution import Resolution, width_height
from heliostat_engines.sampling.euler import sample_euler
from heliostat_engines.sampling.noise import initial_noise

PIPELINES = {
    "sana": diffusers.SanaPipeline,
    "flux": diffusers.FluxPipeline,
    "flux-schnell": diffusers.FluxPipeline,
    "sd3.5-large": diffusers.StableDiffusion3Pipeline,
    "sd3.5-medium": diffusers.StableDiffusion3Pipeline,
}
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


def load_pipeline(name: str, checkpoint: Path) -> Any:
    """The published pipeline, transformer and VAE in float32, text encoders in BF16 as ours."""
    pipeline: Any = PIPELINES[name].from_pretrained(checkpoint, torch_dtype=torch.bfloat16)
    torch.nn.Module.to(pipeline.transformer, torch.float32)
    torch.nn.Module.to(pipeline.vae, torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def encode(name: str, pipeline: Any) -> dict[str, torch.Tensor]:
    """The pipeline's own embeddings, a prompt at a time: in a batch, BF16 rounds otherwise."""
    if name == "sana":
        settings = {
            "do_classifier_free_guidance": False,
            "complex_human_instruction": instruction(pipeline),
        }
        rows = [pipeline.encode_prompt(prompt, **settings)[:2] for prompt in PROMPTS]
        names = ("prompt_embeds", "prompt_attention_mask")
    elif "flux" in name:
        tokens = {"max_sequence_length": 256 if name == "flux-schnell" else 512}
        rows = [pipeline.encode_prompt(prompt, **tokens)[:2] for prompt in PROMPTS]
        names = ("prompt_embeds", "pooled_prompt_embeds")
    else:
        settings = {"prompt_2": None, "prompt_3": None, "do_classifier_free_guidance": False}
        rows = [pipeline.encode_prompt(prompt, **settings)[::2] for prompt in PROMPTS]
        names = ("prompt_embeds", "pooled_prompt_embeds")
    return {
        name: torch.cat(parts).float()
        for name, parts in zip(names, zip(*rows, strict=True), strict=True)
    }


def call_pipeline(
    name: str, pipeline: Any, noise: torch.Tensor, resolution_px: Resolution, output_type: str
) -> torch.Tensor:
    """Prompts in; latents or images out, by the pipeline's own text encoders and steps."""
    settings: dict[str, Any] = encode(name, pipeline)
    if name == "sana":
        pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
        settings["sigmas"] = torch.linspace(1, 0, STEPS + 1)[:-1].tolist()
        settings["use_resolution_binning"] = False
    if "flux" in name:
        noise = pipeline._pack_latents(noise, *noise.shape)
    width, height = width_height(resolution_px)
    drawn: torch.Tensor = pipeline(
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        latents=noise,
        height=height,
        width=width,
        output_type=output_type,
        **settings,
    ).images
    if "flux" in name and output_type == "latent":
        drawn = pipeline._unpack_latents(drawn, height, width, pipeline.vae_scale_factor)
    return drawn


def instruction(pipeline: Any) -> list[str]:
    parameters = inspect.signature(type(pipeline).__call__).parameters
    default: list[str] = parameters["complex_human_instruction"].default
    return default


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
    expected = call_pipeline(name, load_pipeline(name, checkpoint), noise, resolution_px, "latent")
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
    expected = call_pipeline(name, load_pipeline(name, checkpoint), noise, resolution_px, "pt")
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
    expected = call_pipeline(name, pipeline, noise, side_px(name), "pt")
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
    expected = encode(name, load_pipeline(name, checkpoint))
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

"""The published pipelines of diffusers, to compare with what a family draws."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch

from heliostat_engines.resolution import Resolution, width_height

PIPELINES = {
    "sana": diffusers.SanaPipeline,
    "flux": diffusers.FluxPipeline,
    "flux-schnell": diffusers.FluxPipeline,
    "sd3.5-large": diffusers.StableDiffusion3Pipeline,
    "sd3.5-medium": diffusers.StableDiffusion3Pipeline,
}


def load_pipeline(name: str, checkpoint: Path, text_dtype: torch.dtype = torch.bfloat16) -> Any:
    """The published pipeline, transformer and VAE in float32, text encoders in BF16 as ours are stored."""
    pipeline: Any = PIPELINES[name].from_pretrained(checkpoint, torch_dtype=text_dtype)
    torch.nn.Module.to(pipeline.transformer, torch.float32)
    torch.nn.Module.to(pipeline.vae, torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def encode(name: str, pipeline: Any, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
    """The pipeline's own embeddings, a prompt at a time: in a batch, BF16 rounds otherwise."""
    if name == "sana":
        settings = {
            "do_classifier_free_guidance": False,
            "complex_human_instruction": instruction(pipeline),
        }
        rows = [pipeline.encode_prompt(prompt, **settings)[:2] for prompt in prompts]
        names = ("prompt_embeds", "prompt_attention_mask")
    elif "flux" in name:
        tokens = {"max_sequence_length": 256 if name == "flux-schnell" else 512}
        rows = [pipeline.encode_prompt(prompt, **tokens)[:2] for prompt in prompts]
        names = ("prompt_embeds", "pooled_prompt_embeds")
    else:
        settings = {"prompt_2": None, "prompt_3": None, "do_classifier_free_guidance": False}
        rows = [pipeline.encode_prompt(prompt, **settings)[::2] for prompt in prompts]
        names = ("prompt_embeds", "pooled_prompt_embeds")
    return {
        name: torch.cat(parts).float()
        for name, parts in zip(names, zip(*rows, strict=True), strict=True)
    }


def call_pipeline(
    name: str,
    pipeline: Any,
    prompts: Sequence[str],
    noise: torch.Tensor,
    steps: int,
    resolution_px: Resolution,
    output_type: str,
) -> torch.Tensor:
    """Prompts in; latents or images out, by the pipeline's own text encoders and steps."""
    settings: dict[str, Any] = encode(name, pipeline, prompts)
    if name == "sana":
        pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
        settings["sigmas"] = torch.linspace(1, 0, steps + 1)[:-1].tolist()
        settings["use_resolution_binning"] = False
    if "flux" in name:
        noise = pipeline._pack_latents(noise, *noise.shape)
    width, height = width_height(resolution_px)
    drawn: torch.Tensor = pipeline(
        num_inference_steps=steps,
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

"""The shipped weights load, draw, and stay small."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel

import heliostat_engines.families.demo as demo_module
import heliostat_server.rewards.demo as rewards_module
from heliostat.pretrain.autoencoder import decode
from heliostat.pretrain.denoiser import sample
from heliostat_engines.families.demo.text_encoder import DemoTextEncoder
from heliostat_server.rewards.demo.network import Judge

MODEL = Path(demo_module.__file__).parent / "weights"
JUDGES = Path(rewards_module.__file__).parent / "weights"
MOST_BYTES = 15_000_000


def test_weights_are_small() -> None:
    files = [path for folder in (MODEL, JUDGES) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES


def test_judges_prefer_drawings_of_the_prompt() -> None:
    """End to end: eight prompts drawn with guidance score higher than with their neighbour's."""
    encoder = DemoTextEncoder()
    names = ("strawberry", "penguin", "rocket", "cactus", "pumpkin", "house", "whale", "heart")
    conditioning = encoder.encode([f"a {name} on a white background" for name in names])
    vae = AutoencoderKL.from_pretrained(MODEL / "vae", torch_dtype=torch.float32).eval()
    transformer = SD3Transformer2DModel.from_pretrained(
        MODEL / "transformer", torch_dtype=torch.float32
    ).eval()
    noise = torch.randn(len(names), 16, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = sample(transformer, conditioning, encoder.encode([""]), noise, steps=10, guidance=3)
    images = decode(vae, latents)
    for weights in ("judge", "judge_heldout"):
        judge = Judge.load(JUDGES / f"{weights}.safetensors")
        right = judge.score(images, conditioning)
        wrong = judge.score(images.roll(1, dims=0), conditioning)
        assert right.mean() > wrong.mean() + 0.2

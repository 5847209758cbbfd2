"""Measures how large the inputs of a transformer's linears get: NVFP4's activation scales."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from heliostat_engines.families.precision import named_linears
from heliostat_engines.files.atomic import atomic_text
from heliostat_engines.precisions import Precision
from heliostat_engines.sampling.euler import sample_euler
from heliostat_engines.sampling.noise import initial_noise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import nn

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.families.family import Family
    from heliostat_engines.resolution import Resolution

HEADROOM = 2.0
"""Measured maxima are widened by this: training moves activations, and a wider scale costs nothing
while block scales stay in E4M3's normal range."""
FILE = "activation_amax.json"


def calibrate(
    family: Family,
    transformer: nn.Module,
    conditioning: Conditioning,
    seeds: Sequence[int],
    steps: int,
    resolution_px: Resolution | None = None,
) -> dict[str, float]:
    """Largest input magnitude of each linear that any map quantises, times the headroom.

    Args:
        family: the model family.
        transformer: its transformer, not quantised.
        conditioning: a row a seed, typical of what will be drawn.
        seeds: what to draw.
        steps: with how many denoising steps.
        resolution_px: size of what is drawn; None is the family's own.
    """
    resolution_px = resolution_px or family.default_resolution_px
    device = next(transformer.parameters()).device
    conditioning = conditioning.to(torch.float32, device)
    with _watched(family, transformer) as amax, torch.inference_mode():
        sample_euler(
            lambda latents, sigma: family.velocity(transformer, latents, sigma, conditioning),
            initial_noise(seeds, family.latent_shape(resolution_px)).to(device),
            family.sigmas(steps, resolution_px),
        )
    return {name: HEADROOM * value for name, value in amax.items()}


def write_calibration(amax: dict[str, float], checkpoint: Path) -> None:
    """Keep the maxima beside the transformer, where its family looks for them."""
    rounded = {name: float(f"{value:.4g}") for name, value in amax.items()}
    atomic_text(checkpoint / "transformer" / FILE, json.dumps(rounded, indent=1) + "\n")


@contextmanager
def _watched(family: Family, transformer: nn.Module) -> Iterator[dict[str, float]]:
    """Record the input maxima of every linear that the wide map, and so any, quantises."""
    amax: dict[str, float] = {}

    def watch(name: str, linear: nn.Linear) -> torch.utils.hooks.RemovableHandle:
        def record(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            amax[name] = max(amax.get(name, 0.0), float(inputs[0].abs().amax()))

        return linear.register_forward_pre_hook(record)

    handles = [
        watch(name, linear)
        for name, linear in named_linears(transformer)
        if family.wide_precision_map.decide(name, linear)[0] is Precision.NVFP4
    ]
    try:
        yield amax
    finally:
        for handle in handles:
            handle.remove()

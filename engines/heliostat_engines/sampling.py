"""Deterministic samplers for rectified flow: x_t = (1 - t) x0 + t e, velocity v = e - x0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


class Velocity(Protocol):
    """v(latents[B, ...], sigma[B]) -> velocity[B, ...]: a model with its conditioning bound."""

    def __call__(self, latents: torch.Tensor, sigma: torch.Tensor, /) -> torch.Tensor:
        """Predict the velocity at noise level sigma in (0, 1]."""


def unshifted_sigmas(steps: int) -> torch.Tensor:
    """sigmas[steps + 1] in float32, evenly spaced from 1 to 0."""
    return torch.linspace(1.0, 0.0, steps + 1)


def sample_euler(
    velocity: Velocity,
    noise: torch.Tensor,
    sigmas: torch.Tensor,
    on_step: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Integrate dx = v dsigma from noise[B, ...] down sigmas[S + 1] by Euler steps, in float32.

    `on_step` is called before each step, so that a caller can stop by raising.
    """
    latents = noise.float()
    for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        if on_step is not None:
            on_step()
        level = torch.full((latents.shape[0],), sigma, device=latents.device)
        latents = latents + (following - sigma) * velocity(latents, level).float()
    return latents


def cut_after(sigmas: torch.Tensor, evaluations: int) -> torch.Tensor:
    """sigmas[s + 1]: the levels of the first s evaluations down sigmas[S + 1], and then 0.

    A step from level t onto 0 leaves x_t - t v: along these a sampler draws the prediction of clean
    latents after s evaluations of the S that the whole schedule takes. All S leave it as it is.
    """
    return torch.cat([sigmas[:evaluations], sigmas[-1:]])


def as_column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """values[B] with trailing axes of one, to go with like[B, ...]."""
    return values.view(-1, *[1] * (like.ndim - 1))


def guided(conditional: Velocity, unconditional: Velocity, guidance: float) -> Velocity:
    """Classifier-free guidance, v_null + g (v - v_null); g = 1 costs no second evaluation.

    Source: Ho and Salimans, "Classifier-Free Diffusion Guidance" (arXiv 2207.12598).
    """
    if guidance == 1.0:
        return conditional

    def velocity(latents: torch.Tensor, sigma: torch.Tensor, /) -> torch.Tensor:
        null = unconditional(latents, sigma)
        return null + guidance * (conditional(latents, sigma) - null)

    return velocity

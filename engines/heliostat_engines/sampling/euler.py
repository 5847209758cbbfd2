"""Deterministic samplers for rectified flow: x_t = (1 - t) x0 + t e, velocity v = e - x0."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import torch

from heliostat_engines.sampling.solvers import Solver

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
        latents = latents + (following - sigma) * _evaluate(velocity, latents, sigma, on_step)
    return latents


def sample_dpm2m(
    velocity: Velocity,
    noise: torch.Tensor,
    sigmas: torch.Tensor,
    on_step: Callable[[], None] | None = None,
) -> torch.Tensor:
    """As `sample_euler`, by DPM-Solver++(2M) in its midpoint form: second order in l = log((1 - t) / t).

    With the predictions x0 = x - t v at level t, and x0' at the level t' before it, a step to s is

        x_s = (s / t) x + (1 - s / t) (x0 + (x0 - x0') (l_s - l_t) / (2 (l_t - l_t')))

    where x0 alone is Euler's step. The first step is Euler's, there being no x0' yet; so is the last one,
    onto 0, as in diffusers (`lower_order_final`); and so is the second one from t' = 1, where l is -inf.
    So of three steps all are.

    Source: Lu et al., "DPM-Solver++" (arXiv 2211.01095), algorithm 2.
    """
    latents, levels = noise.float(), sigmas.tolist()
    earlier: torch.Tensor | None = None
    for index, (sigma, following) in enumerate(pairwise(levels)):
        predicted = _evaluate(velocity, latents, sigma, on_step)
        clean = latents - sigma * predicted
        latents = latents + (following - sigma) * predicted
        if earlier is not None and following > 0:
            before, now, then = (_log_ratio(level) for level in levels[index - 1 : index + 2])
            weight = (1 - following / sigma) * (then - now) / (2 * (now - before))
            latents = latents + weight * (clean - earlier)
        earlier = clean
    return latents


SAMPLERS = {Solver.EULER: sample_euler, Solver.DPM2M: sample_dpm2m}


def _evaluate(
    velocity: Velocity,
    latents: torch.Tensor,
    sigma: float,
    on_step: Callable[[], None] | None,
) -> torch.Tensor:
    """The velocity[B, ...] of all latents[B, ...] at one level, in float32."""
    if on_step is not None:
        on_step()
    level = torch.full((latents.shape[0],), sigma, device=latents.device)
    return velocity(latents, level).float()


def _log_ratio(sigma: float) -> float:
    """log((1 - t) / t), of clean latents to noise."""
    return -math.inf if sigma == 1 else math.log((1 - sigma) / sigma)


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

"""Names of the deterministic samplers. Reads no torch, so that settings can be checked without it."""

from __future__ import annotations

from enum import StrEnum


class Solver(StrEnum):
    """How images are drawn from noise, with one evaluation of the transformer a step."""

    EULER = "euler"
    """First order: along the velocity of each step."""
    DPM2M = "dpm2m"
    """DPM-Solver++(2M), second order: the change of the predicted clean latents is carried on."""

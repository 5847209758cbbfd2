"""Where a rollout is at the server, and for how long."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Station(StrEnum):
    """Where a rollout is, or its images are."""

    QUEUE = "queue"
    """Nothing yet: others are drawn, or rewards are waited for."""
    ENCODE = "encode"
    """Text embeddings, where they are not remembered."""
    REFIT = "refit"
    """Getting an adapter into the engine."""
    DENOISE = "denoise"
    """Evaluations of the transformer."""
    DECODE = "decode"
    """Latents to images; beside denoising, as is the next."""
    REWARD = "reward"
    """Images to rewards, with the way there and back."""


@dataclass(frozen=True)
class Spent:
    """What a rollout took: when it was asked for and drawn, in seconds since 1970, and its parts.

    Text is encoded, adapters are changed and images denoised one after another, from `asked_at` to
    `drawn_at`; what else there is between these is the queue. The rest runs beside.
    """

    asked_at: float
    drawn_at: float
    seconds: Mapping[Station, float]
    """Of everything but the queue."""

    @property
    def text(self) -> str:
        """JSON."""
        rounded = {str(station): round(each, 4) for station, each in self.seconds.items()}
        return json.dumps([round(self.asked_at, 3), round(self.drawn_at, 3), rounded])

    @staticmethod
    def read(text: str) -> Spent:
        """What `text` wrote."""
        asked_at, drawn_at, seconds = json.loads(text)
        return Spent(asked_at, drawn_at, {Station(name): each for name, each in seconds.items()})

"""A reward behind an HTTP address: what does not fit into the server's Python runs elsewhere.

    POST url  {"images": ["<PNG in base64>", ...], "prompts": ["...", ...]}
    answer    {"rewards": [0.7, ...]}                one finite number an image, in their order

Docs: docs/rewards.md has a complete server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, FiniteFloat, ValidationError

from heliostat_engines.parts import parts
from heliostat_server.errors import ModelError, UnavailableError
from heliostat_server.rewards.images import png_base64, to_uint8
from heliostat_server.rewards.remote.posting import (
    BusyError,
    RefusedError,
    post,
    read_token,
    retrying,
)
from heliostat_server.urls import without_secrets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.conditioning import Conditioning
    from heliostat_server.rewards.definitions import HttpScorer


MAX_BYTES = 32 * 2**20
"""Of the images in a request, unless a single one is larger."""


class _Answer(BaseModel):
    rewards: list[FiniteFloat]


class HttpReward:
    """What the server at the address answers, unscaled. Deterministic as far as that server is."""

    def __init__(self, name: str, settings: HttpScorer) -> None:
        """Read the token, if there is one. Raises SecretError if it cannot be read."""
        self._name = name
        self._settings = settings
        self._token = read_token(settings.token_file, f"[rewards.{name}], token_file")

    def score(
        self,
        images: torch.Tensor,
        prompts: Sequence[str],
        conditioning: Conditioning,  # noqa: ARG002
    ) -> torch.Tensor:
        """rewards[B] float32 of images[B, 3, H, W] for prompts[B].

        Raises:
            UnavailableError: the server does not answer.
            ModelError: it refuses, or answers with something else than one finite number an image.
        """
        pictures = [png_base64(picture) for picture in to_uint8(images).cpu().numpy()]
        rewards: list[float] = []
        for part in parts(list(map(len, pictures)), MAX_BYTES, self._settings.batch):
            rewards += self._ask(pictures[part], list(prompts[part]))
        return torch.tensor(rewards, dtype=torch.float32)

    def _ask(self, pictures: list[str], prompts: list[str]) -> list[float]:
        settings = self._settings
        body = {"images": pictures, "prompts": prompts}
        where = f"the scorer {self._name} at {without_secrets(settings.url)}"
        try:
            text = retrying(settings.attempts)(
                post, settings.url, body, self._token, settings.timeout_s
            )
            answer = _Answer.model_validate_json(text)
        except BusyError as error:
            raise UnavailableError(
                f"{where} does not answer ({error}): start it, or check its url"
            ) from error
        except RefusedError as error:
            raise ModelError(f"{where} refuses: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ModelError(f"{where} gives no rewards: {place}: {first['msg']}") from error
        if len(answer.rewards) != len(pictures):
            raise ModelError(
                f"{where} gives {len(answer.rewards)} rewards for {len(pictures)} images"
            )
        return list(answer.rewards)

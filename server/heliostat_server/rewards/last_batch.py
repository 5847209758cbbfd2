"""Computing something once of a batch that several rewards rate."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

from heliostat_server.rewards.reward import check_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    import torch

    from heliostat_engines.conditioning import Conditioning
    from heliostat_server.rewards.reward import Reward

T = TypeVar("T")


class LastBatch(Generic[T]):
    """What was last computed of a batch; forgotten as the next batch comes. For one thread.

    Batches are told apart by being the same tensor: nobody may change images in place.
    """

    def __init__(self) -> None:
        self._images: weakref.ref[torch.Tensor] | None = None
        self._key: Hashable = None
        self._value: T | None = None

    def get(self, images: torch.Tensor, key: Hashable, compute: Callable[[], T]) -> T:
        """What `compute` gives, or gave for the same images and key."""
        known = self._images is not None and self._images() is images and self._key == key
        if not known or self._value is None:
            self._value = compute()
            self._images, self._key = weakref.ref(images), key
        return self._value


class Remembering:
    """A reward that rates the same batch only once."""

    def __init__(self, reward: Reward) -> None:
        self._reward = reward
        self._last: LastBatch[torch.Tensor] = LastBatch()

    def score(
        self, images: torch.Tensor, prompts: Sequence[str], conditioning: Conditioning
    ) -> torch.Tensor:
        """rewards[B] of the reward."""
        return self._last.get(
            images, tuple(prompts), lambda: self._reward.score(images, prompts, conditioning)
        )

    def check_prompt(self, prompt: str) -> None:
        """Raises RequestError: the reward refuses it."""
        check_prompt(self._reward, prompt)

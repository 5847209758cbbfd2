"""What a reward is, and what one is given to load itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from heliostat_server.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    import torch

    from heliostat_engines.conditioning import Conditioning

T = TypeVar("T")


class Reward(Protocol):
    """Rates images; higher is better. An image's reward must not depend on its batch."""

    def score(
        self, images: torch.Tensor, prompts: Sequence[str], conditioning: Conditioning
    ) -> torch.Tensor:
        """rewards[B] float32 of images[B, 3, H, W] (float32, 0..1) for prompts[B].

        `conditioning` has the prompts' embeddings of the model family, one row a prompt. Images are
        shared by all rewards: do not change them in place.

        A reward that cannot rate images of every prompt has a method `check_prompt(prompt)` too,
        which raises a ValueError that says why: runs are told before they start.
        """


def check_prompt(reward: Reward, prompt: str) -> None:
    """Refuse a prompt that a reward refuses, if it refuses any.

    Raises:
        RequestError: in the reward's words.
    """
    check = getattr(reward, "check_prompt", None)
    if check is None:
        return
    try:
        check(prompt)
    except ValueError as error:
        raise RequestError(str(error)) from error


@dataclass(frozen=True)
class RewardContext:
    """What a reward may ask for while it is loaded.

    device: where images are, and the reward's model belongs, as torch calls it.
    reward: loads another reward of this server by its name.
    """

    device: str
    reward: Callable[[str], Reward]
    _shared: dict[Hashable, Any] = field(default_factory=dict)

    def share(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made once for all rewards that ask for the key."""
        if key not in self._shared:
            self._shared[key] = make()
        shared: T = self._shared[key]
        return shared

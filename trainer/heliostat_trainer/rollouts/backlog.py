"""The groups of a step that are still to be drawn, and what has been answered of each."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import torch

from heliostat_trainer.errors import ServerRefusedError
from heliostat_trainer.types import Group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from heliostat_trainer.rollouts.stream import Answer
    from heliostat_trainer.types import GroupRequest


class Backlog:
    """The groups of a step that no server has been asked for; threads share it."""

    def __init__(self, requests: Sequence[GroupRequest]) -> None:
        self.started = time.monotonic()
        self._waiting = deque(PendingGroup(request) for request in requests)
        self._left = len(requests)
        self._changed = threading.Condition()
        self.closed = False

    def take(self) -> PendingGroup | None:
        """The next group; None if there is none for now."""
        with self._changed:
            return self._waiting.popleft() if self._waiting else None

    def give_back(self, pending: PendingGroup) -> None:
        """A server that was asked for a group will not draw it: it is the next."""
        with self._changed:
            self._waiting.appendleft(pending)
            self._changed.notify_all()

    def handed_out(self) -> None:
        """A group is complete."""
        with self._changed:
            self._left -= 1
            self._changed.notify_all()

    def wait(self) -> bool:
        """Wait for a group to take; False once all are complete, or it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._left or self.closed)
            return bool(self._waiting) and not self.closed

    def rest(self, seconds: float) -> None:
        """Wait so long, unless all are complete before."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or not self._left, seconds)

    def close(self) -> None:
        """Nobody reads any more: whoever waits goes."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


class PendingGroup:
    """The answered part of a group."""

    def __init__(self, request: GroupRequest) -> None:
        self.request = request
        self._rewards: dict[int, NDArray[np.float64]] = {}
        self._latents: dict[int, torch.Tensor] = {}

    def missing(self) -> tuple[int, ...]:
        """Seeds without an answer, in the request's order."""
        return tuple(seed for seed in self.request.seeds if seed not in self._rewards)

    def add(self, answer: Answer, version: int) -> None:
        """Take in a batch.

        Raises:
            ServerRefusedError: it is of another adapter version, of foreign seeds, or has a
                reward that is no number.
        """
        if answer.version != version:
            raise ServerRefusedError(
                f"asked for adapter version {version}, the server drew with {answer.version}"
            )
        for position, seed in enumerate(answer.seeds.tolist()):
            rewards = answer.rewards[position]
            for name, reward in zip(self.request.reward.names, rewards.tolist(), strict=True):
                if not np.isfinite(reward):
                    raise ServerRefusedError(
                        f"reward {name} of seed {seed} for {self.request.prompt!r} is "
                        f"{reward}: mend the reward model on the server"
                    )
            self._rewards[seed] = rewards
            if answer.latents is not None:
                self._latents[seed] = answer.latents[position]
        if not self._rewards.keys() <= set(self.request.seeds):
            raise ServerRefusedError("the server answered seeds that it was not asked for")

    def group(self, elapsed_s: float) -> Group:
        """The whole group, its latents in the order of its seeds."""
        seeds = self.request.seeds
        latents = None
        if self.request.return_latents:
            latents = torch.stack([self._latents[seed] for seed in seeds])
        rewards = np.stack([self._rewards[seed] for seed in seeds])
        return Group.rewarded(self.request, rewards, latents, elapsed_s)

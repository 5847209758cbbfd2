"""One step's exploration: the groups still to be drawn, requests out over a stream, whole groups back."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch

from heliostat_trainer.errors import (
    AskAgainError,
    ServerBusyError,
    ServerGoneError,
    ServerRefusedError,
)
from heliostat_trainer.types import Group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from heliostat_trainer.rollouts.connection import Caller
    from heliostat_trainer.rollouts.stream import Answer, RolloutStream, StreamSource
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


POLL_S = 1.0
PROBE_EVERY_S = 5.0


class Exploration:
    """Which candidates of which groups are still to come; survives the streams it reads."""

    def __init__(self, backlog: Backlog, source: StreamSource, caller: Caller) -> None:
        """backlog: the groups that are still to be drawn, here or elsewhere."""
        self._backlog = backlog
        self._source = source
        self._caller = caller
        self._asked: dict[int, PendingGroup] = {}
        self._stream: RolloutStream | None = None
        self._postponed: dict[int, float] = {}
        self._heard = time.monotonic()

    def wait_for_work(self) -> bool:
        """Wait until there is a group to draw here; False once every group has been handed out."""
        return not self._backlog.closed and (bool(self._asked) or self._backlog.wait())

    def give_back(self) -> None:
        """Leave the groups that are not complete to others, with what has been answered of them."""
        self.close()
        for pending in self._asked.values():
            self._backlog.give_back(pending)
        self._asked.clear()

    def next_group(self) -> Group | None:
        """Read answers until a group is complete; after a failure, call it again.

        None if others took what there was to draw, or nobody reads any more.

        Raises:
            AskAgainError: the stream broke; what was answered is kept.
            ServerRefusedError: the server refuses.
        """
        try:
            stream = self._connected()
            self._ask_more(stream)
            while self._asked and (answer := self._next_answer(stream)):
                group = self._take(stream, answer)
                if group is not None:
                    return group
        except (AskAgainError, ServerRefusedError):
            self.close()
            raise
        return None

    def close(self) -> None:
        """Drop the stream; a later `next_group` opens another and asks for what is missing."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _connected(self) -> RolloutStream:
        if self._stream is None:
            self._stream = self._source.open()
            self._heard = time.monotonic()
            self._postponed.clear()
            for pending in self._asked.values():
                self._stream.ask(pending.request, pending.missing())
        return self._stream

    def _ask_more(self, stream: RolloutStream) -> None:
        while len(self._asked) < self._caller.groups_in_flight and (
            pending := self._backlog.take()
        ):
            self._asked[pending.request.row] = pending
            stream.ask(pending.request, pending.missing())

    def _next_answer(self, stream: RolloutStream) -> Answer | None:
        self._heard = probed = time.monotonic()
        while True:
            self._ask_postponed(stream)
            try:
                answer = stream.next(POLL_S)
            except ServerBusyError as busy:
                self._postpone(busy)
                continue
            if answer is not None:
                return answer
            if self._backlog.closed:
                return None
            now = time.monotonic()
            if now - self._heard > self._caller.silence_s:
                raise ServerGoneError(f"no answer for {self._caller.silence_s:g} s")
            if now - probed > PROBE_EVERY_S:
                self._source.probe(stream)
                probed = now

    def _postpone(self, busy: ServerBusyError) -> None:
        """Keep a group that the server's queue had no room for; what it took is still drawn."""
        row = int(busy.request_id)
        if not self._postponed:
            self._caller.say(f"waiting for room in the rollout server's queue: {busy}")
        self._heard = time.monotonic()
        self._postponed[row] = self._heard + busy.retry_after_s

    def _ask_postponed(self, stream: RolloutStream) -> None:
        now = time.monotonic()
        for row in [row for row, due in self._postponed.items() if due <= now]:
            del self._postponed[row]
            self._heard = now
            stream.ask(self._asked[row].request, self._asked[row].missing())

    def _take(self, stream: RolloutStream, answer: Answer) -> Group | None:
        pending = self._asked.get(answer.row)
        if pending is None:
            return None  # the empty final answer of a group that is complete
        if len(answer.seeds):
            pending.add(answer, stream.behaviour.version)
        if not pending.missing():
            del self._asked[answer.row]
            self._backlog.handed_out()
            with suppress(AskAgainError):  # the next call meets it, and this group is whole
                self._ask_more(stream)
            return pending.group(time.monotonic() - self._backlog.started)
        if answer.final:
            raise ServerGoneError(
                f"the server ended a rollout with {len(pending.missing())} seeds unanswered"
            )
        return None

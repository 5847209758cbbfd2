"""Server and trainer on one card: one of them works at a time, and the other's weights wait in host memory.

Whoever works next says so first (`Turns`), so that the loop has no steps for it. The server's turn begins with a request
to it: the trainer's weights leave the card. The trainer's begins with a draw or an update: it waits until the server
has answered all that it was asked, has it rest, and only then takes its own weights back. So the card never holds both.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rich import filesize

from heliostat_engines.decoders import DecoderName
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.rollouts.service import NOTHING_TOLD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from heliostat_engines.adapters import AdapterFiles
    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.machine.given_back import GivenBack
    from heliostat_engines.machine.resting import Resting
    from heliostat_trainer.rollouts.service import RefusedPrompts, RolloutService, Scores, Told
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.types import Group, GroupRequest, PublishedAdapter, ServerInfo


@runtime_checkable
class CanRest(Protocol):
    """A service whose server gives its memory back when it is told to."""

    def rest(self) -> GivenBack:
        """Have all its models give their memory back, until the next request."""


class Turns:
    """Whose turn it is; the server's at first. Threads share it."""

    def __init__(self, rest: Callable[[], GivenBack], say: Callable[[str], None]) -> None:
        """`rest` has the server give its memory back; `say` is told, once, how much each gives."""
        self._rest = rest
        self._say = say
        self._changed = threading.Condition()
        self._resting: Resting | None = None
        self._asked = 0
        """Requests that the server has not answered in full."""
        self._working = False
        """Whether the trainer is within its turn."""
        self._server_rests = False
        self._told: set[str] = set()

    def hold(self, resting: Resting) -> None:
        """From now on these are the trainer's weights; they are on the card now."""
        self._resting = resting

    @contextmanager
    def of_server(self) -> Iterator[None]:
        """The server works: begins once the trainer's turn is over, with its weights away."""
        with self._changed:
            self._changed.wait_for(lambda: not self._working)
            if self._resting is not None and not self._resting.is_asleep:
                self._tell("trainer", self._resting.sleep())
            self._server_rests = False
            self._asked += 1
        try:
            yield
        finally:
            with self._changed:
                self._asked -= 1
                self._changed.notify_all()

    @contextmanager
    def of_trainer(self) -> Iterator[None]:
        """The trainer works: begins once the server has answered, with its models at rest."""
        with self._changed:
            self._changed.wait_for(lambda: not self._asked)
            if not self._server_rests:
                self._tell("server", self._rest())
                self._server_rests = True
            if self._resting is not None:
                self._resting.wake()
            self._working = True
        try:
            yield
        finally:
            with self._changed:
                self._working = False
                self._changed.notify_all()

    def _tell(self, who: str, given: GivenBack) -> None:
        if who in self._told or not given.memory_bytes:
            return
        self._told.add(who)
        self._say(
            f"taking turns on one device: the {who} gives {filesize.decimal(given.memory_bytes)} back "
            f"in {given.seconds:.1f} s"
        )


def turns_with(
    server: RolloutService, info: ServerInfo, ranks: int, say: Callable[[str], None]
) -> Turns | None:
    """The turns that a server on the trainer's card asks for; None: it has a card of its own.

    Raises:
        ConfigError: they cannot be taken with so many servers or ranks.
    """
    if not info.sleeps:
        return None
    if not isinstance(server, CanRest):
        raise ConfigError(
            "server.url names several servers, one of which takes turns with its trainer on one card "
            "(heliostat serve --sleep): give the URL of that one alone"
        )
    if ranks > 1:
        raise ConfigError(
            "the server takes turns with a trainer of one rank (heliostat serve --sleep): start "
            "`heliostat train` without torchrun, or the server without --sleep"
        )
    return Turns(server.rest, say)


def check_turns(config: TrainConfig, info: ServerInfo) -> None:
    """Refuse to explore ahead where the server cannot work beside the trainer. Raises ConfigError."""
    if info.sleeps and config.recipe.depth:
        raise ConfigError(
            f"recipe.explore_ahead = {config.recipe.explore_ahead}, but the server takes turns with the "
            "trainer on one card (heliostat serve --sleep): set it to 0"
        )


class TakingTurns:
    """A `RolloutService` each of whose requests is the server's turn."""

    def __init__(self, server: RolloutService, turns: Turns) -> None:
        self._server = server
        self._turns = turns

    def info(self) -> ServerInfo:
        """Model, limits and rewards: no model is asked."""
        return self._server.info()

    def publish(self, files: AdapterFiles, told: Told = NOTHING_TOLD) -> PublishedAdapter:
        """As `RolloutService.publish`: the server tries the adapter."""
        with self._turns.of_server():
            return self._server.publish(files, told)

    def explore(
        self, requests: Sequence[GroupRequest], adapter: PublishedAdapter
    ) -> Iterator[Group]:
        """As `RolloutService.explore`; the turn lasts until the last group."""
        with self._turns.of_server():
            yield from self._server.explore(requests, adapter)

    def score(
        self,
        latents: torch.Tensor,
        prompts: Sequence[str],
        rewards: Sequence[str],
        *,
        return_images: bool = False,
        decoder: DecoderName = DecoderName.FULL,
    ) -> Scores:
        """As `RolloutService.score`."""
        with self._turns.of_server():
            return self._server.score(
                latents, prompts, rewards, return_images=return_images, decoder=decoder
            )

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """As `RolloutService.encode`."""
        with self._turns.of_server():
            return self._server.encode(prompts)

    def refused_prompts(self, prompts: Sequence[str], rewards: Sequence[str]) -> RefusedPrompts:
        """As `RolloutService.refused_prompts`: the server loads the rewards."""
        with self._turns.of_server():
            return self._server.refused_prompts(prompts, rewards)

"""A model's weights, asleep while the trainer works on the server's card."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from heliostat_engines.machine.resting import Resting
from heliostat_server.errors import RequestError

if TYPE_CHECKING:
    from heliostat_engines.machine.given_back import GivenBack
    from heliostat_server.settings import ModelSettings


class Sleeper:
    """Sleeps when it is told to, and wakes for the next work. For the thread that works with the weights."""

    def __init__(self, model: str, resting: Resting | None = None) -> None:
        """Without `resting` it never sleeps."""
        self._resting = resting
        self._log = structlog.get_logger(model).bind(model=model)

    @classmethod
    def of(cls, settings: ModelSettings, model: str, *holders: object) -> Sleeper:
        """Of what the holders have on the models' device, if the server's settings let it sleep."""
        return cls(model, Resting(settings.torch_device, *holders) if settings.sleep else None)

    def sleep(self) -> GivenBack:
        """Give the memory back. Raises RequestError: this server does not sleep."""
        if self._resting is None:
            raise RequestError("this server keeps its memory: start it with --sleep")
        given = self._resting.sleep()
        self._log.info(
            "asleep", megabytes=given.memory_bytes // 10**6, seconds=round(given.seconds, 2)
        )
        return given

    @property
    def is_asleep(self) -> bool:
        """Whether the weights are away."""
        return self._resting is not None and self._resting.is_asleep

    def wake(self) -> None:
        """Have the weights back, if they are asleep."""
        if self._resting is not None and self._resting.is_asleep:
            self._resting.wake()
            self._log.info("awake")

"""What the engine says of itself, left in Redis by the explore model for the control plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from heliostat_engines.resolution import ResolutionPx  # noqa: TC001 (pydantic reads it)
from heliostat_engines.runtimes.engine import EngineInfo  # noqa: TC001 (pydantic reads it)
from heliostat_server.errors import UnavailableError
from heliostat_server.settings import LimitSettings  # noqa: TC001 (pydantic reads it)
from heliostat_server.store.keys import description_key
from heliostat_server.store.redis import answered, connect

if TYPE_CHECKING:
    from typing import Self


class ServerDescription(BaseModel):
    """The loaded engine, and what may be asked of it."""

    model_config = ConfigDict(frozen=True)

    engine: EngineInfo
    resolution_px: ResolutionPx
    rewards: tuple[str, ...]
    limits: LimitSettings
    checks_prompts: bool = False
    """Whether `score` can be asked which prompts rewards refuse: Tritons of before cannot."""
    scores_early: bool = False
    """Whether `explore` knows `score_after`: Tritons of before refuse it."""
    solvers: tuple[str, ...] = ()
    """What `explore` can be asked to draw with; none: it knows no `solver`, and draws by Euler's method."""
    decoders: tuple[str, ...] = ()
    """What may be asked to decode, the first where none is; none: no `decoder` is known."""

    sleeps: bool = False
    """Whether the models give their memory back when they are told to."""

    def write(self, redis_url: str) -> None:
        """Leave it for the control plane, replacing the one before. Raises UnavailableError."""
        with connect(redis_url) as client:
            answered(
                lambda: client.set(description_key(self.engine.family), self.model_dump_json())
            )

    @classmethod
    def read(cls, redis_url: str, family: str) -> Self:
        """What the explore model of that family left last. Raises UnavailableError."""
        with connect(redis_url) as client:
            text = answered(lambda: client.get(description_key(family)))
        if text is None:
            raise UnavailableError(
                f"no {family} engine is loaded yet: try again in a few seconds, or give the --family "
                "that the Triton server serves"
            )
        return cls.model_validate_json(text)

"""The training steps that trainers told of.

One entry of an experiment's stream an adapter:
version     that was published.
refit_s     until the engine had taken it.
report      a heliostat.v1.StepReport; empty: the adapter comes from no step that was told of.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from heliostat_proto import control_pb2 as messages
from heliostat_server.errors import StoreFullError
from heliostat_server.store.experiments import MAX_TUNED_CHARS
from heliostat_server.store.streams import Streams
from heliostat_wire.steps import StepReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from heliostat_server.store.streams import Row

MAX_STEPS = 2000
"""Of an experiment; older ones go."""


@dataclass(frozen=True)
class PublishedStep:
    """An adapter that was published, and the step that it comes from."""

    version: int
    refit_s: float
    """Until the engine had taken it."""
    report: StepReport | None = None
    """None: no step was told of."""


@dataclass(frozen=True)
class KeptStep:
    """What is in the stream, under its id there, which grows with time."""

    id: str
    published: PublishedStep


class RedisSteps:
    """The streams in Redis. Safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._streams = Streams(client, lambda keys: keys.steps)

    def add(self, experiment: str, step: PublishedStep) -> None:
        """Keep a step, unless the store has no room: what is published stays so. Raises UnavailableError."""
        report = b"" if step.report is None else _short(step.report).message().SerializeToString()
        fields: dict[str, str | bytes] = {
            "version": str(step.version),
            "refit_s": repr(step.refit_s),
            "report": report,
        }
        with suppress(StoreFullError):
            self._streams.add(experiment, fields, MAX_STEPS)

    def after(self, experiment: str, entry_id: str) -> Iterator[KeptStep]:
        """The steps after one, or with "" all, oldest first. Raises UnavailableError."""
        return map(_kept, self._streams.after(experiment, entry_id))


def _short(report: StepReport) -> StepReport:
    decided = report.decision
    if decided is None:
        return report
    return replace(report, decision=decided._replace(why=decided.why[:MAX_TUNED_CHARS]))


def _kept(row: Row) -> KeptStep:
    key, fields = row
    told = fields[b"report"]
    report = StepReport.read(messages.StepReport.FromString(told)) if told else None
    return KeptStep(
        key.decode(), PublishedStep(int(fields[b"version"]), float(fields[b"refit_s"]), report)
    )

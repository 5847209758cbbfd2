"""Our metrics on Triton's own /metrics page: one address for all, and no port for each model."""

from __future__ import annotations

from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import structlog
import triton_python_backend_utils as pb

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.samples import Sample

PUBLISH_INTERVAL_S = 1.0
CLOSE_TIMEOUT_S = 5.0


class TritonExporter:
    """Copies a registry's samples to Triton every second, in a thread of its own.

    Triton's Python backend knows counters and gauges: a histogram becomes its counters `_bucket`,
    `_sum` and `_count`, which Prometheus reads as a histogram all the same.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._families: dict[str, Any] = {}
        self._series: dict[tuple[str, tuple[tuple[str, str], ...]], _Series] = {}
        self._closing = Event()
        self._log = structlog.get_logger("metrics")
        self._thread = Thread(target=self._publish_all, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Publish no more."""
        self._closing.set()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _publish_all(self) -> None:
        while not self._closing.wait(PUBLISH_INTERVAL_S):
            try:
                self._publish()
            except Exception as error:
                self._log.exception("metrics could not be published", exc_info=error)

    def _publish(self) -> None:
        gone = set(self._series)
        for metric in self._registry.collect():
            for sample in metric.samples:
                if sample.name.endswith("_created"):
                    continue
                key = (sample.name, tuple(sample.labels.items()))
                if key not in self._series:
                    self._series[key] = self._open(sample, metric.type, metric.documentation)
                self._series[key].set(sample.value)
                gone.discard(key)
        for key in gone:
            del self._series[key]

    def _open(self, sample: Sample, kind: str, documentation: str) -> _Series:
        is_gauge = kind == "gauge"
        if sample.name not in self._families:
            self._families[sample.name] = pb.MetricFamily(
                name=sample.name,
                description=documentation,
                kind=pb.MetricFamily.GAUGE if is_gauge else pb.MetricFamily.COUNTER,
            )
        series = self._families[sample.name].Metric(labels=dict(sample.labels))
        return _Series(series, is_gauge=is_gauge)


class _Series:
    """One line of Triton's page."""

    def __init__(self, metric: Any, *, is_gauge: bool) -> None:
        self._metric = metric
        self._is_gauge = is_gauge
        self._value = 0.0

    def set(self, value: float) -> None:
        if self._is_gauge:
            self._metric.set(value)
        elif value != self._value:
            self._metric.increment(value - self._value)
        self._value = value

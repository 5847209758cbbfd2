"""Our metrics on Triton's own /metrics page: one address for all, and no port for each model."""

from __future__ import annotations

from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import structlog
import triton_python_backend_utils as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import CollectorRegistry

PUBLISH_INTERVAL_S = 1.0
CLOSE_TIMEOUT_S = 5.0

Labels = tuple[tuple[str, str], ...]


class TritonExporter:
    """Copies a registry's samples to Triton every second, in a thread of its own.

    Triton's Python backend knows counters and gauges: a histogram becomes its counters `_bucket`,
    `_sum` and `_count`, which Prometheus reads as a histogram all the same.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._families: dict[str, _Family] = {}
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
        values: dict[str, dict[Labels, float]] = {name: {} for name in self._families}
        for metric in self._registry.collect():
            for sample in metric.samples:
                if sample.name.endswith("_created"):
                    continue
                if sample.name not in self._families:
                    is_gauge = metric.type == "gauge"
                    self._families[sample.name] = _Family(
                        sample.name, metric.documentation, is_gauge=is_gauge
                    )
                series = values.setdefault(sample.name, {})
                series[tuple(sample.labels.items())] = sample.value
        for name, family in self._families.items():
            family.publish(values[name])


class _Family:
    """The lines of one name on Triton's page."""

    def __init__(self, name: str, description: str, *, is_gauge: bool) -> None:
        self._name = name
        self._description = description
        self._is_gauge = is_gauge
        self._family: Any = None
        self._series: dict[Labels, Any] = {}
        self._values: dict[Labels, float] = {}

    def publish(self, values: Mapping[Labels, float]) -> None:
        """Show these values and no others."""
        if self._series.keys() - values.keys():
            self._clear()
        if values and self._family is None:
            kind = pb.MetricFamily.GAUGE if self._is_gauge else pb.MetricFamily.COUNTER
            self._family = pb.MetricFamily(
                name=self._name, description=self._description, kind=kind
            )
        for labels, value in values.items():
            self._set(labels, value)

    def _set(self, labels: Labels, value: float) -> None:
        if labels not in self._series:
            self._series[labels] = self._family.Metric(labels=dict(labels))
        elif value == self._values[labels]:
            return
        if self._is_gauge:
            self._series[labels].set(value)
        else:
            self._series[labels].increment(value - self._values.get(labels, 0.0))
        self._values[labels] = value

    def _clear(self) -> None:
        """Take all lines off the page: Triton forgets a line only with its whole family."""
        self._series.clear()
        self._values.clear()
        self._family = None

"""What the explore service counts and times."""

from __future__ import annotations

import time
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from heliostat_server.scoring.metrics import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from heliostat_wire.errors import Code

MAX_EXPERIMENTS = 200
"""Experiments with series of their own: those that drew last."""
FORGET_AFTER_S = 3600.0
"""An experiment's series go this long after its last batch; its usage in Redis stays."""


class ExploreMetrics:
    """Prometheus metrics of one explore service, in a registry of their own. Safe to share."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = registry = CollectorRegistry()
        self._clock = clock
        self._lock = Lock()
        self._last_drawn: OrderedDict[str, float] = OrderedDict()
        by_experiment = ("experiment",)
        self._images = Counter(
            "heliostat_images", "Images denoised.", by_experiment, registry=registry
        )
        self._batches = Counter(
            "heliostat_batches", "Batches denoised.", by_experiment, registry=registry
        )
        self._nfes = Counter(
            "heliostat_nfes",
            "Evaluations of the transformer, counted for each image.",
            by_experiment,
            registry=registry,
        )
        self._engine_seconds = Counter(
            "heliostat_engine_seconds", "Seconds of the engine.", by_experiment, registry=registry
        )
        self._queue_seconds = Summary(
            "heliostat_queue_seconds",
            "Seconds from a request's arrival to its first batch.",
            by_experiment,
            registry=registry,
        )
        self._queued = Gauge(
            "heliostat_queued_images", "Images that wait.", by_experiment, registry=registry
        )
        self._backlog = Gauge(
            "heliostat_backlog_images", "Images that wait, of all experiments.", registry=registry
        )
        self._rejections = Counter(
            "heliostat_rejections", "Requests refused at arrival.", ("code",), registry=registry
        )
        self.batch_size = Gauge(
            "heliostat_batch_size", "Images that a batch has room for.", registry=registry
        )
        self.adapter_switches = Counter(
            "heliostat_adapter_switches",
            "Batches drawn under another adapter than the one before.",
            registry=registry,
        )
        self.refit_seconds = Histogram(
            "heliostat_refit_seconds",
            "Seconds to make an adapter resident.",
            buckets=SECONDS,
            registry=registry,
        )
        self.denoise_seconds = Histogram(
            "heliostat_denoise_seconds",
            "Seconds to denoise a batch.",
            buckets=SECONDS,
            registry=registry,
        )

    def started(self, experiment: str, waited_s: float) -> None:
        """A request's first batch is up."""
        with self._lock:
            self._touch(experiment)
            self._queue_seconds.labels(experiment).observe(waited_s)

    def drawn(self, experiment: str, images: int, nfes: int, seconds: float) -> None:
        """A batch is denoised."""
        with self._lock:
            self._touch(experiment)
            self._images.labels(experiment).inc(images)
            self._batches.labels(experiment).inc()
            self._nfes.labels(experiment).inc(nfes)
            self._engine_seconds.labels(experiment).inc(seconds)
        self.denoise_seconds.observe(seconds)

    def rejected(self, code: Code) -> None:
        """A request is refused at arrival."""
        self._rejections.labels(code.value).inc()

    def queued(self, images: Mapping[str, int]) -> None:
        """How many images of each experiment wait; what is not named has none."""
        self._backlog.set(sum(images.values()))
        with self._lock:
            for experiment in images:
                self._touch(experiment)
            self._forget_old()
            for experiment in self._last_drawn:
                self._queued.labels(experiment).set(images.get(experiment, 0))

    def _touch(self, experiment: str) -> None:
        self._last_drawn[experiment] = self._clock()
        self._last_drawn.move_to_end(experiment)
        if len(self._last_drawn) > MAX_EXPERIMENTS:
            self._remove(self._last_drawn.popitem(last=False)[0])

    def _forget_old(self) -> None:
        oldest = self._clock() - FORGET_AFTER_S
        for experiment in [name for name, at in self._last_drawn.items() if at < oldest]:
            del self._last_drawn[experiment]
            self._remove(experiment)

    def _remove(self, experiment: str) -> None:
        for metric in (
            self._images,
            self._batches,
            self._nfes,
            self._engine_seconds,
            self._queue_seconds,
            self._queued,
        ):
            metric.remove(experiment)

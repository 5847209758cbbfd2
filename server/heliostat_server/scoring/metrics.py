"""What the scorer times."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram

from heliostat_server.sampling.metrics import SECONDS


class ScoreMetrics:
    """Prometheus metrics of one scorer, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.decode_seconds = Histogram(
            "heliostat_decode_seconds",
            "Seconds to decode a batch of latents.",
            buckets=SECONDS,
            registry=registry,
        )
        self.reward_seconds = Histogram(
            "heliostat_reward_seconds",
            "Seconds to reward a batch of images.",
            ("reward",),
            buckets=SECONDS,
            registry=registry,
        )

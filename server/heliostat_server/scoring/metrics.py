"""What the scorer times."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


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

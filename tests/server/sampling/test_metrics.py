from __future__ import annotations

from heliostat_server.sampling.metrics import FORGET_AFTER_S, MAX_EXPERIMENTS, ExploreMetrics
from heliostat_wire.errors import Code


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def experiments(metrics: ExploreMetrics) -> set[str]:
    return {
        sample.labels["experiment"]
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if "experiment" in sample.labels
    }


def test_a_batch_counts_for_its_experiment() -> None:
    metrics = ExploreMetrics()
    metrics.drawn("a", images=4, nfes=24, seconds=0.5)
    metrics.drawn("a", images=4, nfes=48, seconds=0.25)
    metrics.rejected(Code.RESOURCE_EXHAUSTED)
    value = metrics.registry.get_sample_value
    assert value("heliostat_images_total", {"experiment": "a"}) == 8
    assert value("heliostat_nfes_total", {"experiment": "a"}) == 72
    assert value("heliostat_engine_seconds_total", {"experiment": "a"}) == 0.75
    assert value("heliostat_denoise_seconds_count") == 2
    assert value("heliostat_rejections_total", {"code": "RESOURCE_EXHAUSTED"}) == 1


def test_a_queue_that_is_empty_again_says_so() -> None:
    metrics = ExploreMetrics()
    for queued, shown in (({"a": 8}, 8), ({"b": 4}, 0), ({}, 0)):
        metrics.queued(queued)
        value = metrics.registry.get_sample_value("heliostat_queued_images", {"experiment": "a"})
        assert value == shown


def test_the_backlog_is_of_all_experiments_with_series_or_without() -> None:
    metrics = ExploreMetrics()
    metrics.queued({f"e{number}": 4 for number in range(3 * MAX_EXPERIMENTS)})
    value = metrics.registry.get_sample_value
    assert value("heliostat_backlog_images") == 12 * MAX_EXPERIMENTS
    metrics.queued({})
    assert value("heliostat_backlog_images") == 0


def test_experiments_with_series_are_bounded() -> None:
    metrics = ExploreMetrics()
    for number in range(MAX_EXPERIMENTS + 3):
        metrics.started(f"e{number}", 0.1)
        metrics.drawn(f"e{number}", 4, 24, 0.1)
    assert experiments(metrics) == {f"e{number}" for number in range(3, MAX_EXPERIMENTS + 3)}


def test_an_experiment_that_draws_no_more_is_forgotten() -> None:
    clock = FakeClock()
    metrics = ExploreMetrics(clock=clock)
    metrics.drawn("gone", 4, 24, 0.1)
    clock.now_s = FORGET_AFTER_S - 1
    metrics.queued({"waits": 4})
    assert experiments(metrics) == {"gone", "waits"}
    clock.now_s += 2
    metrics.queued({})
    assert experiments(metrics) == {"waits"}

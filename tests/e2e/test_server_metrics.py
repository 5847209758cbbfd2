"""One page of metrics, Triton's and ours, from a real tritonserver."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from heliostat_server.processes.state_folder import StateFolder
from tests.server.checkpoints import random_adapter
from tests.server.rollout_client import StreamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import ServerHarness
    from tests.server.rollout_client import RolloutClient

DASHBOARD = Path("docker/grafana/heliostat.json")
Series = tuple[str, frozenset[tuple[str, str]]]


def read_metrics(server: ServerHarness) -> dict[Series, float]:
    ports = server.record.ports
    assert ports is not None
    with urlopen(f"http://127.0.0.1:{ports.metrics}/metrics", timeout=10) as page:
        # Untyped, so that the parser leaves the names of counters as they are.
        text = re.sub("(?m)^# TYPE.*$", "", page.read().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def series(name: str, **labels: str) -> Series:
    return (name, frozenset(labels.items()))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


def draw(client: RolloutClient, experiment: str) -> None:
    client.publish(random_adapter(client.targets()), experiment)
    client.explore(range(8), experiment=experiment, version=1, steps=3, guidance=2.0)
    with pytest.raises(StreamError):
        client.explore(range(3), experiment=experiment)


def test_what_was_drawn_is_counted(server: ServerHarness, client: RolloutClient) -> None:
    draw(client, "counted")
    images = series("heliostat_images_total", experiment="counted")
    rewarded = series("heliostat_reward_seconds_count", reward="colourfulness")
    eventually(lambda: read_metrics(server).get(images) == 8)
    eventually(lambda: read_metrics(server).get(rewarded, 0) >= 2)
    metrics = read_metrics(server)
    assert metrics[series("heliostat_nfes_total", experiment="counted")] == 8 * 3 * 2
    assert metrics[series("heliostat_batches_total", experiment="counted")] == 2
    assert metrics[series("heliostat_engine_seconds_total", experiment="counted")] > 0
    assert metrics[series("heliostat_queue_seconds_count", experiment="counted")] == 1
    assert metrics[series("heliostat_queued_images", experiment="counted")] == 0
    assert metrics[series("heliostat_rejections_total", code="INVALID_ARGUMENT")] >= 1
    assert metrics[series("heliostat_batch_size")] == 4
    assert metrics[series("heliostat_adapter_switches_total")] >= 1
    assert metrics[series("heliostat_refit_seconds_count")] >= 1
    assert metrics[series("heliostat_decode_seconds_bucket", le="+Inf")] >= 2
    assert metrics[series("nv_inference_request_success", model="explore", version="1")] >= 1


def test_usage_is_kept_in_redis(server: ServerHarness, client: RolloutClient) -> None:
    draw(client, "billed")
    socket = StateFolder(server.settings.state).path / "redis.sock"
    with redis.Redis.from_url(f"unix://{socket}") as store:
        eventually(lambda: store.hget("heliostat:experiment:billed:usage", "images") == b"8")
        assert store.hget("heliostat:experiment:billed:usage", "nfes") == b"48"


def test_every_query_of_the_dashboard_names_a_metric_that_is_there(
    server: ServerHarness, client: RolloutClient
) -> None:
    draw(client, "dashboard")
    wanted = re.compile(r"\b(?:heliostat|nv)_[a-z_]+\b")
    queries = [
        target["expr"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", ())
    ]
    assert len(queries) >= 10
    named = {query: set(wanted.findall(query)) for query in queries}
    assert all(named.values())
    eventually(lambda: set().union(*named.values()) <= {name for name, _ in read_metrics(server)})


def test_counting_goes_on_after_a_models_process_died(
    server: ServerHarness, client: RolloutClient
) -> None:
    draw(client, "recovers")
    decoded = series("heliostat_decode_seconds_count")
    eventually(lambda: read_metrics(server).get(decoded, 0) >= 2)
    before = read_metrics(server)[decoded]
    killed = server.processes()["score"].pid
    server.kill("score")
    eventually(lambda: getattr(server.processes().get("score"), "pid", killed) != killed)
    deadline = time.monotonic() + 60
    while True:
        try:
            client.explore(range(8), experiment="recovers")
            break
        except StreamError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    eventually(lambda: read_metrics(server)[decoded] >= before + 2)

"""The benchmark of a loaded server, at its smallest: what it measures is there."""

from __future__ import annotations

import pytest

from tests.benchmarks.load import LIST, OF_ONE
from tests.benchmarks.scale import Sizes, measured
from tests.e2e.browser import CHROMIUM

pytestmark = pytest.mark.slow

SMALL = Sizes(
    experiments=6,
    drawing=2,
    publishers=2,
    adapter_mb=0.2,
    groups=60,
    minutes=0.5,
    steps=6,
    sample_s=1.0,
)


def test_a_small_load_is_measured() -> None:
    figures = measured(SMALL)
    assert figures["drawn"]["images_per_s"] > 0
    assert 0.5 < figures["drawn"]["jain"] <= 1
    for published in ("published_quiet", "published_under_load"):
        assert figures[published]["publish_mb_per_s"] > 0
    calls = {"Info", "GetExperiment", "ListEvents", "ChangeExperiment", LIST, OF_ONE}
    assert figures["calls"].keys() == calls
    assert figures["calls"][OF_ONE]["failed"] == 0
    assert {"launcher", "valkey", "triton", "explore", "score", "text_encoder"} <= set(
        figures["memory"]
    )
    if CHROMIUM is not None:
        assert all(page["worst_ms"] > 0 for page in figures["pages"].values())
    assert len(figures["aims"]) == 6

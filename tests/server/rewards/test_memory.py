from __future__ import annotations

from heliostat_server.rewards.demo import demo_judge
from heliostat_server.rewards.memory import weight_bytes


def test_shared_weights_count_once() -> None:
    clip, aesthetic = weight_bytes(["clipscore"]), weight_bytes(["aesthetic"])
    assert 1_700_000_000 < clip < aesthetic
    assert weight_bytes(["clipscore", "aesthetic"]) == aesthetic


def test_shipped_weights_are_those_of_the_file() -> None:
    assert weight_bytes(["demo_judge"]) == demo_judge.TRAINING.stat().st_size


def test_what_has_no_weights_or_is_not_known_counts_nothing() -> None:
    assert weight_bytes(["colourfulness", "somebody's own"]) == 0

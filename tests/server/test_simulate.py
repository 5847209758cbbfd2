from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.benchmarks.simulate import Settings, simulate

if TYPE_CHECKING:
    from heliostat_server.launcher.embedded_store import EmbeddedValkey

SMALL = Settings(replicas=4, experiments=24, seconds=120.0)


@pytest.fixture(scope="module")
def small(valkey: EmbeddedValkey) -> dict[str, Any]:
    return simulate(SMALL, valkey.url)


def test_everybody_is_drawn_though_replicas_go_and_come(small: dict[str, Any]) -> None:
    assert small["never_drawn"] == 0
    assert small["longest_unfinished_step_s"] < SMALL.seconds / 2
    assert small["batches"] > SMALL.replicas * SMALL.seconds / 4
    assert 0.3 < small["utilisation"] <= 1


def test_the_same_seed_gives_the_same_history(
    small: dict[str, Any], valkey: EmbeddedValkey
) -> None:
    again = simulate(SMALL, valkey.url)
    same = ("batches", "waiting_s", "step_s", "rate_of_weight", "adapter_loads_per_batch")
    assert [again[each] for each in same] == [small[each] for each in same]


def test_a_decision_costs_the_store_a_bounded_number_of_commands(small: dict[str, Any]) -> None:
    assert small["store"]["commands_per_decision"] < 30


def test_full_replicas_draw_all_the_time_and_equally(valkey: EmbeddedValkey) -> None:
    full = simulate(
        Settings(
            replicas=2, experiments=12, seconds=120.0, saturated=True, lost=0.0, burst=0.0, load_s=0
        ),
        valkey.url,
    )
    assert full["utilisation"] > 0.97
    assert min(full["jain_within_weight"].values()) > 0.9

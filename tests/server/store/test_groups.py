from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliostat_engines.resolution import Resolution, width_height
from heliostat_server.errors import NotFoundError
from heliostat_server.store import groups as module
from heliostat_server.store import streams
from heliostat_server.store.experiments import ExperimentStore
from heliostat_server.store.groups import Group, RedisGroups
from heliostat_server.store.stations import Spent, Station

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heliostat_server.launcher.embedded_store import EmbeddedValkey

KEY = "heliostat:experiment:e:groups"


def group(experiment: str = "e", candidates: int = 4, **changes: object) -> Group:
    fields: dict[str, object] = {
        "experiment": experiment,
        "version": 3,
        "prompt": "an owl on a <b>pink</b> background",
        "steps": 5,
        "guidance": 1.5,
        "names": ("judge", "colour"),
        "seeds": tuple(range(2**32 - candidates, 2**32)),
        "rewards": np.arange(2 * candidates, dtype=np.float32).reshape(-1, 2) / 3,
        "spent": Spent(
            1_790_000_000.25, 1_790_000_009.5, {Station.DENOISE: 7.25, Station.DECODE: 0.5}
        ),
    }
    return Group(**fields | changes)  # type: ignore[arg-type]


def same(left: Group, right: Group) -> bool:
    return (
        {name: value for name, value in vars(left).items() if name != "rewards"}
        == {name: value for name, value in vars(right).items() if name != "rewards"}
    ) and np.array_equal(left.rewards, right.rewards)


@pytest.fixture
def client(valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        ExperimentStore(client).create("e")
        yield client


def test_a_group_of_before_it_was_kept_what_one_took_is_read(client: redis.Redis) -> None:
    RedisGroups(client).add(group())
    ((_, fields),) = client.xrange(KEY)
    del fields[b"spent"]
    client.delete(KEY)
    client.xadd(KEY, fields)
    (kept,) = RedisGroups(client).latest("e", 10)
    assert same(kept.group, group(spent=None))


def test_a_group_comes_back_as_it_was(client: redis.Redis) -> None:
    groups = RedisGroups(client)
    groups.add(group())
    (kept,) = groups.latest("e", 10)
    assert same(kept.group, group())
    assert same(groups.get("e", kept.id).group, group())
    assert kept.group.aspect == 1.0


@pytest.mark.parametrize("resolution_px", [512, (832, 1216)])
def test_a_group_keeps_the_size_of_its_images(
    client: redis.Redis, resolution_px: Resolution
) -> None:
    groups = RedisGroups(client)
    groups.add(group(resolution_px=resolution_px))
    (kept,) = groups.latest("e", 10)
    assert same(kept.group, group(resolution_px=resolution_px))
    width, height = width_height(resolution_px)
    assert kept.group.aspect == height / width


def test_how_it_was_drawn_comes_back_and_older_groups_were_drawn_as_ever(
    client: redis.Redis,
) -> None:
    groups = RedisGroups(client)
    groups.add(group(score_after=3, solver="dpm2m", decoder="tiny"))
    (kept,) = groups.latest("e", 1)
    assert (kept.group.score_after, kept.group.solver) == (3, "dpm2m")
    assert kept.group.decoder == "tiny"
    ((_, fields),) = client.xrange(KEY)
    del fields[b"score_after"], fields[b"solver"], fields[b"decoder"]
    client.xadd(KEY, fields)
    (older,) = groups.latest("e", 1)
    assert same(older.group, group())


@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50),
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20, unique=True),
    reward=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_group_comes_back(
    client: redis.Redis, prompt: str, seeds: list[int], reward: float
) -> None:
    rewards = np.full((len(seeds), 1), reward, np.float32)
    written = group(prompt=prompt, seeds=tuple(seeds), rewards=rewards, names=("r",))
    groups = RedisGroups(client)
    groups.add(written)
    assert same(groups.latest("e", 1)[0].group, written)


def test_a_candidate_takes_twelve_bytes(client: redis.Redis) -> None:
    rewards = np.zeros((96, 1), np.float32)
    RedisGroups(client).add(group(candidates=96, rewards=rewards, names=("judge",)))
    ((_, fields),) = client.xrange(KEY)
    assert len(fields[b"seeds"]) + len(fields[b"rewards"]) == 96 * 12


def test_only_groups_of_experiments_are_kept_and_go_with_them(client: redis.Redis) -> None:
    groups = RedisGroups(client)
    groups.add(group("unknown"))
    groups.add(group())
    assert client.keys("heliostat:experiment:*:groups") == [KEY.encode()]
    ExperimentStore(client).delete("e")
    assert not client.exists(KEY)


def test_old_groups_go_and_large_ones_sooner(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GROUPS", 100)
    monkeypatch.setattr(module, "MAX_CANDIDATES", 400)
    groups = RedisGroups(client)
    for _ in range(400):
        groups.add(group())
    small = client.xlen(KEY)
    assert 100 <= small < 300  # Redis drops them by the hundred.
    for _ in range(200):
        groups.add(group(candidates=400))
    assert client.xlen(KEY) < small + 1


def test_reads_on_after_a_group_page_by_page(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PAGE", 3)
    groups = RedisGroups(client)
    for version in range(8):
        groups.add(group(version=version))
    everything = list(groups.after("e", ""))
    assert [kept.group.version for kept in everything] == list(range(8))
    assert [kept.group.version for kept in groups.after("e", everything[5].id)] == [6, 7]
    assert list(groups.after("e", everything[-1].id)) == []


@pytest.mark.parametrize("group_id", ["1-1", "99999999999999999999-1", "nonsense"])
def test_an_unknown_group_is_told_as_such(client: redis.Redis, group_id: str) -> None:
    with pytest.raises(NotFoundError, match="keeps no group"):
        RedisGroups(client).get("e", group_id)

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from heliostat_engines.adapters import AdapterFiles
from heliostat_server.adapters.store import AdapterStore
from heliostat_server.errors import NotFoundError, UnavailableError


def files(content: str) -> AdapterFiles:
    return AdapterFiles(b"{}", content.encode())


def publish(store: AdapterStore, experiment: str, content: str) -> int:
    return store.commit(experiment, store.stage(files(content)))


def test_versions_start_at_one_and_grow(store: AdapterStore) -> None:
    assert store.latest("a") == 0
    assert [publish(store, "a", text) for text in "xyz"] == [1, 2, 3]
    assert store.latest("a") == 3
    assert store.latest("b") == 0


def test_a_version_gives_its_bytes_back(store: AdapterStore) -> None:
    publish(store, "a", "x")
    assert store.fetch(store.resolve("a", 1)) == files("x")


def test_publishing_the_latest_again_keeps_its_version(store: AdapterStore) -> None:
    assert [publish(store, "a", "x"), publish(store, "a", "x")] == [1, 1]
    assert publish(store, "a", "y") == 2
    assert publish(store, "a", "x") == 3


def test_only_the_last_versions_are_kept(store: AdapterStore) -> None:
    for text in "vwxyz":
        publish(store, "a", text)
    assert store.fetch(store.resolve("a", 3)) == files("x")
    with pytest.raises(NotFoundError, match=r"version 2 .* is no longer kept, only 3, 4, 5"):
        store.resolve("a", 2)


def test_dropped_bytes_expire_unless_another_experiment_has_them(store: AdapterStore) -> None:
    publish(store, "b", "v")
    for text in "vwxyz":
        publish(store, "a", text)
    ttl = {text: store._redis.ttl(f"heliostat:adapter:{files(text).sha256}") for text in "vwz"}
    assert ttl["v"] == ttl["z"] == -1
    assert 0 < ttl["w"] <= 3600


def test_unknown_versions_say_what_there_is(store: AdapterStore) -> None:
    with pytest.raises(NotFoundError, match="'a' has published no adapter"):
        store.resolve("a", 1)
    publish(store, "a", "x")
    with pytest.raises(NotFoundError, match=r"version 7 .* never published: the latest is 1"):
        store.resolve("a", 7)


def test_what_is_not_staged_cannot_be_committed(store: AdapterStore) -> None:
    with pytest.raises(NotFoundError, match="no adapter 00 is staged"):
        store.commit("a", "00")
    assert store.latest("a") == 0


def test_staged_bytes_expire_and_committed_ones_do_not(store: AdapterStore) -> None:
    sha256 = store.stage(files("x"))
    key = f"heliostat:adapter:{sha256}"
    assert 0 < store._redis.ttl(key) <= 600
    store.commit("a", sha256)
    assert store._redis.ttl(key) == -1
    store.stage(files("x"))
    assert store._redis.ttl(key) == -1


def test_discard_takes_staged_bytes_only(store: AdapterStore) -> None:
    staged = store.stage(files("x"))
    publish(store, "a", "y")
    store.discard(staged)
    store.discard(files("y").sha256)
    with pytest.raises(NotFoundError):
        store.fetch(staged)
    assert store.fetch(files("y").sha256) == files("y")


def test_damaged_bytes_are_not_handed_out(store: AdapterStore) -> None:
    sha256 = store.stage(files("x"))
    store._redis.hset(f"heliostat:adapter:{sha256}", "0", b"other")
    with pytest.raises(NotFoundError, match="damaged"):
        store.fetch(sha256)


def test_publishing_at_once_gives_each_its_own_version(store: AdapterStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda number: publish(store, "a", str(number)), range(24)))
    assert sorted(versions) == list(range(1, 25))


def test_a_store_that_is_gone_is_said_so() -> None:
    with pytest.raises(UnavailableError, match="the server's store does not answer"):
        AdapterStore.connect("redis://127.0.0.1:1").latest("a")

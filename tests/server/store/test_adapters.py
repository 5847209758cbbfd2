from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from heliostat_engines.adapters import AdapterFiles
from heliostat_server.errors import NotFoundError, RequestError, UnavailableError
from heliostat_server.store.adapters import MAX_PINNED, AdapterStore
from heliostat_server.store.tensors import DROPPED_TTL_S, STAGED_TTL_S


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
    assert 0 < ttl["w"] <= DROPPED_TTL_S


def test_dropped_bytes_stay_as_long_as_they_are_read(store: AdapterStore) -> None:
    sha256 = store.stage(files("x"))
    key = f"heliostat:adapter:{sha256}"
    store._redis.expire(key, 5)
    assert store.fetch(sha256) == files("x")
    assert store._redis.ttl(key) >= DROPPED_TTL_S


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
    assert DROPPED_TTL_S < store._redis.ttl(key) <= STAGED_TTL_S
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


def test_large_adapters_are_kept_in_pieces(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliostat_server.store.chunks.CHUNK_BYTES", 4)
    sha256 = store.stage(files("0123456789"))
    assert store._redis.hlen(f"heliostat:adapter:{sha256}") == 3 + len(
        ("config", "bytes", "chunks")
    )
    assert store.fetch(sha256) == files("0123456789")


def test_what_is_half_staged_is_not_there(store: AdapterStore) -> None:
    sha256 = files("x").sha256
    store._redis.hset(f"heliostat:adapter:{sha256}", "0", b"x")
    with pytest.raises(NotFoundError, match="no adapter"):
        store.commit("a", sha256)
    with pytest.raises(NotFoundError):
        store.fetch(sha256)
    assert store.fetch(store.stage(files("x"))) == files("x")


def test_a_pinned_version_stays_until_it_is_unpinned(store: AdapterStore) -> None:
    publish(store, "a", "u")
    store.pin("a", 1)
    for text in "vwxyz":
        publish(store, "a", text)
    assert store.fetch(store.resolve("a", 1)) == files("u")
    store.unpin("a", 1)
    publish(store, "a", "last")
    with pytest.raises(NotFoundError, match="no longer kept"):
        store.resolve("a", 1)


def test_pins_are_bounded_and_of_kept_versions(store: AdapterStore) -> None:
    for version in range(1, MAX_PINNED + 1):
        publish(store, "a", str(version))
        store.pin("a", version)
    publish(store, "a", "more")
    with pytest.raises(RequestError, match="unpin one first"):
        store.pin("a", MAX_PINNED + 1)
    with pytest.raises(NotFoundError, match="never published"):
        store.pin("a", 99)


def test_a_version_that_is_rolled_back_to_is_the_next_one(store: AdapterStore) -> None:
    for text in "xyz":
        publish(store, "a", text)
    assert store.roll_back("a", 2) == (4, files("y").sha256)
    assert store.fetch(store.resolve("a", 4)) == files("y")
    assert store.roll_back("a", 4) == (4, files("y").sha256)
    with pytest.raises(NotFoundError):
        store.roll_back("a", 1)


def test_only_experiments_that_are_there_have_versions(store: AdapterStore) -> None:
    with pytest.raises(NotFoundError, match="there is no experiment 'x'"):
        publish(store, "x", "y")

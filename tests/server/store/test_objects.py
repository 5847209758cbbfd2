from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import fsspec
import pytest
import redis

from heliostat_engines.adapters import AdapterFiles
from heliostat_server.errors import NotFoundError, UnavailableError
from heliostat_server.store.adapters import AdapterStore
from heliostat_server.store.experiments import ExperimentStore
from heliostat_server.store.keys import OBJECTS, adapter_keys
from heliostat_server.store.tensors import DROPPED_TTL_S, STAGED_TTL_S
from tests.server.store.buckets import BUCKET, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from heliostat_server.launcher.embedded_store import EmbeddedValkey


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture(params=["file", "s3"])
def url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}"
        return
    for name, value in request.getfixturevalue("s3").items():
        monkeypatch.setenv(name, value)
    yield f"s3://{BUCKET}/adapters"
    files, root = fsspec.url_to_fs(f"s3://{BUCKET}")
    for path in files.find(root):
        files.rm_file(path)


@pytest.fixture
def objects(store: AdapterStore, valkey: EmbeddedValkey, url: str) -> Iterator[AdapterStore]:
    """A store with its tensors there, on the emptied Redis of `store`."""
    store = AdapterStore.connect(valkey.url, adapters_url=url)
    yield store
    store.close()


def files(content: str) -> AdapterFiles:
    return AdapterFiles(b"{}", content.encode() * 100)


def publish(store: AdapterStore, content: str, experiment: str = "a") -> int:
    return store.commit(experiment, store.stage(files(content)))


def there(url: str) -> dict[str, bytes]:
    """name -> what each object under a URL holds."""
    system, root = fsspec.url_to_fs(url)
    return {path.rpartition("/")[2]: system.cat_file(path) for path in system.find(root)}


def look_at_all(store: AdapterStore, *, at: float = 0.0) -> None:
    """Have the time come at which all objects are looked at."""
    for name in store._redis.zrange(OBJECTS, 0, -1):
        store._redis.zadd(OBJECTS, {name: at})


def forget(store: AdapterStore, content: str) -> None:
    """What Redis does with a record whose time is over."""
    store._redis.delete(adapter_keys(files(content).sha256)[0])


def test_tensors_are_objects_and_the_rest_is_in_redis(objects: AdapterStore, url: str) -> None:
    publish(objects, "x")
    sha256 = objects.resolve("a", 1)
    assert objects.fetch(sha256) == files("x")
    (name,) = there(url)
    assert name.startswith(sha256)
    assert there(url)[name] == files("x").tensors
    record = objects._redis.hgetall(adapter_keys(sha256)[0])
    assert record == {
        b"config": b"{}",
        b"bytes": b"100",
        b"object": name.encode(),
        b"chunks": b"0",
    }


def test_another_replica_reads_what_one_was_given(
    objects: AdapterStore, valkey: EmbeddedValkey, url: str
) -> None:
    publish(objects, "x")
    with redis.Redis.from_url(valkey.url) as client:
        other = AdapterStore(client, adapters_url=url)
        assert other.fetch(other.resolve("a", 1)) == files("x")


def test_what_was_published_into_redis_is_still_read(
    store: AdapterStore, objects: AdapterStore
) -> None:
    publish(store, "x")
    publish(objects, "y")
    assert objects.fetch(objects.resolve("a", 1)) == files("x")
    assert objects.fetch(objects.resolve("a", 2)) == files("y")
    with pytest.raises(UnavailableError, match="with the adapters_url that it was published with"):
        store.fetch(store.resolve("a", 2))


def test_publishing_the_same_again_writes_no_second_object(objects: AdapterStore, url: str) -> None:
    assert [publish(objects, "x"), publish(objects, "x"), publish(objects, "x", "b")] == [1, 1, 1]
    assert len(there(url)) == 1


def test_objects_go_when_the_store_forgets_them_and_no_sooner(
    objects: AdapterStore, url: str
) -> None:
    for text in "vwxyz":
        publish(objects, text)
    look_at_all(objects)
    assert objects.sweep() == 0  # dropped versions stay an hour, for rollouts that began before
    assert len(there(url)) == 5
    # Only what was dropped is looked at again: not all that is kept, at every sweep.
    assert objects._redis.zcard(OBJECTS) == 2
    for text in "vw":
        forget(objects, text)
    look_at_all(objects)
    assert objects.sweep() == 2
    assert sorted(there(url).values()) == sorted(files(text).tensors for text in "xyz")
    assert objects._redis.zcard(OBJECTS) == 0


def test_objects_go_with_their_experiment(objects: AdapterStore, url: str) -> None:
    publish(objects, "x")
    look_at_all(objects)
    assert objects.sweep() == 0
    ExperimentStore(objects._redis).delete("a")
    (due,) = dict(objects._redis.zrange(OBJECTS, 0, -1, withscores=True)).values()
    assert due > time.time() + DROPPED_TTL_S - 60
    forget(objects, "x")
    look_at_all(objects)
    assert objects.sweep() == 1
    assert there(url) == {}


def test_a_refused_adapter_goes_at_once(objects: AdapterStore, url: str) -> None:
    objects.discard(objects.stage(files("x")))
    assert objects.sweep() == 1
    assert there(url) == {}
    with pytest.raises(NotFoundError):
        objects.fetch(files("x").sha256)
    assert publish(objects, "x") == 1
    assert objects.fetch(files("x").sha256) == files("x")


def test_a_writing_that_is_broken_off_leaves_no_adapter_and_no_object(
    objects: AdapterStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert objects._objects is not None

    def write_half(name: str, data: bytes) -> None:
        write(name, data[:10])
        raise KeyboardInterrupt

    write = objects._objects._bucket.write
    with monkeypatch.context() as patch:
        patch.setattr(objects._objects._bucket, "write", write_half)
        with pytest.raises(KeyboardInterrupt):
            objects.stage(files("x"))
    with pytest.raises(NotFoundError, match="is staged"):
        objects.commit("a", files("x").sha256)
    assert publish(objects, "x") == 1
    look_at_all(objects)
    assert objects.sweep() == 1
    assert list(there(url).values()) == [files("x").tensors]


def test_who_publish_the_same_at_once_lose_nothing(objects: AdapterStore, url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda experiment: publish(objects, "x", experiment), "abe"))
    look_at_all(objects)
    objects.sweep()
    assert objects.fetch(files("x").sha256) == files("x")
    assert len(there(url)) == 1


def test_what_heliostat_did_not_write_stays(objects: AdapterStore, url: str) -> None:
    system, root = fsspec.url_to_fs(url)
    system.pipe_file(f"{root}/mine", b"mine")
    objects._redis.zadd(OBJECTS, {"mine": 0, "../mine": 0})
    objects.sweep()
    assert there(url) == {"mine": b"mine"}


def test_damaged_and_missing_objects_are_not_handed_out(objects: AdapterStore, url: str) -> None:
    publish(objects, "x")
    (name,) = there(url)
    system, root = fsspec.url_to_fs(url)
    for damage in (
        lambda: system.pipe_file(f"{root}/{name}", b"other"),
        lambda: system.rm_file(f"{root}/{name}"),
    ):
        damage()
        with pytest.raises(NotFoundError, match=r"is damaged, .*: publish it again"):
            objects.fetch(files("x").sha256)


def test_staged_objects_are_looked_at_when_their_time_is_over(objects: AdapterStore) -> None:
    sha256 = objects.stage(files("x"))
    (due,) = dict(objects._redis.zrange(OBJECTS, 0, -1, withscores=True)).values()
    assert due == pytest.approx(time.time() + STAGED_TTL_S, abs=60)
    assert 0 < objects._redis.ttl(adapter_keys(sha256)[0]) <= STAGED_TTL_S

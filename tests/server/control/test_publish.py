from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING

import pytest

from heliostat_engines.adapters import AdapterFiles
from heliostat_engines.errors import AdapterError
from heliostat_proto.control_pb2 import PublishRequest
from heliostat_proto.rollout_pb2 import LoadReport
from heliostat_server.control.publisher import Publisher
from heliostat_server.control.upload import receive_adapter, receive_header
from heliostat_server.errors import NotFoundError, RequestError
from tests.server.checkpoints import random_adapter
from tests.server.rollout_client import publish_parts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heliostat_server.store.adapters import AdapterStore

ADAPTER = random_adapter({"block": (8, 8)})
MAX_BYTES = 2**20


class Loader:
    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal = refusal
        self.asked, self.go_on = Event(), Event()
        self.go_on.set()

    def load_adapter(self, sha256: str, timeout_s: float) -> LoadReport:  # noqa: ARG002
        self.asked.set()
        assert self.go_on.wait(60)
        if self.refusal is not None:
            raise self.refusal
        return LoadReport(bound_modules=1, target_modules=1)


def receive(parts: Iterable[PublishRequest]) -> tuple[str, AdapterFiles]:
    stream = iter(parts)
    header = receive_header(stream, MAX_BYTES)
    return header.experiment, receive_adapter(header, stream)


def test_receives_what_was_sent() -> None:
    parts = publish_parts(ADAPTER, "e", chunk_bytes=100)
    assert receive(parts) == ("e", ADAPTER)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "first message of Publish must be the header"),
        (publish_parts(ADAPTER, "e")[1:], "first message of Publish must be the header"),
        (publish_parts(ADAPTER, "e")[:1] * 2, "chunks only"),
        (publish_parts(ADAPTER, "e", 100)[:-1], "truncated: .* bytes arrived"),
        (publish_parts(ADAPTER, "e", tensor_bytes=10), "more than the announced 10 bytes"),
        (publish_parts(ADAPTER, "e", tensor_bytes=2**21), "2097152 bytes, the server takes up to"),
        (publish_parts(ADAPTER, "e", tensor_bytes=0), "announces no tensors"),
        (publish_parts(ADAPTER, "e", sha256="00"), "its header says 00"),
        (publish_parts(ADAPTER, "a b"), "no experiment name"),
        (publish_parts(ADAPTER, "e", config=b" " * (2**20 + 1)), "adapter_config.json has"),
    ],
)
def test_refuses_broken_uploads(parts: list[PublishRequest], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        receive(parts)


def test_publishes_what_the_engine_takes(store: AdapterStore) -> None:
    published = Publisher(store, Loader()).publish("e", ADAPTER)
    assert (published.version, published.bound_modules) == (1, 1)
    assert store.fetch(store.resolve("e", 1)) == ADAPTER


def test_a_refusal_leaves_the_store_as_it_was(store: AdapterStore) -> None:
    with pytest.raises(RequestError, match="bound 1 of 2"):
        Publisher(store, Loader(RequestError("bound 1 of 2"))).publish("e", ADAPTER)
    assert store.latest("e") == 0
    with pytest.raises(NotFoundError):
        store.fetch(ADAPTER.sha256)


def test_what_is_no_adapter_never_reaches_the_store(store: AdapterStore) -> None:
    broken = AdapterFiles(ADAPTER.config, ADAPTER.tensors[:-8])
    with pytest.raises(AdapterError, match="no whole safetensors file"):
        Publisher(store, Loader()).publish("e", broken)
    assert store._redis.keys("heliostat:adapter:*") == []

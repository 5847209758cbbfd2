from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from heliostat_server.launcher.embedded_store import EmbeddedValkey
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.store.adapters import AdapterStore
from heliostat_server.store.experiments import ExperimentStore

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    state = StateFolder(tmp_path_factory.mktemp("state"))
    embedded = EmbeddedValkey(state)
    embedded.start()
    yield embedded
    embedded.stop()


@pytest.fixture
def store(valkey: EmbeddedValkey) -> Iterator[AdapterStore]:
    store = AdapterStore.connect(valkey.url)
    store._redis.flushall()
    for name in "abe":
        ExperimentStore(store._redis).create(name)
    yield store
    store.close()

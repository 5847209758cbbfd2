from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from heliostat_engines.adapters import AdapterFiles
from heliostat_server.launcher.embedded_store import EmbeddedValkey
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.store.adapters import AdapterStore
from heliostat_server.store.experiments import ExperimentStore

if TYPE_CHECKING:
    from pathlib import Path


def test_the_embedded_store_keeps_all_over_a_kill_in_a_deep_folder(tmp_path: Path) -> None:
    valkey = EmbeddedValkey(StateFolder(tmp_path / ("deep" * 30)))
    valkey._state.path.mkdir()
    valkey.start()
    store = AdapterStore.connect(valkey.url)
    ExperimentStore(store._redis).create("e")
    assert store.commit("e", store.stage(AdapterFiles(b"{}", b"x"))) == 1
    assert valkey.id is not None
    os.kill(valkey.id.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while valkey.is_running() and time.monotonic() < deadline:
        time.sleep(0.01)
    valkey.start()
    assert store.latest("e") == 1
    store.close()
    valkey.stop()

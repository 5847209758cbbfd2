from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psutil
import pytest

from heliostat_engines.adapters import AdapterFiles
from heliostat_engines.errors import FilesError
from heliostat_engines.files.atomic import atomic_folder
from heliostat_engines.files.ownership import MARKER
from heliostat_engines.precisions import MapName, Precision
from heliostat_server.errors import ServerRunningError, ServerStartError
from heliostat_server.launcher.embedded_store import EmbeddedValkey
from heliostat_server.launcher.staging import STAGED
from heliostat_server.processes.ports import free_ports, is_free
from heliostat_server.processes.processes import ProcessId, kill_running, spawn, stop
from heliostat_server.processes.state_folder import ServerRecord, StateFolder
from heliostat_server.settings import (
    AskedLimits,
    LimitSettings,
    ModelSettings,
    ServeSettings,
    ThreadSettings,
)
from heliostat_server.store.adapters import AdapterStore
from heliostat_server.store.experiments import ExperimentStore
from heliostat_server.triton import installation
from heliostat_server.triton.installation import BACKENDS, check_numpy, find_triton
from heliostat_server.triton.repository import MODELS, stage_repository
from heliostat_server.triton.shared_memory import prefix_of, sweep

if TYPE_CHECKING:
    from pathlib import Path


def record(**changes: object) -> ServerRecord:
    launcher = ProcessId.of(os.getpid())
    return ServerRecord(launcher=launcher, started=datetime.now(UTC)).model_copy(update=changes)


def test_a_second_server_is_told_who_runs_where(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    words = rf"in use by process {os.getpid()} on .*`heliostat serve`.* answers at 127.0.0.1:8600"
    with state.locked(pytest.fail):
        state.write_record(record(control="127.0.0.1:8600"))
        with (
            pytest.raises(ServerRunningError, match=words),
            StateFolder(tmp_path / "state").locked(pytest.fail),
        ):
            pass
    with state.locked(pytest.fail):
        pass


def test_a_state_folder_is_new_empty_or_a_servers(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    (foreign / "models").mkdir(parents=True)
    (foreign / "models" / "mine").write_text("x")
    with (
        pytest.raises(FilesError, match=r"foreign holds models, .*: give another .*--state"),
        StateFolder(foreign).locked(pytest.fail),
    ):
        pass
    assert [path.name for path in foreign.rglob("*")] == ["models", "mine"]
    earlier = tmp_path / "earlier"
    for folder in ("models", "backends", "redis"):
        (earlier / folder).mkdir(parents=True)
    for file in ("lock", "server.json", "models.json", "admin.token", "triton.log", "serve.log"):
        (earlier / file).touch()
    for path in (earlier, tmp_path / "new"):
        for _ in range(2):
            with StateFolder(path).locked(pytest.fail):
                (path / "whatever").touch()


def test_models_and_backends_of_others_are_left(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    state.claim()
    for folder, layout in ((state.models, STAGED), (state.backends, BACKENDS)):
        with atomic_folder(folder, layout) as draft:
            (draft / "ours").touch()
        (folder / "mine").touch()
        with pytest.raises(FilesError, match="holds mine"), atomic_folder(folder, layout):
            pass
        assert (folder / "mine").exists()


def test_a_record_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    assert state.read_record() is None
    (tmp_path / "server.json").write_text("{")
    assert state.read_record() is None
    state.write_record(written := record())
    assert state.read_record() == written


def test_a_process_is_itself_and_no_later_one_of_its_pid() -> None:
    us = ProcessId.of(os.getpid())
    assert us.find() is not None
    assert us.model_copy(update={"created": us.created - 100}).find() is None


def test_a_spawned_process_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import os, sys, signal, time; from pathlib import Path;"
        "from heliostat_server.processes.processes import spawn;"
        "child = spawn(['sleep', '60'], Path(sys.argv[1]), signal.SIGKILL, os.environ);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "log")], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_stop_kills_what_does_not_listen_and_its_children(tmp_path: Path) -> None:
    command = ["sh", "-c", "trap '' TERM; sleep 60 & wait; sleep 60"]
    child = spawn(command, tmp_path / "log", signal.SIGKILL, os.environ)
    deadline = time.monotonic() + 5
    while not (family := psutil.Process(child.pid).children()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert stop(ProcessId.of(child.pid), grace_s=0.2)
    child.wait()
    assert not any(process.is_running() for process in family)


def test_free_ports_are_free_and_taken_ones_are_not() -> None:
    first, second = free_ports(2)
    assert first != second
    with socket.create_server(("127.0.0.1", first)):
        assert not is_free(first)
    assert is_free(second)


def test_the_sweep_takes_only_regions_of_its_prefix(tmp_path: Path) -> None:
    ours, others = prefix_of("a" * 16), prefix_of("b" * 16)
    for name in (f"{ours}1", f"{ours}2", f"{others}1", "psm_1"):
        (tmp_path / name).touch()
    assert sweep(ours, tmp_path) == 2
    assert {path.name for path in tmp_path.iterdir()} == {f"{others}1", "psm_1"}


def test_numpy_2_is_refused_in_a_sentence() -> None:
    check_numpy("1.26.4")
    with pytest.raises(
        ServerStartError, match=r"numpy 2.1.0 does not work .* pip install 'numpy<2'"
    ):
        check_numpy("2.1.0")


def test_a_missing_binary_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match=r"there is no .*nowhere"):
        find_triton(tmp_path / "nowhere", tmp_path)


def test_the_wheels_backend_gets_the_stub_of_this_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation.shutil, "which", lambda _: None)
    found = find_triton(None, tmp_path / "backends")
    assert found.binary.exists()
    assert {path.name for path in (tmp_path / "backends" / "python").iterdir()} == {
        "libtriton_python.so",
        "triton_python_backend_stub",
        "triton_python_backend_utils.py",
    }
    # What Python leaves there while it runs, and what versions before markers left.
    (tmp_path / "backends" / "python" / "__pycache__").mkdir()
    (tmp_path / "backends" / "python" / "__pycache__" / "utils.cpython-311.pyc").touch()
    find_triton(None, tmp_path / "backends")
    (tmp_path / "backends" / MARKER).unlink()
    find_triton(None, tmp_path / "backends")
    environment = found.environment()
    assert environment["PATH"].startswith(os.path.dirname(sys.executable))  # noqa: PTH120
    assert "nvidia_pytriton.libs" in environment["LD_LIBRARY_PATH"]


def test_the_repository_is_filled_in(tmp_path: Path) -> None:
    settings = ModelSettings(
        family="demo",
        checkpoint="weights",
        resolution_px=64,
        precision=Precision.NVFP4,
        precision_map=MapName.PUBLISHED,
        device="gpu",
        max_rank=8,
        slots=2,
        limits=LimitSettings(batch=24),
        threads=ThreadSettings.for_cores(2),
        redis="redis://localhost",
        keep_versions=3,
        internal_token="internal",
    )
    with atomic_folder(tmp_path / "models", STAGED) as draft:
        stage_repository(draft, tmp_path / "models", tmp_path / "models.json", settings, 3)
    assert (tmp_path / "models.json").stat().st_mode & 0o777 == 0o600
    read_back = ModelSettings.model_validate_json((tmp_path / "models.json").read_text())
    assert read_back == settings
    for model in MODELS:
        config = (tmp_path / "models" / model / "config.pbtxt").read_text()
        assert "kind: KIND_GPU count: 1 gpus: [ 0 ] }" in config
        assert str(tmp_path / "models.json") in config
        assert "$" not in config.split("\n", 1)[1]
        assert (tmp_path / "models" / model / "1" / "model.py").exists()
    (tmp_path / "models" / MARKER).unlink()
    with atomic_folder(tmp_path / "models", STAGED) as draft:
        stage_repository(draft, tmp_path / "models", tmp_path / "models.json", settings, 3)
    assert "dims: [ -1, -1, -1 ]" in (tmp_path / "models/score/config.pbtxt").read_text()


def test_scoring_gets_half_of_the_threads_unless_told() -> None:
    assert ServeSettings(threads=8).thread_settings().score == 4
    assert ServeSettings(threads=1).thread_settings() == ThreadSettings(explore=1, score=1)
    assert ServeSettings(threads=8, score_threads=1).thread_settings().score == 1


def test_another_triton_needs_the_redis_of_its_models() -> None:
    with pytest.raises(ValueError, match="--triton-url needs --redis"):
        ServeSettings(triton_url="127.0.0.1:8001")


def test_an_unknown_setting_is_an_error() -> None:
    with pytest.raises(ValueError, match="batchs"):
        ServeSettings.model_validate({"batchs": 4})


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


def test_processes_started_on_a_folders_files_are_killed_and_no_others(tmp_path: Path) -> None:
    for name in ("models", "models-of-another"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.py").write_text("import time\ntime.sleep(60)\n")
    doomed, spared = (
        subprocess.Popen([sys.executable, str(tmp_path / name / "model.py")])
        for name in ("models", "models-of-another")
    )
    try:
        assert kill_running(tmp_path / "models") == 1
        assert doomed.wait(10) == -signal.SIGKILL
        assert spared.poll() is None
    finally:
        spared.kill()
        spared.wait()


def test_a_server_that_is_told_no_batch_takes_its_familys() -> None:
    assert ServeSettings(limits=AskedLimits(max_steps=9)).limits.of(8) == LimitSettings(
        batch=8, max_steps=9
    )
    assert AskedLimits(batch=4).of(8).batch == 4

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from heliostat_engines.compiling.cache import EngineCache
from heliostat_engines.compiling.digests import FileDigests, source_digest
from heliostat_engines.errors import FilesError
from heliostat_engines.files.ownership import MARKER
from heliostat_engines.plans.manifest import MANIFEST_FILE

KEY = "0123abcd"
SLOW_BUILD = """
import sys, time
from pathlib import Path
from heliostat_engines.compiling.cache import EngineCache
with EngineCache(Path(sys.argv[1])).staging("0123abcd") as folder:
    (folder / "transformer.plan").write_bytes(b"half")
    print("building", flush=True)
    time.sleep(60)
"""


def test_a_build_appears_whole(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    assert cache.find(KEY) is None
    with cache.staging(KEY) as folder:
        (folder / MANIFEST_FILE).write_text("{}")
        assert cache.find(KEY) is None
    found = cache.find(KEY)
    assert found is not None
    assert (found / MANIFEST_FILE).read_text() == "{}"


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)

    def fail() -> None:
        with cache.staging(KEY) as folder:
            (folder / MANIFEST_FILE).write_text("{}")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert cache.find(KEY) is None
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


def test_a_killed_build_is_no_engine_and_is_cleared_away(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    cache = EngineCache(tmp_path)
    assert cache.find(KEY) is None
    assert len(list(tmp_path.iterdir())) == 2
    with cache.staging(KEY) as folder:
        (folder / MANIFEST_FILE).write_text("{}")
    assert {path.name for path in tmp_path.iterdir()} == {KEY, MARKER}


def test_what_is_no_cache_of_engines_is_left(tmp_path: Path) -> None:
    (tmp_path / "digests.json.mine").write_text("x")
    with pytest.raises(FilesError, match=r"holds digests.json.mine.*--cache"):
        EngineCache(tmp_path).claim()
    assert [path.name for path in tmp_path.iterdir()] == ["digests.json.mine"]


def test_what_has_an_engines_name_is_left(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "cache")
    cache.claim()
    (cache.root / KEY).mkdir()
    (cache.root / KEY / "notes").write_text("x")
    with pytest.raises(FilesError, match="holds notes"), cache.staging(KEY):
        pytest.fail("an hour of work")
    assert (cache.root / KEY / "notes").read_text() == "x"


def test_the_first_of_two_equal_builds_stays(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    with cache.staging(KEY) as slower:
        (slower / MANIFEST_FILE).write_text("slower")
        (tmp_path / KEY).mkdir()
        (tmp_path / KEY / MANIFEST_FILE).write_text("faster")
    assert (tmp_path / KEY / MANIFEST_FILE).read_text() == "faster"


def test_files_are_read_again_only_when_they_changed(tmp_path: Path) -> None:
    file, digests = tmp_path / "weights", FileDigests(tmp_path / "digests.json")
    file.write_bytes(b"one")
    stamp = file.stat().st_mtime_ns
    first = digests.combined(tmp_path, [file])
    file.write_bytes(b"two")
    os.utime(file, ns=(stamp, stamp))
    assert digests.combined(tmp_path, [file]) == first  # Same size and time: not read.
    os.utime(file, ns=(stamp + 1, stamp + 1))
    assert digests.combined(tmp_path, [file]) != first
    (tmp_path / "digests.json").write_text("broken")
    assert digests.combined(tmp_path, [file]) != first


def test_names_count_as_much_as_contents(tmp_path: Path) -> None:
    digests = FileDigests(tmp_path / "digests.json")
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
    first, second = (digests.combined(tmp_path, [tmp_path / name]) for name in ("a", "b"))
    assert first != second


def test_the_source_digest_is_stable() -> None:
    assert source_digest() == source_digest()


INTERRUPTED = """
import os, signal, sys, threading
from heliostat_engines.compiling.interrupts import run_interruptibly
stopping = threading.Event()
def work():
    if sys.argv[1] == "at once":
        os.kill(os.getpid(), signal.SIGINT)
    print("working", flush=True)
    stopping.wait(60)
    print("stopped", stopping.is_set(), flush=True)
try:
    run_interruptibly(work, stopping)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("moment", ["at once", "later"])
def test_ctrl_c_stops_a_native_call(moment: str) -> None:
    """The call is in another thread; Python's own signal reaches the main one, as from a terminal.

    At once: before the main thread, which hands the call over, has come to waiting for it.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, moment], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert next(process.stdout) == "working\n"
    started = time.monotonic()
    if moment == "later":
        process.send_signal(signal.SIGINT)
    assert list(process.stdout) == ["stopped True\n", "interrupted\n"]
    assert process.wait() == 0
    assert time.monotonic() - started < 30

"""What others have in a folder stays, and ours is old or new, wherever a write breaks off."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliostat_engines.errors import FilesError
from heliostat_engines.files import atomic
from heliostat_engines.files.atomic import (
    atomic_bytes,
    atomic_file,
    atomic_folder,
    atomic_text,
    claim_folder,
    discard_folder,
)
from heliostat_engines.files.ownership import (
    MARKER,
    Layout,
    list_entries,
    read_marker,
    require_own_file,
    require_replaceable,
)
from tests.crashes import Crash, crashing_at, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

LAYOUT = Layout(
    kind="a thing",
    advice="give --out another folder",
    required=frozenset({"a.bin"}),
    patterns=("sub/*.txt",),
)
STRICT = Layout(kind="a thing", advice="give --out another folder")
"""Nothing without a marker is one of these."""
OTHER = Layout(kind="another thing", advice="give --out another folder")
FIRST = {"a.bin": b"first", "sub/b.txt": b"first"}
SECOND = {"a.bin": b"second", "c.bin": b"second"}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bringing files to the disk takes most of a property's time, and no test cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def fill(folder: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def write(path: Path, content: dict[str, bytes], layout: Layout = LAYOUT) -> None:
    with atomic_folder(path, layout) as draft:
        fill(draft, content)


def read(folder: Path) -> dict[str, bytes]:
    return {
        name: data
        for name, data in snapshot(folder).items()
        if isinstance(data, bytes) and name != MARKER
    }


names = st.sampled_from(
    [
        "a.bin",
        "out",
        "other",
        "sub",
        ".out.draft",
        ".report.html.draft",
        "report.new",
        ".out.old",
        ".out-x1",
        ".heliostat-0123456789abcdef.draft",
        MARKER,
        "ünïcode ✓",
    ]
)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
things = st.one_of(st.binary(max_size=8), st.just("folder"), st.just("link out"), st.just("link"))
trees = st.dictionaries(paths, things, max_size=8)


def plant(root: Path, tree: dict[str, bytes | str], outside: Path) -> None:
    """Make the tree, as far as its names fit with each other."""
    for name, thing in tree.items():
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(thing, bytes):
                with path.open("xb") as file:
                    file.write(thing)
            elif thing == "folder":
                path.mkdir()
            else:
                path.symlink_to(outside if thing == "link out" else "other")
        except OSError:
            continue


def is_kept(before: dict[str, bytes | str], after: dict[str, bytes | str]) -> bool:
    return before.items() <= after.items()


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "outside").mkdir()
    (folder / "outside" / "precious").write_bytes(b"precious")
    (folder / "world").mkdir()
    return folder


property_test = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@property_test
@given(tree=trees, crash=st.integers(0, 40), is_ours_there=st.booleans())
def test_a_folder_is_old_or_new_and_nothing_of_others_is_lost(
    tmp_path: Path, tree: dict[str, bytes | str], crash: int, *, is_ours_there: bool
) -> None:
    root = fresh(tmp_path / "case")
    out = root / "world" / "out"
    if is_ours_there:
        write(out, FIRST, STRICT)
    ours = snapshot(out) if is_ours_there else {}
    plant(root / "world", tree, root / "outside")
    before = snapshot(root)
    is_foreign = out.exists() and snapshot(out) != ours
    try:
        with crashing_at(crash):
            write(out, SECOND, STRICT)
    except (Crash, FilesError):
        pass
    after = snapshot(root)
    if is_foreign or out.is_symlink():
        assert is_kept(before, after)
    else:
        mine = {name for name in before if name.startswith("world/out/")}
        foreign = {name: data for name, data in before.items() if name not in mine}
        foreign.pop("world/out", None)
        assert is_kept(foreign, after)
        assert not out.exists() or read(out) in (SECOND, FIRST if is_ours_there else {})
    write(root / "again", FIRST)


@property_test
@given(tree=trees, crash=st.integers(0, 30))
def test_discarding_takes_our_folder_and_nothing_else(
    tmp_path: Path, tree: dict[str, bytes | str], crash: int
) -> None:
    root = fresh(tmp_path / "case")
    out = root / "world" / "out"
    write(out, FIRST, STRICT)
    ours = {f"world/out/{name}" for name in snapshot(out)} | {"world/out"}
    plant(root / "world", tree, root / "outside")
    before = snapshot(root)
    try:
        with crashing_at(crash):
            discard_folder(out, STRICT)
    except (Crash, FilesError):
        pass
    after = snapshot(root)
    assert is_kept({name: data for name, data in before.items() if name not in ours}, after)
    assert not out.exists() or is_kept(before, after)


@property_test
@given(tree=trees, crash=st.integers(0, 12), old=st.none() | st.just(b"old"))
def test_a_file_is_old_or_new_and_nothing_of_others_is_lost(
    tmp_path: Path, tree: dict[str, bytes | str], crash: int, old: bytes | None
) -> None:
    root = fresh(tmp_path / "case")
    target = root / "world" / "report.html"
    if old is not None:
        target.write_bytes(old)
    plant(root / "world", tree, root / "outside")
    before = snapshot(root)
    try:
        with crashing_at(crash):
            atomic_bytes(target, b"new")
    except (Crash, FilesError):
        pass
    after = snapshot(root)
    now = after.pop("world/report.html", None)
    assert now in (old, b"new")
    before.pop("world/report.html", None)
    assert is_kept(before, after)


@property_test
@given(tree=trees, crash=st.integers(0, 12), beside_others=st.booleans())
def test_claiming_a_folder_changes_nothing_in_it(
    tmp_path: Path, tree: dict[str, bytes | str], crash: int, *, beside_others: bool
) -> None:
    root = fresh(tmp_path / "case")
    plant(root / "world", tree, root / "outside")
    before = snapshot(root)
    try:
        with crashing_at(crash):
            claim_folder(root / "world", STRICT, beside_others=beside_others)
    except (Crash, FilesError):
        pass
    assert is_kept(before, snapshot(root))


def test_a_folder_of_ours_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for content in (FIRST, SECOND):
        write(out, content)
        assert read(out) == content
    marker = read_marker(out)
    assert marker is not None
    assert (marker.kind, marker.entries) == ("a thing", list_entries(out))
    with pytest.raises(RuntimeError), atomic_folder(out, LAYOUT) as draft:  # noqa: PT012
        fill(draft, FIRST)
        raise RuntimeError
    assert read(out) == SECOND
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    discard_folder(out, LAYOUT)
    assert list(tmp_path.iterdir()) == []


def test_where_folders_cannot_change_places_at_once_they_do_it_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *_, **__: object())
    out = tmp_path / "out"
    write(out, FIRST)
    write(out, SECOND)
    assert read(out) == SECOND
    rename, turns = Path.rename, []

    def fail_to_come_in(self: Path, target: Path) -> Path:
        turns.append(target)
        if len(turns) == 3:  # To its place, which is taken; the old one out; the new one in.
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_to_come_in)
    with pytest.raises(FilesError, match=r"cannot write .*out: Input/output error"):
        write(out, FIRST)
    assert read(out) == SECOND


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", FIRST)
    assert read(tmp_path / "out") == FIRST


def test_folders_of_before_there_were_markers_are_recognised_by_exactly_what_they_hold(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    fill(out, FIRST)
    write(out, SECOND)
    assert read(out) == SECOND
    for strange in ("notes", "sub/b.jpg", "more/b.txt"):
        foreign = tmp_path / "foreign"
        fill(foreign, {**FIRST, strange: b"x"})
        with pytest.raises(FilesError, match="which is not of a thing that heliostat made"):
            write(foreign, SECOND)
        shutil.rmtree(foreign)
    fill(out := tmp_path / "without", {"sub/b.txt": b"x"})
    with pytest.raises(FilesError, match="holds sub"):
        write(out, SECOND)
    fill(out := tmp_path / "never", FIRST)
    with pytest.raises(FilesError):
        write(out, SECOND, OTHER)


def test_one_sort_of_folder_does_not_take_the_place_of_another(tmp_path: Path) -> None:
    write(tmp_path / "out", FIRST)
    with pytest.raises(FilesError, match="out is a thing, not another thing: give --out another"):
        write(tmp_path / "out", SECOND, OTHER)


def forbidden_places(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").touch()
    (tmp_path / "empty" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    return {
        "is a file": tmp_path / "file",
        "is a link to": tmp_path / "link",
        "is a link to .*nowhere": tmp_path / "lost",
        "working directory or a folder above it": Path(),
        "working directory or a folder above": Path("/"),
        "working directory or a folder": Path(".."),
        "is the home directory or a folder above it": tmp_path / "home",
        "cannot be written .*file is no folder": tmp_path / "file" / "below",
        "holds below": tmp_path / "empty",
    }


def test_places_where_no_folder_may_be_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = forbidden_places(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for words, place in places.items():
        with pytest.raises(FilesError, match=words):
            require_replaceable(place, LAYOUT)


def test_a_marker_that_lies_takes_nothing_outside_its_folder(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    fill(precious, {"a.txt": b"x"})
    out = tmp_path / "out"
    write(out, FIRST)
    (out / "sub" / "b.txt").unlink()
    (out / "sub").rmdir()
    (out / "sub").symlink_to(precious)
    with pytest.raises(FilesError, match="holds sub"):
        write(out, SECOND)
    (out / "sub").unlink()
    text = (out / MARKER).read_text().replace('"sub/b.txt"', '"../precious/a.txt"')
    (out / MARKER).write_text(text)
    write(out, SECOND)
    assert read(precious) == {"a.txt": b"x"}


def test_secrets_are_their_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "token"
    for _ in range(2):
        atomic_text(path, "secret", atomic.SECRET_MODE)
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
    mask = os.umask(0o022)
    try:
        atomic_text(tmp_path / "page", "page")
    finally:
        os.umask(mask)
    assert (tmp_path / "page").stat().st_mode & 0o777 == 0o644


def test_a_file_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_text("x")
    with pytest.raises(FilesError, match=r"cannot write .*below: (Not a directory|File exists)"):
        atomic_text(tmp_path / "text" / "below", "x")
    (tmp_path / "link").symlink_to(tmp_path / "text")
    with pytest.raises(FilesError, match="it is a link to"):
        atomic_text(tmp_path / "link", "y")

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(FilesError, match="the disk is full; free some space"):
        atomic_text(tmp_path / "text", "y")
    assert (tmp_path / "text").read_text() == "x"
    assert {path.name for path in tmp_path.iterdir()} == {"text", "link"}


def test_a_page_of_others_is_not_overwritten(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    require_own_file(page, "heliostat", "give another")
    page.write_text("written by heliostat")
    require_own_file(page, "heliostat", "give another")
    page.write_text("my thesis")
    for path, words in (
        (page, "is there, and heliostat did not write it: give another"),
        (tmp_path, "is a folder"),
        (page / "below", "is no folder"),
    ):
        with pytest.raises(FilesError, match=words):
            require_own_file(path, "heliostat", "give another")


KILLED = """
import os, signal, sys
from pathlib import Path
from heliostat_engines.files.atomic import atomic_folder
from tests.engines.files.test_atomic import LAYOUT
with atomic_folder(Path(sys.argv[1]), LAYOUT) as draft:
    (draft / "half").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writers_draft_is_cleared_away_and_a_living_ones_is_not(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / "half").exists()
    with atomic_folder(tmp_path / "living", LAYOUT) as living:
        assert not left.exists()
        write(tmp_path / "out", FIRST)
        assert living.exists()
        fill(living, FIRST)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "living"}


def test_all_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    rename, replace = os.rename, os.replace

    def named(descriptor: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)  # noqa: PTH115

    def moved(call: Callable[..., None]) -> Callable[..., None]:
        def move(source: Path, target: Path) -> None:
            calls.append(f"to {Path(target).name}")
            call(source, target)

        return move

    monkeypatch.setattr(os, "fsync", named)
    monkeypatch.setattr(os, "rename", moved(rename))
    monkeypatch.setattr(os, "replace", moved(replace))
    write(tmp_path / "out", FIRST)
    assert {"a.bin", "sub", "b.txt", f"to {MARKER}"} < set(calls[: calls.index("to out")])
    assert calls[-1] == tmp_path.name


def test_a_stream_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "big") as file:  # noqa: PT012
        file.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_file(tmp_path / "big") as file:
        file.write(b"whole")
    assert (tmp_path / "big").read_bytes() == b"whole"

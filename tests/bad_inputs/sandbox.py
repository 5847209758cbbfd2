"""A folder of its own for every input, with other people's files in it."""

from __future__ import annotations

import os
import shutil
from contextlib import chdir
from typing import TYPE_CHECKING

from tests.bad_inputs.odd import Ruin
from tests.bad_inputs.outcome import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.bad_inputs.odd import Damage

    Tree = Mapping[str, bytes | str | None]
    """By relative path: a file's bytes, where a link points, None of a folder."""

FOREIGN = (
    "beside/notes.txt",
    "beside/weights.safetensors",
    "work/notes.txt",
    "work/out/other.safetensors",
    "work/out/inner/mine.txt",
    "work/out/.hidden",
    "work/state/models/mine.txt",
    "work/state/backends/mine.txt",
    "work/state/mine.txt",
)
PATHS = (
    "out",
    "out/new",
    "out/new/deeper",
    "out/other.safetensors",
    "out/inner",
    "out/inner/..",
    "link",
    "dangling",
    "state",
    "notes.txt",
    "notes.txt/below",
    ".",
    "runs",
    "runs/kept",
    "runs/kept/checkpoints",
    "runs/none",
    "empty",
    "no/such/folder",
    "ünïcödé",
    "with space",
    "-dash",
)
"""What commands are given as files and folders: all of it within the sandbox."""


class Sandbox:
    """`work` is the working directory; whatever was here at first must be here at the end."""

    def __init__(self, root: Path, furnish: Callable[[Path], None] = lambda _: None) -> None:
        """furnish: puts more into `work`, such as a finished run."""
        self.root = root.resolve()
        self.work = self.root / "work"
        for name in FOREIGN:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} belongs to somebody else\n")
        (self.work / "empty").mkdir()
        (self.work / "link").symlink_to("out")
        (self.work / "dangling").symlink_to("nowhere")
        with chdir(self.work):
            furnish(self.work)
        self._kept = self._tree()
        self._guarded: dict[str, bytes] = {}
        self._hurt: set[str] = set()

    def write(self, files: Mapping[str, bytes]) -> None:
        """Put an input's own files into `work`: whatever becomes of them."""
        for name, data in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def guard(self, name: str) -> None:
        """Put one more file of somebody else's into `work`, for this input."""
        data = f"{name} belongs to somebody else\n".encode()
        self.write({name: data})
        self._guarded[str((self.work / name).relative_to(self.root))] = data

    def hurt(self, name: str, damage: Damage) -> None:
        """Damage a file of `work` for this input."""
        path = self.work / name
        damaged = damage.applied(path.read_bytes())
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        elif damage.ruin is Ruin.FOLDER:
            path.mkdir()
        self._hurt.add(str(path.relative_to(self.root)))

    def tidied(self, verdict: Verdict) -> Verdict:
        """Everything as at first; says so where anything that was there had gone or changed."""
        now = self._tree()
        changed = sorted(_changed(self._kept, now))
        lost = sorted(_changed({**self._kept, **self._guarded}, now) - self._hurt)
        for name in sorted(now.keys() - self._kept.keys(), reverse=True):
            _remove(self.root / name)
        for name in changed:
            self._restore(name)
        self._guarded.clear()
        self._hurt.clear()
        if not lost:
            return verdict
        return Verdict(Outcome.LOST, f"{len(lost)} of them: {', '.join(lost[:5])}", lost[0])

    def _restore(self, name: str) -> None:
        path, was = self.root / name, self._kept[name]
        _remove(path)
        if was is None:
            path.mkdir()
        elif isinstance(was, str):
            path.symlink_to(was)
        else:
            path.write_bytes(was)

    def _tree(self) -> dict[str, bytes | str | None]:
        tree: dict[str, bytes | str | None] = {}
        for folder, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                path = self.root / folder / name
                key = str(path.relative_to(self.root))
                if path.is_symlink():
                    tree[key] = str(path.readlink())
                elif path.is_dir():
                    tree[key] = None
                elif path.is_file():
                    tree[key] = path.read_bytes()
        return tree


def _changed(before: Tree, now: Tree) -> set[str]:
    """What is gone, or is no longer what it was."""
    return {name for name, was in before.items() if name not in now or now[name] != was}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

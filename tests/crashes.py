"""A process that dies at its n-th step on the disk, and what is there afterwards."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from heliostat_engines.files import atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STEPS = ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync", "open", "write", "symlink")


class Crash(BaseException):
    """The process dies here: nothing that it does afterwards reaches the disk."""


@contextmanager
def crashing_at(step: int) -> Iterator[None]:
    """Let the step-th call that changes the disk fail, and all later ones too."""
    taken = 0

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def step_or_die(*arguments: Any, **options: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken > step:
                raise Crash
            return call(*arguments, **options)

        return step_or_die

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, dying(getattr(os, name)))
        patch.setattr(atomic, "_exchange", dying(atomic._exchange))
        yield


def snapshot(root: Path) -> dict[str, bytes | str]:
    """All below a folder: the content of files, where links lead, and "folder" for folders."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"  # noqa: PTH115
        else:
            found[name] = "folder" if path.is_dir() else path.read_bytes()
    return found

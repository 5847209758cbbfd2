"""What the control groups of this process let it have: processor time and memory.

A container sees all of its host's cores and memory, and is held to less by its control group: both
versions of the kernel's interface, and every group above, since the smallest limit is the one that
holds. Reads files alone. Source: the kernel's Documentation/admin-guide/cgroup-v1 and cgroup-v2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path("/")
UNLIMITED_BYTES = 2**60
"""Version 1 says "no limit" with a number near 2**63."""


@dataclass(frozen=True)
class MemoryLimit:
    """Of one group: what it may hold, and what it holds that could not be given up at once."""

    total_bytes: int
    used_bytes: int


def cpu_quota(root: Path = ROOT) -> float | None:
    """How many cores' time this process may take; None if nothing limits it."""
    quotas = [quota for group in _groups(root, "cpu") if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def memory_limits(root: Path = ROOT) -> list[MemoryLimit]:
    """The limits of this process's groups, from its own up."""
    return [limit for group in _groups(root, "memory") if (limit := _memory(group)) is not None]


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's groups that have the controller, from its own up.

    In a container /proc may name a path of the host's that is not there: then what is mounted is
    the container's own group, and that is the end of the walk.
    """
    for mount, path in _memberships(root, controller):
        group = mount / path.strip("/")
        while True:
            if group.is_dir():
                yield group
            if group == mount:
                break
            group = group.parent


def _memberships(root: Path, controller: str) -> Iterator[tuple[Path, str]]:
    mounts = root / "sys" / "fs" / "cgroup"
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            unified = mounts / "unified"
            yield (unified if unified.is_dir() else mounts), path
        elif controller in controllers.split(","):
            named = (folder for folder in (mounts / controllers, mounts / controller))
            yield next((folder for folder in named if folder.is_dir()), mounts / controller), path


def _quota(group: Path) -> float | None:
    both = _words(group / "cpu.max")
    if not both:
        both = _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
    numbers = [_number(word) for word in both]
    match numbers:
        case [int(quota), int(period)] if quota > 0 and period > 0:
            return quota / period
        case _:
            return None  # "max", -1, or no such controller


def _memory(group: Path) -> MemoryLimit | None:
    for limit, usage, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        total, used = _first_number(group / limit), _first_number(group / usage)
        if total is None or used is None or total >= UNLIMITED_BYTES:
            continue
        # The cache of files counts as use, and the kernel drops the part that nobody reads.
        statistics = dict(zip(*[iter(_words(group / "memory.stat"))] * 2, strict=False))
        cached = _number(statistics.get(reclaimable, "0")) or 0
        return MemoryLimit(total, max(0, used - cached))
    return None


def _first_number(path: Path) -> int | None:
    return next(map(_number, _words(path)), None)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _number(word: str) -> int | None:
    try:
        return int(word)
    except ValueError:
        return None

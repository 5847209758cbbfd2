"""What torchrun tells the processes that it starts. Reads no torch."""

from __future__ import annotations

import os


def world_size() -> int:
    """How many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this process is the run's first or only one."""
    return world_size() == 1 or os.environ["RANK"] == "0"


def local_rank() -> int | None:
    """Which of its machine's processes this is; None if there is only one in all."""
    return None if world_size() == 1 else int(os.environ["LOCAL_RANK"])


def local_size() -> int:
    """How many of the run's processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

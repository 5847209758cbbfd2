"""A model's process must not outlive its tritonserver, whatever its threads wait for."""

from __future__ import annotations

import os
import time
from threading import Thread

CHECK_INTERVAL_S = 0.5
GRACE_S = 1.0
"""Triton's own stub ends by itself within this time, unless a thread waits for another model."""


def die_with_parent() -> None:
    """End this process soon after its parent; not by PR_SET_PDEATHSIG, which would follow the
    thread that loaded the model and not the server.
    """
    Thread(target=_watch, args=(os.getppid(),), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(CHECK_INTERVAL_S)
    time.sleep(GRACE_S)
    os._exit(1)

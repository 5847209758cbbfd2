"""Rows of a batch evaluated side by side, a CPU core each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 6
"""Fewest rows that are worth a core of their own: with fewer, what an evaluation costs however few they are weighs
more (`python -m tests.benchmarks.lanes`)."""


class Lanes:
    """Threads that each evaluate a share of a batch's rows on one core.

    The products of a small transformer are too small for several cores to share: they would wait for each other
    at each of them. So each core takes some rows through the whole transformer.
    """

    def shares(self, rows: int) -> list[slice]:
        """The rows in equal parts, one for each core that torch may use here and that they are worth."""
        lanes = max(1, min(torch.get_num_threads(), rows // ROWS))
        bounds = [rows * lane // lanes for lane in range(lanes + 1)]
        return [slice(first, end) for first, end in pairwise(bounds)]

    def evaluate(
        self, shares: list[slice], evaluate: Callable[[slice], torch.Tensor]
    ) -> torch.Tensor:
        """output[B, ...] of what gives a share's rows of it; each share is evaluated in a thread of its own."""
        threads = torch.get_num_threads()
        try:
            return torch.cat(list(self._pool.map(evaluate, shares)))
        finally:
            torch.set_num_threads(threads)  # a lane's first call has set it for the threads to come

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(torch.get_num_threads(), "lane", initializer=_keep_to_one_core)


def _keep_to_one_core() -> None:
    torch.get_num_threads()  # without it the thread's first product would take the process's number
    torch.set_num_threads(1)

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heliostat_engines.runtimes.lanes import ROWS, Lanes

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def threads() -> Iterator[int]:
    """As on a machine of three cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


@given(rows=st.integers(1, 200))
def test_shares_are_all_rows_in_order_and_each_is_worth_a_core(rows: int) -> None:
    shares = Lanes().shares(rows)
    assert [row for share in shares for row in range(rows)[share]] == list(range(rows))
    sizes = [share.stop - share.start for share in shares]
    assert len(shares) <= 3
    assert max(sizes) - min(sizes) <= 1
    assert len(shares) == 1 or min(sizes) >= ROWS


def test_each_share_is_evaluated_in_a_thread_of_its_own_on_one_core(threads: int) -> None:
    met = threading.Barrier(threads)
    seen: set[tuple[str, int]] = set()

    def evaluate(rows: slice) -> torch.Tensor:
        met.wait(timeout=60)  # all at once
        seen.add((threading.current_thread().name, torch.get_num_threads()))
        return torch.arange(30)[rows]

    lanes = Lanes()
    for _ in range(2):
        assert torch.equal(lanes.evaluate(lanes.shares(30), evaluate), torch.arange(30))
    assert seen == {(f"lane_{lane}", 1) for lane in range(threads)}


def test_the_other_threads_of_the_process_keep_their_cores(threads: int) -> None:
    lanes = Lanes()
    lanes.evaluate(lanes.shares(30), lambda rows: torch.arange(30)[rows])
    later: list[int] = []
    other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert [torch.get_num_threads(), *later] == [threads, threads]


def test_what_a_lane_raises_is_raised() -> None:
    def refuse(rows: slice) -> torch.Tensor:
        raise ValueError(f"rows from {rows.start}")

    lanes = Lanes()
    with pytest.raises(ValueError, match="rows from 0"):
        lanes.evaluate(lanes.shares(30), refuse)

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heliostat_engines.parts import parts


@given(st.lists(st.integers(0, 20)), st.integers(1, 30), st.integers(1, 5))
def test_parts_hold_all_in_order_and_keep_both_bounds(
    sizes: list[int], most: int, count: int
) -> None:
    slices = list(parts(sizes, most, count))
    assert [size for part in slices for size in sizes[part]] == sizes
    for part in slices:
        inside = sizes[part]
        assert 1 <= len(inside) <= count
        assert sum(inside) <= most or len(inside) == 1

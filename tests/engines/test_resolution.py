from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from heliostat_engines.resolution import (
    Resolution,
    ResolutionPx,
    pixels,
    resolution_of,
    width_height,
    written,
)

SIDES = st.integers(1, 2**31 - 1)
SETTING: TypeAdapter[Resolution] = TypeAdapter(ResolutionPx)


@given(SIDES, SIDES)
def test_a_size_is_itself_however_it_is_written(width: int, height: int) -> None:
    size = resolution_of(width, height)
    assert width_height(size) == (width, height)
    assert pixels(size) == width * height
    for way in ([width, height], (width, height), f"{width}x{height}", written(size), size):
        assert SETTING.validate_python(way) == size
    assert SETTING.validate_json(SETTING.dump_json(size)) == size


def test_a_square_is_written_as_its_side() -> None:
    assert SETTING.validate_python([512, 512]) == 512
    assert SETTING.dump_json(512) == b"512"
    assert written(512) == "512"


@pytest.mark.parametrize(
    "wrong",
    ["", "x", "1x", "1x2x3", "a", 0, -1, [0, 1], [1], [1, 2, 3], [1, "2"], True, 1.5, None, 2**31],
)
def test_what_is_no_size_is_refused_in_one_sentence(wrong: object) -> None:
    with pytest.raises(ValidationError) as caught:
        SETTING.validate_python(wrong)
    assert len(caught.value.errors()) == 1

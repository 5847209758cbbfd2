"""What is written as TOML is read back as it was."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat_engines.settings.writing import literal, toml_text

SCALARS = st.text() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_a_file_is_read_back_as_it_was(sections: dict[str, object]) -> None:
    assert tomllib.loads(toml_text(sections)) == sections


def test_tables_of_tables_are_sections_and_values_stand_above_them() -> None:
    sections = {"limits": {"batch": 2}, "rewards": {"a b": {"weights": {"x": 1.0}}}, "port": 1}
    assert toml_text(sections) == (
        'port = 1\n\n[limits]\nbatch = 2\n\n[rewards."a b"]\nweights = { x = 1.0 }\n'
    )


@pytest.mark.parametrize("text", ["\x7f", "\ud83d", "\u2028é\U0001f9a9"])
def test_whatever_text_there_is_can_be_printed(text: str) -> None:
    literal(text).encode()

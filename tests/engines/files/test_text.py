"""Text and JSON as people have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat_engines.errors import CheckpointError, FileError
from heliostat_engines.files.text import (
    content_of,
    is_whole,
    lines_of,
    parse_json,
    read_json,
    read_text,
)

if TYPE_CHECKING:
    from pathlib import Path

LINES = st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])))


@given(LINES, st.sampled_from(["\n", "\r\n"]))
def test_lines_come_back_whatever_is_in_them(lines: list[str], end: str) -> None:
    assert lines_of("".join(line + end for line in lines)) == lines


def test_the_last_line_needs_no_end() -> None:
    assert lines_of("a\nb") == lines_of("a\r\nb\r\n") == ["a", "b"]
    assert lines_of("") == []
    assert lines_of("a\rb\n\n") == ["a\rb", ""]


def test_the_byte_order_mark_goes_and_line_ends_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\r\n\xef\xbb\xbf")
    assert read_text(path) == "caf\xe9\r\n\ufeff"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"one\ntwo \xe9\n", "line 2: this is not UTF-8 text: save it as UTF-8"),
        ("one".encode("utf-16"), "line 1: this is not UTF-8 text"),
    ],
)
def test_other_encodings_are_named_with_file_and_line(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(FileError, match=sentence) as error:
        read_text(path)
    assert str(error.value).startswith(f"{path}, line")
    with pytest.raises(FileError, match=f"cannot read {tmp_path}: Is a directory"):
        read_text(tmp_path)


def test_halves_of_characters_are_not_whole() -> None:
    assert is_whole(parse_json(r'"\ud83d\ude00"', "x"))
    assert not is_whole(parse_json(r'"\ud83d"', "x"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{\n "a": 1,\n}', r", line 3, column 1: this is not JSON: expecting property name"),
        (b"", r", line 1, column 1: this is not JSON"),
        (b"[" * 100_000, " is not JSON: "),
        (b"9" * 10_000, " is not JSON: "),
        (b'{"a": "\xe9"}', ", line 1: this is not UTF-8 text"),
    ],
)
def test_damaged_json_is_named_with_file_and_line(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(FileError, match=sentence) as error:
        read_json(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[]", "is damaged"),
        ("{}", "is damaged: it lacks 'step': copy it again"),
        ('{"step": "many"}', r"is damaged \(invalid literal .*\): copy it again"),
        ("{", "line 1, column 2: this is not JSON: .*: copy it again"),
    ],
)
def test_content_that_is_not_as_it_was_written_is_one_sentence(
    tmp_path: Path, content: str, sentence: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with (
        pytest.raises(CheckpointError, match=sentence) as error,
        content_of(path, "copy it again", CheckpointError),
    ):
        int(read_json(path)["step"])
    assert str(path) in str(error.value)


def test_what_else_goes_wrong_is_said_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^another$"), content_of(tmp_path):
        raise CheckpointError("another")
    with pytest.raises(ZeroDivisionError), content_of(tmp_path):
        raise ZeroDivisionError

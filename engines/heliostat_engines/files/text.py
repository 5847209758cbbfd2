"""Text and JSON as people have them: a byte-order mark, either line ending, a broken line.

Whatever reads a file that somebody may have written, edited or copied reads it here.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from heliostat_engines.errors import FileError, HeliostatError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def read_text(path: Path) -> str:
    """What a file of UTF-8 text says, without its byte-order mark; line ends are as in the file.

    Raises:
        FileError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise FileError(f"{path}, line {line}: this is not UTF-8 text: save it as UTF-8") from error


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, which end at \n or \r\n and nowhere else.

    `str.splitlines` also splits at form feeds and at U+2028, which are characters like others
    within a prompt or a JSON string.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def is_whole(text: str) -> bool:
    r"""Whether the text can be sent and written: JSON's `\ud83d` alone is half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_json(text: str | bytes, where: str) -> Any:
    """What JSON says.

    where: the file, for the error.

    Raises:
        FileError: names the line.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where}, line {error.lineno}, column {error.colno}"
        raise FileError(f"{place}: this is not JSON: {_lower(error.msg)}") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{where} is not JSON: {first_line(error)}") from error


def read_json(path: Path) -> Any:
    """What a JSON file says. Raises FileError, which names file and line."""
    return parse_json(read_text(path), str(path))


@contextmanager
def content_of(
    path: Path, advice: str = "", kind: type[HeliostatError] = FileError
) -> Iterator[None]:
    """Take apart in the block what a file of ours holds: a damaged one is one sentence.

    Args:
        path: the file.
        advice: what to do about it.
        kind: of the error.

    Raises:
        kind: it cannot be read, or something in it is missing or not what it was written as.
    """
    try:
        yield
    except HeliostatError as error:
        if not isinstance(error, FileError):
            raise
        problem, cause = str(error), error.__cause__
    except OSError as error:
        problem, cause = f"cannot read {path}: {error.strerror or error}", error
    except KeyError as error:
        problem, cause = f"{path} is damaged: it lacks {error}", error
    except (ValueError, TypeError, AttributeError, LookupError, SafetensorError) as error:
        problem, cause = f"{path} is damaged ({first_line(error)})", error
    else:
        return
    raise kind(f"{problem}: {advice}" if advice else problem) from cause


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]

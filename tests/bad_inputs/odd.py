"""Odd texts, numbers, JSON and bytes, and ways to damage a file."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

ODD_TEXTS = (
    "",
    " ",
    "\t",
    "\ufeff",
    "a\u2028b",
    "a\x0cb",
    "a\x85b",
    "a\x00b",
    "\u202eabc",
    "e\u0301",
    "\U0001f9a9",
    "\udcff",
    "\ud83d",
    "..",
    ".",
    "../up",
    "%s%n{}",
    "$(touch x)",
    "[bold]x[/red]",
    "-",
    "--",
    "None",
    "null",
    "nan",
    "x" * 300,
    "x" * 5000,
)
ODD_NUMBERS = (
    "0",
    "-0",
    "-1",
    "1.5",
    "1e400",
    "inf",
    "-inf",
    "nan",
    "1e-320",
    "1_0",
    "0x10",
    "١٢",
    "2147483648",
    "9223372036854775808",
    "1" + "0" * 40,
    "1" + "0" * 400,
    "1" + "0" * 5000,
    "",
    " 3 ",
    "+3",
    "true",
)
words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
texts = st.sampled_from(ODD_TEXTS) | st.text(max_size=20) | words
"""Lone surrogates, too: what Python makes of bytes that are no UTF-8."""
numbers = st.sampled_from(ODD_NUMBERS) | st.integers().map(str) | st.floats().map(repr)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**30, 10**400, -1, 0, 2**63, 2**31])
    | st.floats()
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
DEEP = "[" * 3000
json_texts = anything.map(json.dumps) | st.sampled_from(
    ["", "{", "[]", '"x"', "NaN", "-Infinity", DEEP, '{"a": ' * 2000, "1" + "0" * 5000]
)


def mostly(
    usual: st.SearchStrategy[Any], unusual: st.SearchStrategy[Any], times: int = 8
) -> st.SearchStrategy[Any]:
    """The usual, `times` times as often: `|` would count the parts of both."""
    return st.integers(0, times).flatmap(lambda pick: usual if pick else unusual)


def argument(text: str) -> str:
    """What a command line can be given: no NUL, and surrogates only as bytes that are no UTF-8."""
    raw = text.replace("\x00", "").encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "surrogateescape")


class Ruin(StrEnum):
    """What befell a file."""

    EMPTY = "empty"
    GONE = "gone"
    FOLDER = "a folder"
    CUT = "cut"
    FLIPPED = "a byte flipped"
    ZEROED = "zeroes in the middle"
    BOM = "a byte-order mark"
    UTF16 = "UTF-16"
    LATIN = "a Latin-1 byte"
    CRLF = "CRLF"
    TWICE = "written twice"
    OTHER = "other content"
    JSON_VALUE = "a JSON value changed"
    JSON_DELETED = "a JSON value deleted"
    LINE = "a line changed"


FILLED = frozenset({Ruin.OTHER, Ruin.JSON_VALUE, Ruin.LINE})
"""What puts something in the place of what was there."""
PLACED = frozenset(
    {
        Ruin.CUT,
        Ruin.FLIPPED,
        Ruin.ZEROED,
        Ruin.LATIN,
        Ruin.JSON_VALUE,
        Ruin.JSON_DELETED,
        Ruin.LINE,
    }
)
"""What happens somewhere in the file."""


@dataclass(frozen=True)
class Damage:
    """at: where in the file, from 0 to 1. picks: which JSON value. content: what is put there."""

    ruin: Ruin
    at: float = 0.0
    picks: tuple[int, ...] = ()
    content: str = ""

    def applied(self, data: bytes) -> bytes | None:
        """The damaged bytes; None: there is no such file any more."""
        if self.ruin in {Ruin.GONE, Ruin.FOLDER}:
            return None
        if self.ruin in {Ruin.JSON_VALUE, Ruin.JSON_DELETED}:
            return self._edited(data)
        at = int(self.at * max(len(data) - 1, 0))
        content = self.content.encode("utf-8", "surrogatepass")
        lines = data.split(b"\n")
        lines[int(self.at * (len(lines) - 1))] = content
        return {
            Ruin.EMPTY: b"",
            Ruin.CUT: data[:at],
            Ruin.FLIPPED: data[:at]
            + bytes(byte ^ 0x55 for byte in data[at : at + 1])
            + data[at + 1 :],
            Ruin.ZEROED: data[:at] + bytes(64) + data[at + 64 :],
            Ruin.BOM: codecs.BOM_UTF8 + data,
            Ruin.UTF16: data.decode("utf-8", "replace").encode("utf-16"),
            Ruin.LATIN: data[:at] + b"\xe9" + data[at:],
            Ruin.CRLF: data.replace(b"\n", b"\r\n"),
            Ruin.TWICE: data + data,
            Ruin.OTHER: content,
            Ruin.LINE: b"\n".join(lines),
        }[self.ruin]

    def _edited(self, data: bytes) -> bytes:
        """JSON, or one line of JSONL, with a value somewhere in it changed or deleted."""
        lines = [data] if _is_json(data) else data.split(b"\n")
        row = int(self.at * (len(lines) - 1))
        try:
            content: Any = json.loads(lines[row])
        except ValueError:
            return data
        holder, key = {"": content}, ""
        for pick in self.picks:
            inner = holder[key]
            if not isinstance(inner, dict | list) or not inner:
                break
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            holder, key = inner, keys[pick % len(keys)]
        if self.ruin is Ruin.JSON_DELETED:
            del holder[key]
        else:
            holder[key] = "\0here\0"
        if "" in holder and holder is not content and key == "":
            lines[row] = self.content.encode("utf-8", "surrogatepass")
        else:
            text = json.dumps(content).replace(json.dumps("\0here\0"), self.content)
            lines[row] = text.encode("utf-8", "surrogatepass")
        return b"\n".join(lines)


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


@st.composite
def _damages(draw: Callable[..., Any]) -> Damage:
    ruin = draw(st.sampled_from(Ruin))
    picks = st.lists(st.integers(0, 30), max_size=4).map(tuple)
    return Damage(
        ruin,
        draw(st.floats(0, 1)) if ruin in PLACED else 0.0,
        draw(picks) if ruin in {Ruin.JSON_VALUE, Ruin.JSON_DELETED} else (),
        draw(json_texts) if ruin in FILLED else "",
    )


damages = _damages()

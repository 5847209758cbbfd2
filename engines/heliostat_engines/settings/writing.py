"""Values as TOML has them."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

BARE = re.compile(r"[A-Za-z0-9_-]+")
ESCAPED = re.compile("[\x7f\ud800-\udfff]")
"""What JSON may hold as it is and TOML may not."""


def literal(value: object) -> str:
    """A value: text, number, truth, or a list or table of these."""
    if isinstance(value, str):
        return ESCAPED.sub(
            lambda one: f"\\u{ord(one[0]):04x}", json.dumps(value, ensure_ascii=False)
        )
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{key_of(key)} = {literal(inner)}" for key, inner in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return json.dumps(value)


def key_of(name: str) -> str:
    """A key, in quotes where it needs them."""
    return name if BARE.fullmatch(name) else literal(name)


def toml_text(sections: Mapping[str, object]) -> str:
    """A file: values first, then each table of tables as a section [name.key], any other as [name]."""
    lines = _pairs({key: value for key, value in sections.items() if not isinstance(value, dict)})
    for name, table in sections.items():
        if not isinstance(table, dict):
            continue
        if table and all(isinstance(inner, dict) for inner in table.values()):
            for key, inner in table.items():
                lines += ["", f"[{key_of(name)}.{key_of(key)}]", *_pairs(inner)]
        else:
            lines += ["", f"[{key_of(name)}]", *_pairs(table)]
    return "\n".join(lines).lstrip("\n") + "\n"


def _pairs(table: Mapping[str, object]) -> list[str]:
    return [f"{key_of(key)} = {literal(value)}" for key, value in table.items()]

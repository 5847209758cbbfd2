"""Where a prompt stands, for whoever has to mend it: file and line, or the data set."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heliostat_trainer.prompts import HubPrompts


def place_of(prompt: str, source: Path | HubPrompts) -> str:
    """`FILE, line N` where a source has the prompt first; the source if that cannot be told."""
    if isinstance(source, Path):
        with suppress(OSError, UnicodeDecodeError):
            lines = source.read_text(encoding="utf-8-sig").split("\n")
            for number, line in enumerate(lines, start=1):
                if _says(line, prompt, in_json=source.suffix.lower() == ".jsonl"):
                    return f"{source}, line {number}"
    return str(source)


def _says(line: str, prompt: str, *, in_json: bool) -> bool:
    if not in_json:
        return line.strip() == prompt
    try:
        return str(json.loads(line)["prompt"]).strip() == prompt
    except (ValueError, KeyError, TypeError):
        return False

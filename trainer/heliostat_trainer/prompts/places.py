"""Where a prompt stands, for whoever has to mend it: file and line, or the data set."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat_engines.errors import FileError
from heliostat_engines.files.text import lines_of, read_text

if TYPE_CHECKING:
    from heliostat_trainer.settings.prompts import HubPrompts


def place_of(prompt: str, source: Path | HubPrompts) -> str:
    """`FILE, line N` where a source has the prompt first; the source if that cannot be told."""
    if isinstance(source, Path):
        with suppress(FileError):
            for number, line in enumerate(lines_of(read_text(source)), start=1):
                if _says(line, prompt, in_json=source.suffix.lower() == ".jsonl"):
                    return f"{source}, line {number}"
    return str(source)


def _says(line: str, prompt: str, *, in_json: bool) -> bool:
    if not in_json:
        return line.strip() == prompt
    try:
        return str(json.loads(line)["prompt"]).strip() == prompt
    except (ValueError, KeyError, TypeError, RecursionError):
        return False

"""Where commands print tables."""

from __future__ import annotations

from rich.console import Console

PLAIN_WIDTH = 160
"""Columns where the output is no terminal."""


def table_console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for tables where it is none."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)

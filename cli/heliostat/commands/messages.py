"""What commands say on the side, on standard error."""

from __future__ import annotations

import typer


def say(sentence: str) -> None:
    """Print a warning or an error, one sentence."""
    typer.secho(f"heliostat: {sentence}", fg=typer.colors.RED, err=True)

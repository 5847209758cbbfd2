"""The example configurations: in the wheel beside this file, in a checkout at its root."""

from __future__ import annotations

from pathlib import Path


def example(name: str) -> Path:
    """Path of an example's TOML, e.g. `demo.toml`.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    here = Path(__file__).resolve()
    for folder in (here.parent / "example_configs", here.parents[2] / "examples"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"no example {name}")

"""The example configurations: in the wheel beside this file, in a checkout at its root."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve()
SERVER = "server.toml"
"""The one that is no run's."""
FOLDERS = (HERE.parent / "example_configs", HERE.parents[2] / "examples")


def example(name: str) -> Path:
    """Path of an example's TOML, e.g. `demo.toml`, or of a file beside one.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    for folder in FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"no example {name}")


def examples() -> dict[str, Path]:
    """The TOML of every example of a run, by name."""
    folder = next(folder for folder in FOLDERS if folder.is_dir())
    return {path.name: path for path in sorted(folder.glob("*.toml")) if path.name != SERVER}

"""Built engines, each in a folder named by its recipe's key. A folder is whole or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat_engines.build.manifest import MANIFEST_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

_STAGING = ".staging-"


def default_cache_root() -> Path:
    """Under XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "heliostat" / "engines"


class EngineCache:
    """A folder of engines. Several processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> Path | None:
        """The engine of that key, if it has been built."""
        folder = self.root / key
        return folder if (folder / MANIFEST_FILE).exists() else None

    @contextmanager
    def staging(self, key: str) -> Iterator[Path]:
        """A new folder that becomes the key's when the block ends well, and vanishes otherwise.

        What a killed build left behind is removed by the next one of the same key.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in self.root.glob(f"{_STAGING}{key}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{_STAGING}{key}-", dir=self.root))
        try:
            yield folder
            _sync(folder)
            self._publish(folder, self.root / key)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _publish(self, folder: Path, target: Path) -> None:
        try:
            folder.rename(target)
        except OSError:
            if not (target / MANIFEST_FILE).exists():
                raise  # Else another process has built the same engine meanwhile.


def _sync(folder: Path) -> None:
    """Bring a folder's files to the disk, so that the rename never precedes them."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())

"""Built engines, each in a folder named by its recipe's key. A folder is whole or not there."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from heliostat_engines.files.atomic import atomic_folder, claim_folder
from heliostat_engines.files.ownership import Layout
from heliostat_engines.plans.manifest import DECODER_PLAN, MANIFEST_FILE, TRANSFORMER_PLAN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENGINE = Layout(
    kind="an engine",
    advice="move it out of the folder of built engines",
    required=frozenset({MANIFEST_FILE}),
    patterns=(TRANSFORMER_PLAN, DECODER_PLAN),
)
DIGESTS_FILE = "digests.json"
CACHE = Layout(
    kind="a folder of built engines",
    advice="give --cache a folder that is new, empty, or one of these",
    required=frozenset({DIGESTS_FILE}),
    patterns=(
        "digests.tmp",
        "timing-*.cache",
        f"{32 * '[0-9a-f]'}/*",
        ".staging-*/*",
        "heliostat-*/*",
    ),
)


def default_cache_root() -> Path:
    """In the user's folder for caches: on Linux under XDG_CACHE_HOME, or ~/.cache."""
    return user_cache_path("heliostat") / "engines"


class EngineCache:
    """A folder of engines. Several processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> Path | None:
        """The engine of that key, if it has been built."""
        folder = self.root / key
        return folder if (folder / MANIFEST_FILE).exists() else None

    def claim(self) -> None:
        """Make the folder, unless it is there. Raises FilesError: it is no folder of engines."""
        claim_folder(self.root, CACHE)

    @contextmanager
    def staging(self, key: str) -> Iterator[Path]:
        """A new folder that becomes the key's when the block ends well, and vanishes otherwise.

        If another process has built the same engine meanwhile, that one stays. What a killed build
        left behind is removed by the next one.

        Raises:
            FilesError: as `claim`; or what has the key's name is no engine, or the disk is full.
        """
        self.claim()
        with atomic_folder(self.root / key, ENGINE, replace=False) as folder:
            yield folder

"""The recorded run beside which the demo's report shows it: the same minutes without our recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat.examples import example
from heliostat_trainer.compare import read_beside
from heliostat_trainer.errors import CompareError, RunFolderError
from heliostat_trainer.folder.layout import RunEntry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heliostat_trainer.compare import Beside

NAME = "baseline"
"""Its folder among the examples."""


def beside_baseline(run: Path, say: Callable[[str], None]) -> Beside | None:
    """A run of the demo beside the recorded one; None if there is none.

    None too, and `say` is told why, if they do not compare.
    """
    try:
        beside = _read(run)
    except FileNotFoundError:
        return None
    except (CompareError, RunFolderError) as error:
        say(f"The report is without the recorded baseline: {error}")
        return None
    for warning in beside.comparison.warnings:
        say(warning)
    return beside


def _read(run: Path) -> Beside:
    beside = read_beside(run, example(f"{NAME}/{RunEntry.RUN_FILE}").parent)
    if not beside.have_same_weights:
        raise CompareError(f"{NAME} trains other weights (model.checkpoint) than {beside.own.name}")
    return beside

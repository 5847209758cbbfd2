"""Draws a comparison as one self-contained HTML page, in the look of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat_engines.files.atomic import atomic_text
from heliostat_engines.files.ownership import require_own_file
from heliostat_trainer.compare import wording
from heliostat_trainer.compare.comparison import FRACTIONS
from heliostat_trainer.errors import RunFolderError
from heliostat_trainer.evaluation.guards import measured
from heliostat_trainer.evaluation.results import guidance_label, prompt_interval
from heliostat_trainer.folder.metrics import number
from heliostat_trainer.pages.figures import Curve, colour_of, curves_svg, stacked_svg
from heliostat_trainer.pages.pictures import thumbnail_uri
from heliostat_trainer.pages.templates import render

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from heliostat_trainer.compare.comparison import Comparison, Unit
    from heliostat_trainer.compare.groups import Group, Run
    from heliostat_trainer.evaluation.results import Evaluation

SIGN = " · heliostat compare</title>"
"""In the template, and so in every page that we wrote."""
SHOWN = 8
"""Prompts whose pictures are shown."""
TRAINING_CURVES = ("velocity_norm", "latent_diversity")
"""Numbers of training steps that are drawn where metrics.jsonl has them."""


@dataclass(frozen=True)
class Strip:
    """One prompt's pictures from the same seed: a data URI a column, None where none was kept."""

    prompt: str
    uris: tuple[str | None, ...]


@dataclass(frozen=True)
class Gallery:
    """Pictures in rows of a prompt and columns of a policy."""

    columns: tuple[str, ...]
    strips: tuple[Strip, ...]


def require_page(path: Path) -> None:
    """Check that a page may be written there. Raises FilesError."""
    require_own_file(path, SIGN, "give another file with --out")


def write_page(
    comparison: Comparison, path: Path, say: Callable[[str], None] = lambda _: None
) -> None:
    """Write the page; `say` is told of pictures that are damaged.

    Raises:
        FilesError: it cannot be written, or something else is there.
    """
    require_page(path)
    atomic_text(path, render("comparison.html", _content(comparison, say)))


def _content(comparison: Comparison, say: Callable[[str], None]) -> dict[str, object]:
    base = comparison.reference.first.progress[0]
    seconds = {group.label: group.first.record.phase_seconds for group in comparison.groups}
    return {
        "comparison": comparison,
        "fractions": FRACTIONS,
        "colour_of": colour_of,
        "words": wording,
        "sampler": f"{base.denoising_steps} steps, {guidance_label(base)}",
        "prompts": len(base.prompts),
        "seeds": len(base.seeds[0]),
        "curves": {
            reward: [_curves(comparison, reward, unit) for unit in comparison.units]
            for reward in comparison.rewards
        },
        "gallery": _gallery(comparison, say),
        "phases": list(dict.fromkeys(phase for each in seconds.values() for phase in each)),
        "phase_chart": stacked_svg(seconds) if any(seconds.values()) else None,
        "statistics": [_statistic(comparison, name) for name in _shared_statistics(comparison)],
        "training": list(filter(None, (_training(comparison, key) for key in TRAINING_CURVES))),
    }


def _curves(comparison: Comparison, reward: str, unit: Unit) -> str:
    """A reward over what it costs, a line a group; dashed: what the first one ends at."""
    curves = []
    for group in comparison.groups:
        means = comparison.over_seeds(group, reward)
        known = [
            (cost, mean)
            for cost, mean in zip(comparison.costs(group, unit), means, strict=True)
            if cost is not None
        ]
        halves = [mean.half_width for _, mean in known]
        curves.append(
            Curve(
                group.label,
                [cost for cost, _ in known],
                [mean.mean for _, mean in known],
                None if None in halves else [half for half in halves if half is not None],
                markers=True,
                level=means[-1].mean if group is comparison.reference else None,
            )
        )
    return curves_svg(curves, unit.name, reward, fit=True)


def _gallery(comparison: Comparison, say: Callable[[str], None]) -> Gallery | None:
    """The base model's pictures beside those of each group's first run at its end."""
    first = comparison.reference.first
    shown = [("base model", first, first.progress[0])]
    shown += [
        (
            f"{group.label}, {group.first.progress[-1].step} steps",
            group.first,
            group.first.progress[-1],
        )
        for group in comparison.groups
    ]
    columns = [_pictures(run, evaluation, say) for _, run, evaluation in shown]
    count = min(max(map(len, columns)), len(first.progress[0].prompts))
    if not count:
        return None
    strips = tuple(
        Strip(
            first.progress[0].prompts[row],
            tuple(thumbnail_uri(each[row]) if row < len(each) else None for each in columns),
        )
        for row in range(count)
    )
    return Gallery(tuple(label for label, _, _ in shown), strips)


def _pictures(
    run: Run, evaluation: Evaluation, say: Callable[[str], None]
) -> Sequence[NDArray[np.uint8]]:
    """image[H, W, 3] of each prompt's first seed; none where they cannot be read."""
    try:
        return [images[0] for images in run.record.images(evaluation)[:SHOWN]]
    except RunFolderError as error:
        say(f"{error}: its pictures are left out")
        return []


def _shared_statistics(comparison: Comparison) -> list[str]:
    """Those of all evaluations' images."""
    evaluations = [e for group in comparison.groups for e in group.first.progress]
    shared = set.intersection(*(set(measured(evaluation)) for evaluation in evaluations))
    return [name for name in measured(evaluations[0]) if name in shared]


def _statistic(comparison: Comparison, name: str) -> str:
    """A statistic of held-out images over training, of each group's first run."""
    curves = []
    for group in comparison.groups:
        progress = group.first.progress
        means = [prompt_interval(measured(evaluation)[name]).mean for evaluation in progress]
        curves.append(Curve(group.label, [float(e.step) for e in progress], means, markers=True))
    return curves_svg(curves, "training step", f"{name.replace('_', ' ')}, held-out images")


def _training(comparison: Comparison, key: str) -> str | None:
    """A number of training steps, of each group's first run that has it; None where none has."""
    curves = [Curve(group.label, *_column(group, key)) for group in comparison.groups]
    if not any(len(curve.x) for curve in curves):
        return None
    return curves_svg(curves, "training step", f"{key.replace('_', ' ')}, training samples")


def _column(group: Group, key: str) -> tuple[list[float], list[float]]:
    """The training steps that say a number, and what they say."""
    lines = [(line["step"], number(line, key)) for line in group.first.record.steps]
    known = [(float(step), value) for step, value in lines if value is not None]
    return [step for step, _ in known], [value for _, value in known]

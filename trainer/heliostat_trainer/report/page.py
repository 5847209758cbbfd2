"""Puts a run's numbers, curves and pictures on one page."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat_engines.files.atomic import atomic_text
from heliostat_engines.files.ownership import require_own_file
from heliostat_engines.sampling.solvers import Solver
from heliostat_trainer.evaluation.guards import measured
from heliostat_trainer.evaluation.results import guidance_label, paired_difference, prompt_interval
from heliostat_trainer.exploring.fidelity import PUBLISHED
from heliostat_trainer.folder.layout import RunFolder
from heliostat_trainer.pages.figures import Curve, curves_svg, shares_svg
from heliostat_trainer.pages.pictures import grid_uri, image_uri
from heliostat_trainer.pages.templates import render
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.record import RunRecord, read_run
from heliostat_trainer.report.axes import axes, evaluation_curve, training_curve
from heliostat_trainer.types import ExploreSteps, Fidelity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from heliostat_trainer.compare.beside import Beside
    from heliostat_trainer.evaluation.results import Evaluation
    from heliostat_trainer.evaluation.statistics import Interval
    from heliostat_trainer.report.axes import Axis

GRID_COLUMNS = 8
SIGN = " · heliostat</title>"
"""In the template, and so in every page that we wrote."""


@dataclass(frozen=True)
class Row:
    """One policy and sampler in the table of results."""

    label: str
    nfe: int
    """Transformer evaluations an image."""
    means: Sequence[Interval]
    gains: Sequence[Interval | None]
    """Paired differences to the base model, drawn in the same way; None for the base model itself."""


@dataclass(frozen=True)
class Busy:
    """Means over steps: shares of the wall time, and how many policy updates old rankings were."""

    server: float
    trainer: float
    lag: float


@dataclass(frozen=True)
class Ranking:
    """How well exploration ranked, over the steps that were watched."""

    chart: str
    watched: int
    """Steps."""
    means: Fidelity
    explore_steps: list[tuple[int, ExploreSteps]]
    """(training step, what it and those after it are explored in), the first and each raise."""


@dataclass(frozen=True)
class Flat:
    """What was skipped because its candidates did not differ."""

    chart: str
    skipped: int
    """Groups, over the whole run."""
    resting: int
    """Prompts that were drawn less often at the end."""


@dataclass(frozen=True)
class Gallery:
    """A grid of pictures under a caption."""

    caption: str
    uri: str


def write_report(
    run: Path,
    out: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    beside: Beside | None = None,
) -> Path:
    """Write RUN/report.html, or `out`, and return its path; `say` is told what is damaged.

    beside: the run and another one, whose curves are drawn, too.

    Raises:
        RunFolderError: the folder holds nothing to report.
        FilesError: the page cannot be written, or something else is there.
    """
    path = out or RunFolder(run).report
    require_own_file(path, SIGN, "give another file with --out")
    record = read_run(run)
    for problem in record.problems:
        say(problem)
    record.require_evaluation("report")
    atomic_text(path, render("report.html", _content(record, beside)))
    return path


def _content(record: RunRecord, beside: Beside | None) -> dict[str, object]:
    guided = _most_guided(record)
    return {
        "run": record,
        "rewards": record.rewards,
        "rows": _rows(record),
        "first": _sampler(record.first),
        "most_guided": None if guided is None else guidance_label(guided),
        "spread": _spread(record.first, record.rewards[0]),
        "beside": beside,
        # Of a sum one chart a summand: the sum itself has mean 0 in every group.
        "reward_curves": [
            _reward_curve(record, name, axis, beside)
            for name in record.reward.trained
            for axis in axes(beside)
        ],
        "evaluation_curves": [
            (name, _evaluation_curve(record, name, axis, beside))
            for name in record.rewards
            for axis in axes(beside)
        ],
        "ranking": _ranking(record.steps),
        "flat": _flat(record.steps),
        "tuned": [(line["step"], line["tuned"]) for line in record.steps if line.get("tuned")],
        "busy": _busy(record.steps),
        "phases": shares_svg(record.phase_seconds) if record.phase_seconds else None,
        "galleries": _galleries(record),
        "statistics": _statistics(record),
        "guard_curves": [_guard_curve(record, name) for name in measured(record.first)],
        "showcase": record.showcase,
        "image_uri": image_uri,
    }


def _rows(record: RunRecord) -> list[Row]:
    labelled = [(f"base model, {_sampler(e)}", e) for e in record.base]
    labelled += [(f"trained {e.step} steps, {_sampler(e)}", e) for e in record.trained]
    return [
        Row(
            label,
            evaluation.denoising_steps * (1 if evaluation.guidance == 1.0 else 2),
            [evaluation.means[name] for name in record.rewards],
            [_gain(record, evaluation, name) for name in record.rewards],
        )
        for label, evaluation in labelled
    ]


def _gain(record: RunRecord, evaluation: Evaluation, reward: str) -> Interval | None:
    base = record.base_of(evaluation)
    is_base = evaluation.policy is PolicyName.BASE
    return None if is_base or base is None else paired_difference(evaluation, base, reward)


def _sampler(evaluation: Evaluation) -> str:
    steps = f"{evaluation.denoising_steps} steps"
    if evaluation.solver is not Solver.EULER:
        steps += f" of {evaluation.solver}"
    return f"{steps}, {guidance_label(evaluation)}"


def _spread(evaluation: Evaluation, reward: str) -> float | None:
    """Mean standard deviation of a reward within a prompt's images; None where that is one image."""
    if len(evaluation.seeds[0]) < 2:
        return None
    return float(np.std(np.array(evaluation.rewards[reward]), axis=1, ddof=1).mean())


def _reward_curve(record: RunRecord, reward: str, axis: Axis, beside: Beside | None) -> str:
    x = axis.own([line["step"] for line in record.steps])
    curves = [
        Curve(label, x, [_mean(line, which, reward) for line in record.steps])
        for label, which in (("explored candidates", "proxy_"), ("samples trained on", ""))
    ]
    if beside is not None:
        curves += training_curve(beside, reward, axis)
    return curves_svg(curves, axis.label, f"{reward}, training prompts")


def _mean(line: Mapping[str, Any], which: str, reward: str) -> float:
    """Of a reward in a step; lines of before there could be several have one."""
    means = line.get(f"{which}rewards") or {reward: line[f"{which}reward_mean"]}
    return float(means[reward])


def _evaluation_curve(record: RunRecord, reward: str, axis: Axis, beside: Beside | None) -> str:
    guided = _most_guided(record)
    curve = _over(
        axis.own([evaluation.step for evaluation in record.progress]),
        guidance_label(record.first),
        [evaluation.means[reward] for evaluation in record.progress],
        level=None if guided is None else guided.means[reward].mean,
    )
    others = [] if beside is None else evaluation_curve(beside, reward, axis)
    return curves_svg([curve, *others], axis.label, f"{reward}, held-out prompts")


def _most_guided(record: RunRecord) -> Evaluation | None:
    """The base model with more guidance than is evaluated in between, to compare with."""
    last = record.base[-1]
    return last if last.guidance > record.first.guidance else None


def _over(
    x: Sequence[float],
    label: str,
    means: Sequence[Interval],
    level: float | None,
    marked: Sequence[float] = (),
) -> Curve:
    """A curve over evaluations, which lie at `x`."""
    half_widths = [mean.half_width for mean in means]
    known = [half for half in half_widths if half is not None]
    return Curve(
        label,
        x,
        [mean.mean for mean in means],
        known if len(known) == len(means) else None,
        markers=True,
        level=level,
        marked=marked,
    )


def _guard_curve(record: RunRecord, name: str) -> str:
    """A statistic over the evaluations, the base model's as a level, and where it alarmed."""
    means = [prompt_interval(measured(evaluation)[name]) for evaluation in record.progress]
    alarmed = {alarm.step for alarm in record.alarms if alarm.what == name}
    curve = _over(
        [evaluation.step for evaluation in record.progress],
        guidance_label(record.first),
        means,
        level=float(measured(record.first)[name].mean()),
        marked=[float(step) for step in sorted(alarmed)],
    )
    return curves_svg([curve], "training step", f"{name.replace('_', ' ')}, held-out images")


def _flat(steps: Sequence[Mapping[str, Any]]) -> Flat | None:
    """None where no group was skipped."""
    skipped = [float(line.get("skipped_groups", 0)) for line in steps]
    if not any(skipped):
        return None
    x = [float(line["step"]) for line in steps]
    waiting = [float(line.get("resting_prompts", 0)) for line in steps]
    curves = [Curve("groups skipped", x, skipped), Curve("prompts drawn less often", x, waiting)]
    return Flat(curves_svg(curves, "training step", "count"), int(sum(skipped)), int(waiting[-1]))


def _ranking(steps: Sequence[Mapping[str, Any]]) -> Ranking | None:
    """None where no step was watched."""
    lines = [line for line in steps if line.get("fidelity")]
    if not lines:
        return None
    watched = [float(line["step"]) for line in lines]
    figures = [Fidelity(**line["fidelity"]) for line in lines]
    rho = Curve("rho", watched, [f.rho for f in figures], markers=True, level=PUBLISHED.rho)
    tau_b = Curve("tau-b", watched, [f.tau_b for f in figures], markers=True, level=PUBLISHED.tau_b)
    return Ranking(
        chart=curves_svg([rho, tau_b], "training step", "rank correlation"),
        watched=len(lines),
        means=Fidelity(*np.mean([list(asdict(f).values()) for f in figures], axis=0).tolist()),
        explore_steps=_changes(steps),
    )


def _changes(steps: Sequence[Mapping[str, Any]]) -> list[tuple[int, ExploreSteps]]:
    """(training step, what it and those after it are explored in) of each change."""
    changes: list[tuple[int, ExploreSteps]] = []
    for line in steps:
        if line.get("explore_steps") is None:  # lines of before it was recorded lack it
            continue
        explored_in = ExploreSteps(line["explore_steps"], line.get("score_after"))
        if not changes or explored_in != changes[-1][1]:
            changes.append((line["step"], explored_in))
    return changes


def _galleries(record: RunRecord) -> list[Gallery]:
    shown = [(f"Base model, {_sampler(e)}", e) for e in record.base]
    shown += [(f"Trained, {_sampler(e)}", e) for e in record.trained]
    galleries = []
    for caption, evaluation in shown:
        first = [images[0] for images in record.images(evaluation)]
        if first:
            galleries.append(Gallery(caption, grid_uri(first, GRID_COLUMNS)))
    return galleries


def _statistics(record: RunRecord) -> list[tuple[str, list[Interval]]]:
    """By statistic, its mean for the base model and for the trained one."""
    trained = record.progress[1:]
    pair = [record.first, *trained[-1:]]
    labels = {"diversity": "diversity within a prompt"}
    return [
        (
            labels.get(name, name.replace("_", " ")),
            [prompt_interval(measured(evaluation)[name]) for evaluation in pair],
        )
        for name in measured(record.first)
    ]


def _busy(steps: Sequence[Mapping[str, object]]) -> Busy | None:
    """None for runs of before it was recorded."""
    lines = [line for line in steps if "server_busy" in line]
    if not lines:
        return None
    keys = ("server_busy", "trainer_busy", "version_lag")
    return Busy(*(float(np.mean(_column(lines, key))) for key in keys))


def _column(steps: Sequence[Mapping[str, object]], key: str) -> list[float]:
    return [float(str(line[key])) for line in steps]

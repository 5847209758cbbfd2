"""What an evaluation comes to: kept in the run's folder, read back, compared prompt by prompt.

Each evaluation is a folder `step-000020` in the run's `evaluation/`, with `results.json` (a list
of results: what each was made with, rewards[prompt][seed] by name, image statistics, and 95 %
intervals) and `images.safetensors` (uint8 images[P, S, H, W, 3] of the first prompts, by policy and
guidance; where prompts have sizes of their own, images[S, H, W, 3] a prompt). A resumed run may evaluate
with other settings: only evaluations that pair are compared.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from heliostat_engines.files.atomic import atomic_folder
from heliostat_engines.files.text import content_of, read_json
from heliostat_engines.resolution import read_resolution, written
from heliostat_engines.sampling.solvers import Solver
from heliostat_trainer.errors import RunFolderError
from heliostat_trainer.evaluation.statistics import Interval, interval
from heliostat_trainer.folder.layout import (
    EVALUATION_LAYOUT,
    IMAGES,
    RESULTS,
    kept_steps,
    step_folder,
)
from heliostat_trainer.policy.policy import PolicyName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from heliostat_engines.resolution import Resolution
    from heliostat_trainer.rewards import RewardSum

NO_IMAGES = (0, 1, 1, 1, 3)
"""The shape of the images of no prompt."""


@dataclass(frozen=True)
class Conditions:
    """What an evaluation is made with besides the policy; only the same ones compare."""

    guidance: float
    denoising_steps: int
    resolution_px: Resolution | None
    """None: it was not kept."""
    prompts: tuple[str, ...]
    seeds: tuple[tuple[int, ...], ...]
    solver: Solver = Solver.EULER
    sizes: tuple[Resolution, ...] = ()
    """As of an `Evaluation`."""

    def match(self, others: Conditions) -> bool:
        """Whether both are the same; a resolution that was not kept is the run's, which cannot change."""
        if self.resolution_px is None or others.resolution_px is None:
            return replace(self, resolution_px=None) == replace(others, resolution_px=None)
        return self == others

    def differences(self, others: Conditions) -> Iterator[str]:
        """What the two do not have in common, in words."""
        theirs = asdict(others)
        for name, own in asdict(self).items():
            other = theirs[name]
            if own == other or (name == "resolution_px" and None in {own, other}):
                continue
            shown = (own, other)
            if name == "resolution_px":
                shown = (written(own), written(other))
            is_plain = not isinstance(shown[0], tuple)
            yield name.replace("_", " ") + (f" ({shown[0]}, not {shown[1]})" if is_plain else "")


@dataclass(frozen=True)
class Evaluation:
    """One policy at one guidance scale, on P held-out prompts with S seeds each."""

    step: int
    policy: PolicyName
    guidance: float
    denoising_steps: int
    prompts: tuple[str, ...]
    seeds: tuple[tuple[int, ...], ...]
    """seeds[P][S]."""
    rewards: Mapping[str, list[list[float]]]
    """By reward name, rewards[P][S]."""
    means: Mapping[str, Interval]
    """By reward name: the mean over prompts."""
    statistics: Mapping[str, list[list[float]]]
    """By name, statistic[P][S] of the images."""
    diversity: list[float]
    """diversity[P] within each prompt's images; empty where there is one image of each."""
    seconds: float = 0.0
    """What it took; 0 where that was not kept."""
    resolution_px: Resolution | None = None
    """Size of the images; None in results of before it was kept."""
    solver: Solver = Solver.EULER
    """What drew them: in results of before there was another, Euler's method."""
    sizes: tuple[Resolution, ...] = ()
    """Of each prompt's images, if some have a size of their own; empty: all are of `resolution_px`."""

    @property
    def conditions(self) -> Conditions:
        """What it was made with."""
        return Conditions(
            self.guidance,
            self.denoising_steps,
            self.resolution_px,
            self.prompts,
            self.seeds,
            self.solver,
            self.sizes,
        )


def read_evaluations(
    folder: Path, say: Callable[[str], None] = lambda _: None
) -> tuple[Evaluation, ...]:
    """All evaluations of a run's `evaluation/` folder, by step; `say` is told of damaged ones."""
    evaluations: list[Evaluation] = []
    for step in kept_steps(folder):
        path = step_folder(folder, step)
        if not (path / RESULTS).exists():
            continue
        try:
            evaluations += read_results(path)
        except RunFolderError as error:
            say(f"{error}: it is left out")
    return tuple(evaluations)


def pair(after: Evaluation, before: Evaluation) -> bool:
    """Whether two evaluations were made alike: sampler, guidance, resolution, prompts and seeds."""
    return after.conditions.match(before.conditions)


def of_first_prompts(evaluation: Evaluation, count: int) -> Evaluation:
    """The evaluation as it would be of no more than its first `count` prompts."""
    sizes = told_sizes(evaluation.sizes[:count], evaluation.resolution_px)
    rewards = {name: rows[:count] for name, rows in evaluation.rewards.items()}
    return replace(
        evaluation,
        prompts=evaluation.prompts[:count],
        seeds=evaluation.seeds[:count],
        rewards=rewards,
        means={name: prompt_interval(np.array(rows)) for name, rows in rewards.items()},
        statistics={name: rows[:count] for name, rows in evaluation.statistics.items()},
        diversity=evaluation.diversity[:count],
        sizes=sizes,
    )


def told_sizes(
    sizes: Sequence[Resolution], resolution_px: Resolution | None
) -> tuple[Resolution, ...]:
    """sizes[P] as an `Evaluation` has them: none where all are the run's own."""
    return () if set(sizes) <= {resolution_px} else tuple(sizes)


def guidance_label(evaluation: Evaluation) -> str:
    """How it was guided, in words."""
    scale = evaluation.guidance
    return "no guidance" if scale == 1.0 else f"guidance {scale:g}"


def paired_difference(after: Evaluation, before: Evaluation, reward: str) -> Interval:
    """How much `after` gains over `before`, prompt by prompt on the same seeds.

    Raises:
        ValueError: they do not pair.
    """
    _require_pair(after, before)
    gain = np.array(after.rewards[reward]) - np.array(before.rewards[reward])
    return prompt_interval(gain)


def trained_gain(after: Evaluation, before: Evaluation, reward: RewardSum) -> Interval:
    """As `paired_difference`, of what is trained on, which may be a sum (`RewardSum.gain`)."""
    _require_pair(after, before)
    if len(reward.names) == 1:
        return paired_difference(after, before, reward.names[0])
    return prompt_interval(reward.gain(_stacked(after, reward), _stacked(before, reward)))


def mean_gain(after: Evaluation, before: Evaluation, reward: RewardSum) -> float:
    """The mean of `RewardSum.gain`. Raises ValueError if they do not pair."""
    _require_pair(after, before)
    mean = _stacked(after, reward).mean(axis=(0, 1))
    return float(reward.gain(mean, _stacked(before, reward)).mean())


def _require_pair(after: Evaluation, before: Evaluation) -> None:
    if not pair(after, before):
        raise ValueError("the evaluations were made with different settings: they do not pair")


def _stacked(evaluation: Evaluation, reward: RewardSum) -> NDArray[np.float64]:
    """values[P, S, R]."""
    return np.stack([np.array(evaluation.rewards[name]) for name in reward.names], axis=-1)


def prompt_interval(values: NDArray[np.float64]) -> Interval:
    """Mean of values[P, S] with its interval over prompts, the independent draws."""
    return interval(torch.from_numpy(values.mean(axis=1)))


def write_results(
    folder: Path, evaluations: Sequence[Evaluation], pictures: Sequence[Sequence[torch.Tensor]]
) -> None:
    """Keep a step's evaluations in its folder, of each with images[S, H, W, 3] of its first prompts.

    Raises:
        FilesError: they cannot be written.
    """
    images = {
        key: value
        for each, shown in zip(evaluations, pictures, strict=True)
        for key, value in _named(_key(each), shown).items()
    }
    with atomic_folder(folder, EVALUATION_LAYOUT) as draft:
        content = json.dumps([asdict(evaluation) for evaluation in evaluations])
        (draft / RESULTS).write_text(content, encoding="utf-8")
        (draft / IMAGES).write_bytes(save(images))


def read_results(folder: Path) -> list[Evaluation]:
    """The evaluations in a step's folder. Raises RunFolderError."""
    path = folder / RESULTS
    with content_of(path, kind=RunFolderError):
        return [_evaluation(entry) for entry in read_json(path)]


def read_pictures(folder: Path, evaluation: Evaluation) -> tuple[NDArray[np.uint8], ...]:
    """images[S, H, W, 3] of each prompt, as an evaluation kept them in its step's folder.

    Raises:
        RunFolderError: they are not there, or of another form.
    """
    path, key = folder / IMAGES, _key(evaluation)
    with content_of(path, kind=RunFolderError):
        kept = load_file(path)
        apart = [kept[name][None] for name in sorted(kept) if name.startswith(f"{key}/")]
        together = [each.numpy() for each in apart or [kept[key]]]
        if any(each.ndim != 5 or each.dtype != np.uint8 for each in together):
            raise ValueError("its images are of another form")
    return tuple(images for each in together for images in each)


def _named(key: str, pictures: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """images[S, H, W, 3] of each prompt by name: in one tensor, unless prompts have sizes of their own."""
    pictures = list(pictures)
    shapes = {each.shape for each in pictures}
    if len(shapes) > 1:
        return {f"{key}/{row:06d}": each.contiguous() for row, each in enumerate(pictures)}
    return {key: torch.stack(pictures) if pictures else torch.zeros(NO_IMAGES, dtype=torch.uint8)}


def _key(evaluation: Evaluation) -> str:
    """Of an evaluation's images among its step's."""
    return f"{evaluation.policy}/guidance_{evaluation.guidance:g}"


def _evaluation(entry: dict[str, object]) -> Evaluation:
    fields: dict[str, object] = dict(entry)
    fields["policy"] = PolicyName(str(entry["policy"]))
    fields["solver"] = Solver(str(entry.get("solver", Solver.EULER)))
    fields["resolution_px"] = _size(entry.get("resolution_px"))
    fields["sizes"] = tuple(map(_size, entry.get("sizes", ())))  # type: ignore[call-overload]
    fields["prompts"] = tuple(entry["prompts"])  # type: ignore[arg-type]
    fields["seeds"] = tuple(tuple(group) for group in entry["seeds"])  # type: ignore[attr-defined]
    rewards: dict[str, list[list[float]]] = entry["rewards"]  # type: ignore[assignment]
    _check_numbers(fields)
    # anew: of a single prompt there once was an interval of width 0
    fields["means"] = {name: prompt_interval(np.array(v)) for name, v in rewards.items()}
    return Evaluation(**fields)  # type: ignore[arg-type]


def _size(kept: Any) -> Resolution | None:
    """Of what JSON holds."""
    return None if kept is None else read_resolution(kept)


def _check_numbers(fields: Mapping[str, Any]) -> None:
    """Raises ValueError or TypeError if what should be a number, or one for each, is not."""
    for name, kind in (("step", int), ("denoising_steps", int | float), ("guidance", int | float)):
        if not isinstance(fields[name], kind):
            raise TypeError(f"{name} is no number")
    shape = np.shape(fields["seeds"])
    each = [(*item, shape) for key in ("rewards", "statistics") for item in fields[key].items()]
    if shape[1] > 1:
        each.append(("diversity", fields["diversity"], shape[:1]))
    for name, values, wanted in each:
        if np.shape(values) != wanted or not np.isfinite(values).all():
            raise ValueError(f"{name} is not one number for each")

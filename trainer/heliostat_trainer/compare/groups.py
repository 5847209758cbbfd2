"""Run folders, read; put together where they differ in their seed alone; refused where they do not compare."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat_engines.precisions import Precision
from heliostat_trainer.errors import CompareError, ConfigError, RunFolderError
from heliostat_trainer.evaluation.results import of_first_prompts, pair
from heliostat_trainer.folder.layout import RunFolder
from heliostat_trainer.folder.metrics import number
from heliostat_trainer.forecast.work import Made
from heliostat_trainer.record import read_run
from heliostat_trainer.settings.compare import flatten, kept_config
from heliostat_trainer.tuning import Shape, configured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from heliostat_trainer.evaluation.results import Evaluation
    from heliostat_trainer.record import RunRecord
    from heliostat_trainer.settings.config import TrainConfig

SEED = "run.seed"
WITHOUT_EFFECT = ("run.name", "run.folder", "server.", "logging.")
"""Settings, or sections, by which neither results nor costs differ."""
SHORTEST_LABEL = 3


@dataclass(frozen=True)
class Run:
    """One run, with those of its evaluations that pair with the first run's."""

    name: str
    record: RunRecord
    config: TrainConfig
    progress: tuple[Evaluation, ...]
    """By step, from the base model's on."""

    @property
    def seed(self) -> int:
        """Of its random numbers."""
        return self.config.run.seed

    @property
    def facts(self) -> Mapping[str, object]:
        """All that results and costs may depend on besides the seed: settings, server, arithmetic."""
        settings = {
            key: value
            for key, value in flatten(self.config).items()
            if key != SEED and not key.startswith(WITHOUT_EFFECT)
        }
        server, arithmetic = self.record.server, self.record.arithmetic
        return settings | {
            "trainer computes in": arithmetic.trainer,
            "server computes in": arithmetic.server,
            "server's precision": server.get("precision", ""),
            "server's runtime": server.get("runtime", ""),
            "server's resolution_px": server.get("resolution_px", ""),
            "server's weights": server.get("weights_digest", ""),
        }

    def has_weights_of(self, other: Run) -> bool:
        """Whether both train the same weights: by their digests if both are known, else by name."""
        digests = {run.record.server.get("weights_digest") for run in (self, other)}
        if all(digests):
            return len(digests) == 1
        return self.config.model.checkpoint == other.config.model.checkpoint

    @property
    def explores_in_bf16(self) -> bool:
        """Whether its server drew candidates unquantised."""
        return bool(self.record.server.get("precision") == Precision.BF16)

    @property
    def made(self) -> list[Made]:
        """What each training step was made of."""
        shape, lines = configured(self.config), {line["step"]: line for line in self.record.steps}
        made = []
        for step in range(1, max(lines, default=0) + 1):
            line = lines.get(step, {})  # of one that is damaged: as the step before it
            if self.config.recipe.tune:
                shape = _shape(line) or shape
            made.append(Made(shape, int(number(line, "skipped_groups") or 0)))
        return made

    def elapsed(self, steps: Sequence[int]) -> list[float]:
        """Seconds of training until each step; NaN after the last line of metrics.jsonl."""
        lines = self.record.steps
        until = {0.0: 0.0} | {float(line["step"]): float(line["elapsed_s"]) for line in lines}
        done = sorted(until)
        times = np.interp(steps, done, [until[step] for step in done], right=np.nan)
        return [float(time) for time in times]


@dataclass(frozen=True)
class Group:
    """Runs of one setting with a seed each."""

    label: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """Whose pictures stand for all."""
        return self.runs[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """One a run."""
        return tuple(run.seed for run in self.runs)

    @property
    def steps(self) -> list[int]:
        """The training steps that all runs were evaluated after, from 0 on."""
        each = [{evaluation.step for evaluation in run.progress} for run in self.runs]
        return sorted(set.intersection(*each))


def read_runs(folders: Sequence[Path], say: Callable[[str], None]) -> tuple[Run, ...]:
    """Read run folders, each once; `say` is told what is damaged, and of what to beware.

    Raises:
        CompareError: there is one only, or they do not compare; names what differs.
        RunFolderError: one is no run, cannot be read, or has no evaluation yet.
    """
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    if len(distinct) < 2:
        raise CompareError(f"{folders[0]} is one run: name another one to compare it with")
    names = _names(distinct)
    first = _read(distinct[0], names[0], say)
    runs = [first, *(_read(*place, say) for place in zip(distinct[1:], names[1:], strict=True))]
    return tuple(_comparable(run, first, say) for run in runs)


def read_pair(folder: Path, other: Path, say: Callable[[str], None]) -> tuple[Run, Run]:
    """Read a run and another one to show it beside, of which there is what pairs with the first.

    What is damaged in the first is not said: whoever shows it says so. The other one may have been
    evaluated on further prompts, as on a machine with more time for them: they are left out.

    Raises:
        CompareError: they are one run, or do not compare; names what differs.
        RunFolderError: one is no run, cannot be read, or has no evaluation yet.
    """
    if folder.resolve() == other.resolve():
        raise CompareError(f"{other} is the run itself: name another one to show it beside")
    name, other_name = _names([folder, other])
    own = _run(name, read_run(folder), say)
    beside = _read(other, other_name, say)
    count = len(own.progress[0].prompts)
    cut = tuple(of_first_prompts(evaluation, count) for evaluation in beside.record.evaluations)
    beside = replace(beside, record=replace(beside.record, evaluations=cut))
    return own, _comparable(beside, own, say)


def group_runs(runs: Sequence[Run], say: Callable[[str], None]) -> tuple[Group, ...]:
    """Put runs together that differ in their seed alone, in the order of their first ones."""
    groups: list[list[Run]] = []
    for run in runs:
        alike = next((group for group in groups if group[0].facts == run.facts), None)
        if alike is None:
            groups.append([run])
            continue
        twin = next((other for other in alike if other.seed == run.seed), None)
        if twin is None:
            alike.append(run)
        else:
            say(
                f"{run.name} has the settings and the {SEED} of {twin.name}: it is no draw of its "
                "own, and left out"
            )
    labels = _labels(groups)
    return tuple(Group(label, tuple(group)) for label, group in zip(labels, groups, strict=True))


def differences(groups: Sequence[Group]) -> dict[str, tuple[object, ...]]:
    """What the groups do not have in common: by setting, the value of each; None: it has none."""
    facts = [group.first.facts for group in groups]
    keys = dict.fromkeys(key for each in facts for key in each)
    values = {key: tuple(each.get(key) for each in facts) for key in keys}
    return {key: each for key, each in values.items() if any(one != each[0] for one in each)}


def _read(folder: Path, name: str, say: Callable[[str], None]) -> Run:
    record = read_run(folder)
    for problem in record.problems:
        say(problem)
    return _run(name, record, say)


def _run(name: str, record: RunRecord, say: Callable[[str], None]) -> Run:
    record.require_evaluation("compare")
    try:
        config = kept_config(record.settings)
    except ConfigError as error:
        raise RunFolderError(
            f"{RunFolder(record.folder).run_file} holds settings of another version: {error}"
        ) from error
    _say_miscounts(name, record, config, say)
    return Run(name, record, config, record.progress)


def _shape(line: Mapping[str, Any]) -> Shape | None:
    """What a step was made of, by its metrics; None: they do not say."""
    keys = ("prompts", "explored", "keep_pairs", "explore_steps")
    counts = [number(line, key) for key in keys]
    if not all(counts):
        return None
    prompts, explored, keep_pairs, explore_steps = (int(count or 0) for count in counts)
    evaluated = int(number(line, "score_after") or explore_steps)
    if explored < prompts or prompts < 1:
        return None
    return Shape(prompts, explored // prompts, keep_pairs, evaluated)


def _say_miscounts(
    name: str, record: RunRecord, config: TrainConfig, say: Callable[[str], None]
) -> None:
    """Evaluations are counted from settings: say where a run did not do what these say."""
    planned = config.recipe.pool_evaluations
    explored = [
        number(line, "score_after") or number(line, "explore_steps") or 0 for line in record.steps
    ]
    if not config.recipe.tune and any(evaluated > planned for evaluated in explored):
        say(
            f"{name} came to explore in more than {planned} steps: its evaluations do not count these"
        )


def _comparable(run: Run, first: Run, say: Callable[[str], None]) -> Run:
    """The run with what pairs with the first one. Raises CompareError if nothing does."""
    family, wanted = run.config.model.family, first.config.model.family
    if family != wanted:
        raise CompareError(
            f"{run.name} trains another model (model.family = {family}) than {first.name} "
            f"({wanted}): leave it out"
        )
    base = first.progress[0]
    own = next((other for other in run.record.base if pair(other, base)), None)
    if own is None:
        what = ", ".join(run.progress[0].conditions.differences(base.conditions))
        raise CompareError(
            f"{run.name} was evaluated with other {what} than {first.name}: leave it out, or resume "
            "it with the same [evaluation]"
        )
    if not run.has_weights_of(first):
        say(
            f"{run.name} trains other weights (model.checkpoint) than {first.name}: each gain is over "
            "the run's own base model"
        )
    return replace(run, progress=run.record.since(own))


def _names(folders: Sequence[Path]) -> list[str]:
    """Of folders: their last part, or where they are if that says too little."""
    names = [folder.resolve().name for folder in folders]
    return [
        name if names.count(name) == 1 else str(folder)
        for name, folder in zip(names, folders, strict=True)
    ]


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """A run's name, or what several of one group have in common, if that is no other's too."""
    short = [_common([run.name for run in group]) for group in groups]
    return [
        label if short.count(label) == 1 else group[0].name
        for label, group in zip(short, groups, strict=True)
    ]


def _common(names: Sequence[str]) -> str:
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    prefix = "".join(letters[0] for letters in alike).rstrip("-_.")
    return names[0] if len(names) == 1 or len(prefix) < SHORTEST_LABEL else prefix

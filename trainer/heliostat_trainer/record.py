"""What a report is drawn from: a run folder, read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from heliostat_trainer.errors import RunFolderError
from heliostat_trainer.evaluation.guards import Alarm, alarms
from heliostat_trainer.evaluation.results import Evaluation, pair, read_evaluations, read_pictures
from heliostat_trainer.evaluation.showcase import Showcase, read_showcase
from heliostat_trainer.folder.layout import RunEntry, RunFolder, step_folder
from heliostat_trainer.folder.metrics import number, read_metrics
from heliostat_trainer.folder.run_file import (
    Arithmetic,
    read_arithmetic,
    read_server,
    read_settings,
)
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.settings.evaluation import EvaluationSection, GuardsSection
from heliostat_trainer.settings.reward import RewardSection
from heliostat_trainer.settings.run import ModelSection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RunRecord:
    """One run: its settings, its steps, its evaluations, its pictures."""

    name: str
    settings: Mapping[str, Any]
    """section.key -> value."""
    steps: tuple[Mapping[str, Any], ...]
    """The lines of metrics.jsonl."""
    evaluations: tuple[Evaluation, ...]
    folder: Path
    showcase: Showcase | None
    arithmetic: Arithmetic
    """What trainer and server computed in."""
    server: Mapping[str, Any]
    """What the server said of itself; empty for runs of before it was kept."""
    problems: tuple[str, ...] = ()
    """What is damaged and therefore left out, a sentence each."""

    @property
    def model(self) -> ModelSection:
        """The model that was trained, as it was kept: a key of before or after now is left out."""
        return ModelSection.model_construct(**self._section("model"))

    @property
    def reward(self) -> RewardSection:
        """What was trained on, and the rewards that were not."""
        return RewardSection.model_validate(self._section("reward"))

    @property
    def rewards(self) -> tuple[str, ...]:
        """The trained rewards, then the held-out ones."""
        return self.reward.all

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Of all evaluations, by step; runs of before there were guards have the default ones."""
        guards = GuardsSection.model_validate(self._section("guards"))
        return tuple(
            alarm
            for base, *trained in [self.progress]
            for evaluation in trained
            for alarm in alarms(guards, self.reward, base, evaluation)
        )

    @property
    def base(self) -> tuple[Evaluation, ...]:
        """The base model's evaluations, one a guidance scale, the lowest first."""
        return _by_guidance(e for e in self.evaluations if e.policy is PolicyName.BASE)

    @property
    def first(self) -> Evaluation:
        """The base model at the guidance scale that is evaluated in between. There must be a base."""
        wanted = EvaluationSection.model_validate(self._section("evaluation")).guidances[0]
        return next((e for e in self.base if e.guidance == wanted), self.base[0])

    @property
    def trained(self) -> tuple[Evaluation, ...]:
        """The trained policy's last evaluation that pairs with the base model's, by guidance scale."""
        last = max((e.step for e in self._paired), default=None)
        return _by_guidance(e for e in self._paired if e.step == last)

    @property
    def progress(self) -> tuple[Evaluation, ...]:
        """Evaluations that pair with `first`, by step, beginning with it."""
        return self.since(self.first)

    def since(self, base: Evaluation) -> tuple[Evaluation, ...]:
        """Evaluations that pair with one of the base model, by step, beginning with it."""
        paired = [e for e in self._paired if pair(e, base)]
        return (base, *sorted(paired, key=lambda e: e.step))

    @property
    def unpaired(self) -> int:
        """Evaluations of the trained policy that the base model has none to compare with of."""
        trained = [e for e in self.evaluations if e.policy is not PolicyName.BASE]
        return len(trained) - len(self._paired)

    def base_of(self, evaluation: Evaluation) -> Evaluation | None:
        """The base model's evaluation that was made in the same way."""
        return next((base for base in self.base if pair(evaluation, base)), None)

    @property
    def phase_seconds(self) -> Mapping[str, float]:
        """Mean seconds a step of each phase, over the steps that say it."""
        lines = [line["seconds"] for line in self.steps if isinstance(line.get("seconds"), dict)]
        phases = dict.fromkeys(phase for line in lines for phase in line)
        return {
            phase: sum(number(line, phase) or 0.0 for line in lines) / len(lines)
            for phase in phases
        }

    def require_evaluation(self, purpose: str) -> None:
        """Raises RunFolderError if the base model was not evaluated yet: there is nothing to show."""
        if not self.base:
            raise RunFolderError(f"{self.folder} has no evaluation yet: nothing to {purpose}")

    def images(self, evaluation: Evaluation) -> tuple[NDArray[np.uint8], ...]:
        """images[S, H, W, 3] of each prompt that an evaluation kept some of."""
        folder = step_folder(RunFolder(self.folder).evaluations, evaluation.step)
        return read_pictures(folder, evaluation)

    def _section(self, name: str) -> dict[str, Any]:
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): value
            for key, value in self.settings.items()
            if key.startswith(prefix)
        }

    @property
    def _paired(self) -> list[Evaluation]:
        """The trained policy's evaluations that the base model has one to compare with of."""
        trained = [e for e in self.evaluations if e.policy is not PolicyName.BASE]
        return [e for e in trained if self.base_of(e) is not None]


def read_run(folder: Path) -> RunRecord:
    """Read a run folder; of what is damaged in it, all but the settings is left out.

    Raises:
        RunFolderError: it is none, or its settings cannot be read.
    """
    files = RunFolder(folder)
    if not files.run_file.exists():
        raise RunFolderError(f"{folder} is no run folder: it has no {RunEntry.RUN_FILE}")
    problems: list[str] = []
    record = RunRecord(
        name=folder.resolve().name,
        settings=read_settings(folder),
        steps=tuple(read_metrics(files.metrics, problems.append)),
        evaluations=read_evaluations(files.evaluations, problems.append),
        folder=folder,
        arithmetic=read_arithmetic(folder),
        server=read_server(folder),
        showcase=_showcase(files.showcase, problems.append),
    )
    return replace(record, problems=tuple(problems))


def _showcase(folder: Path, say: Callable[[str], None]) -> Showcase | None:
    try:
        return read_showcase(folder)
    except RunFolderError as error:
        say(f"{error}: it is left out")
        return None


def _by_guidance(evaluations: Iterable[Evaluation]) -> tuple[Evaluation, ...]:
    return tuple(sorted(evaluations, key=lambda evaluation: evaluation.guidance))

"""TensorBoard and Weights & Biases: the numbers of metrics.jsonl and the pictures of evaluations.

A tracker that fails is told once and left out from then on: it never costs the run.
"""

from __future__ import annotations

import os
import uuid
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from heliostat_engines.errors import first_line
from heliostat_engines.files.atomic import atomic_text
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.evaluation.guards import measured
from heliostat_trainer.evaluation.results import read_pictures
from heliostat_trainer.folder.layout import RunFolder
from heliostat_trainer.settings.compare import flatten
from heliostat_trainer.settings.run import TrackerName, WandbMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from heliostat_trainer.evaluation.results import Evaluation
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.settings.run import LoggingSection
    from heliostat_trainer.types import StepMetrics

MODULES = {TrackerName.TENSORBOARD: "torch.utils.tensorboard", TrackerName.WANDB: "wandb"}


class Tracker(ABC):
    """Where a run's numbers and pictures go besides its folder."""

    @abstractmethod
    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Values by name, with / between a group and its members."""

    @abstractmethod
    def pictures(
        self,
        step: int,
        name: str,
        images: Sequence[NDArray[np.uint8]],
        captions: Sequence[str],
    ) -> None:
        """image[H, W, 3] by image, a caption each."""

    @abstractmethod
    def close(self) -> None:
        """Write out what is pending."""


class Trackers:
    """All trackers of a run that have not failed; none of them is the usual case."""

    def __init__(
        self,
        settings: LoggingSection,
        openers: Mapping[TrackerName, Callable[[], Tracker]],
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._say = say
        self._trackers: dict[TrackerName, Tracker] = {}
        for name, opener in openers.items():
            with self._at_its_own_risk(name):
                self._trackers[name] = opener()

    def step(self, metrics: StepMetrics) -> None:
        """A training step is complete."""
        numbers = dict(numbers_of(asdict(metrics)))
        self._each(lambda tracker: tracker.numbers(metrics.step, numbers))

    def evaluated(self, evaluation: Evaluation, folder: Path) -> None:
        """An evaluation is complete, and `folder` has its pictures."""
        if not self._trackers:
            return
        name = f"evaluation/guidance_{evaluation.guidance:g}"
        numbers = {f"{name}/{reward}": mean.mean for reward, mean in evaluation.means.items()}
        numbers |= {f"{name}/{k}": float(v.mean()) for k, v in measured(evaluation).items()}
        kept = read_pictures(folder, evaluation)[: self._settings.pictures]
        images = [of_prompt[0] for of_prompt in kept]
        captions = evaluation.prompts[: len(images)]
        self._each(lambda tracker: tracker.numbers(evaluation.step, numbers))
        if images:
            self._each(lambda tracker: tracker.pictures(evaluation.step, name, images, captions))

    def close(self) -> None:
        """Write out what is pending."""
        self._each(lambda tracker: tracker.close())

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            with self._at_its_own_risk(name):
                action(tracker)

    @contextmanager
    def _at_its_own_risk(self, name: TrackerName) -> Iterator[None]:
        """Leave a tracker out from now on if the block fails."""
        try:
            yield
        except Exception as error:  # whatever a package raises
            self._trackers.pop(name, None)
            self._say(
                f"{name} has failed ({first_line(error)}): nothing more is logged there, and the run "
                "goes on; metrics.jsonl has every number"
            )


def require_trackers(settings: LoggingSection) -> None:
    """Find out before anything is spent whether the packages are there.

    Raises:
        ConfigError: one is not, or has no key and no terminal to ask for it; says what to do.
    """
    for name in settings.to:
        try:
            import_module(MODULES[name])
        except ImportError as error:
            raise ConfigError(
                f"logging.to: {name} is not installed ({error}): pip install 'heliostat[{name}]', "
                "or leave it out"
            ) from error
    if TrackerName.WANDB in settings.to and settings.mode is WandbMode.ONLINE:
        _log_in()


def _log_in() -> None:
    """Have W&B find its key, or ask for it where there is a terminal. Raises ConfigError."""
    wandb: Any = import_module(MODULES[TrackerName.WANDB])
    try:
        found = wandb.login(verify=False)
    except Exception as error:  # of its own kinds, which versions differ in
        raise ConfigError(_without_key(first_line(error))) from error
    if not found and "WANDB_MODE" not in os.environ:  # with that set, it does not look
        raise ConfigError(_without_key("no key was given"))


def _without_key(reason: str) -> str:
    return (
        f"logging.to: wandb cannot log in ({reason}): set WANDB_API_KEY or run `wandb login`, set "
        "logging.mode = 'offline', or leave wandb out"
    )


def open_trackers(config: TrainConfig, step: int, say: Callable[[str], None]) -> Trackers:
    """Begin, or go on after `step`: what was logged of later steps is done anew.

    `say` is told of a tracker that fails, now or later.
    """
    kinds = {TrackerName.TENSORBOARD: TensorBoard, TrackerName.WANDB: WeightsAndBiases}
    openers = {name: partial(kinds[name], config, step) for name in config.logging.to}
    return Trackers(config.logging, openers, say)


class TensorBoard(Tracker):
    """Event files in the run's `tensorboard/`."""

    def __init__(self, config: TrainConfig, step: int) -> None:
        module: Any = import_module(MODULES[TrackerName.TENSORBOARD])
        folder = RunFolder(config.run.path).tensorboard
        self._writer = module.SummaryWriter(str(folder), purge_step=step + 1)
        settings = "\n".join(f"    {key} = {value!r}" for key, value in flatten(config).items())
        self._writer.add_text("settings", settings, step)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """A chart a name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(
        self,
        step: int,
        name: str,
        images: Sequence[NDArray[np.uint8]],
        captions: Sequence[str],
    ) -> None:
        """A row of pictures a prompt."""
        for row, (image, caption) in enumerate(zip(images, captions, strict=True)):
            self._writer.add_image(f"{name}/{row}: {caption}", image, step, dataformats="HWC")

    def close(self) -> None:
        """Write out what is pending."""
        self._writer.close()


class WeightsAndBiases(Tracker):
    """A W&B run; a resumed run goes on in the same one."""

    def __init__(self, config: TrainConfig, step: int) -> None:  # noqa: ARG002  # W&B's axis is ours
        wandb: Any = import_module(MODULES[TrackerName.WANDB])
        settings, run = config.logging, config.run
        self._image = wandb.Image
        self._run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            name=run.name,
            id=_run_id(RunFolder(run.path).wandb_id),
            dir=str(run.path),
            config=flatten(config),
            mode=settings.mode.value,
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("*", step_metric="training_step")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """A chart a name, over the training step."""
        self._run.log({"training_step": step, **values})

    def pictures(
        self,
        step: int,
        name: str,
        images: Sequence[NDArray[np.uint8]],
        captions: Sequence[str],
    ) -> None:
        """A panel of captioned pictures."""
        each = zip(images, captions, strict=True)
        panel = [self._image(image, caption=caption) for image, caption in each]
        self._run.log({"training_step": step, f"{name}/images": panel})

    def close(self) -> None:
        """Write out what is pending."""
        self._run.finish()


def numbers_of(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested metrics, by their path, without text and what was not measured."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from numbers_of(value, f"{prefix}{key}/")
        elif value is not None and not isinstance(value, str):
            yield f"{prefix}{key}", float(value)


def _run_id(path: Path) -> str:
    if not path.exists():
        atomic_text(path, uuid.uuid4().hex)
    return path.read_text(encoding="utf-8")

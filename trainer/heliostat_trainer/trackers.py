"""TensorBoard and Weights & Biases: the numbers of metrics.jsonl and the pictures of evaluations."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.torch import load_file

from heliostat_engines.files import atomic_text
from heliostat_trainer.config import TrackerName, flatten
from heliostat_trainer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from heliostat_trainer.config import LoggingSection, TrainConfig
    from heliostat_trainer.evaluate import Evaluation
    from heliostat_trainer.types import StepMetrics

MODULES = {TrackerName.TENSORBOARD: "torch.utils.tensorboard", TrackerName.WANDB: "wandb"}


class Tracker(ABC):
    """Where a run's numbers and pictures go besides its folder."""

    @abstractmethod
    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Values by name, with / between a group and its members."""

    @abstractmethod
    def pictures(
        self, step: int, name: str, images: NDArray[np.uint8], captions: Sequence[str]
    ) -> None:
        """images[B, H, W, 3], a caption each."""

    @abstractmethod
    def close(self) -> None:
        """Write out what is pending."""


class Trackers:
    """All trackers of a run; none of them is the usual case."""

    def __init__(self, settings: LoggingSection, trackers: Iterable[Tracker]) -> None:
        self._settings = settings
        self._trackers = tuple(trackers)

    def step(self, metrics: StepMetrics) -> None:
        """A training step is complete."""
        numbers = dict(numbers_of(asdict(metrics)))
        for tracker in self._trackers:
            tracker.numbers(metrics.step, numbers)

    def evaluated(self, evaluation: Evaluation, folder: Path) -> None:
        """An evaluation is complete, and `folder` has its pictures."""
        if not self._trackers:
            return
        name = f"evaluation/guidance_{evaluation.guidance:g}"
        numbers = {f"{name}/{reward}": mean.mean for reward, mean in evaluation.means.items()}
        numbers |= {f"{name}/{k}": float(np.mean(v)) for k, v in evaluation.statistics.items()}
        numbers[f"{name}/diversity"] = float(np.mean(evaluation.diversity))
        key = f"{evaluation.policy}/guidance_{evaluation.guidance:g}"
        images = load_file(folder / "images.safetensors")[key][: self._settings.pictures, 0].numpy()
        for tracker in self._trackers:
            tracker.numbers(evaluation.step, numbers)
            if len(images):
                tracker.pictures(evaluation.step, name, images, evaluation.prompts[: len(images)])

    def close(self) -> None:
        """Write out what is pending."""
        for tracker in self._trackers:
            tracker.close()


def require_trackers(settings: LoggingSection) -> None:
    """Find out before anything is spent whether the packages are there.

    Raises:
        ConfigError: one is not; says how to install it.
    """
    for name in settings.to:
        try:
            import_module(MODULES[name])
        except ImportError as error:
            raise ConfigError(
                f"logging.to: {name} is not installed ({error}): pip install 'heliostat[{name}]', "
                "or leave it out"
            ) from error


def open_trackers(config: TrainConfig, step: int) -> Trackers:
    """Begin, or go on after `step`: what was logged of later steps is done anew."""
    require_trackers(config.logging)
    kinds = {TrackerName.TENSORBOARD: TensorBoard, TrackerName.WANDB: WeightsAndBiases}
    return Trackers(config.logging, [kinds[name](config, step) for name in config.logging.to])


class TensorBoard(Tracker):
    """Event files in the run's `tensorboard/`."""

    def __init__(self, config: TrainConfig, step: int) -> None:
        module: Any = import_module(MODULES[TrackerName.TENSORBOARD])
        folder = config.run.path / "tensorboard"
        self._writer = module.SummaryWriter(str(folder), purge_step=step + 1)
        settings = "\n".join(f"    {key} = {value!r}" for key, value in flatten(config).items())
        self._writer.add_text("settings", settings, step)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """A chart a name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(
        self, step: int, name: str, images: NDArray[np.uint8], captions: Sequence[str]
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
            id=_run_id(run.path / "wandb-id.txt"),
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
        self, step: int, name: str, images: NDArray[np.uint8], captions: Sequence[str]
    ) -> None:
        """A panel of captioned pictures."""
        each = zip(images, captions, strict=True)
        panel = [self._image(image, caption=caption) for image, caption in each]
        self._run.log({"training_step": step, f"{name}/images": panel})

    def close(self) -> None:
        """Write out what is pending."""
        self._run.finish()


def numbers_of(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested metrics, by their path; what is None was not measured."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from numbers_of(value, f"{prefix}{key}/")
        elif value is not None:
            yield f"{prefix}{key}", float(value)


def _run_id(path: Path) -> str:
    if not path.exists():
        atomic_text(path, uuid.uuid4().hex)
    return path.read_text(encoding="utf-8")

"""[run], [model], [checkpoint] and [logging]: what is trained, where, and what is kept of it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from heliostat_engines.resolution import ResolutionPx  # noqa: TC001 (pydantic reads it)
from heliostat_engines.settings import Count, Positive, Settings

if TYPE_CHECKING:
    from heliostat_engines.families.family import Family
    from heliostat_engines.resolution import Resolution


class TrackerName(StrEnum):
    """Where numbers and pictures go besides the run folder."""

    TENSORBOARD = "tensorboard"
    """Event files in the run folder."""
    WANDB = "wandb"
    """Weights & Biases."""


class WandbMode(StrEnum):
    """What Weights & Biases does with a run."""

    ONLINE = "online"
    """Sends it as it goes."""
    OFFLINE = "offline"
    """Keeps it in the run folder, for `wandb sync`."""


class RunSection(Settings):
    """[run]: what the run is called, and when it ends."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Name of the run's folder and of the experiment on the server."""
    folder: Path = Path("runs")
    """Where run folders are kept, relative to the working directory."""
    seed: Annotated[int, Field(ge=0)] = 42
    """Seed of all of the run's random numbers."""
    steps: Count = 200
    """Training steps."""
    minutes: Positive | None = None
    """Time budget: training stops after the step that passes it, whatever `steps` says. Evaluations
    come on top."""
    threads: Count | None = None
    """CPU threads of the trainer, or of each rank; by default as many as there are cores that it may
    use, which a machine's ranks share."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto, cpu or cuda: where the policy lives; under torchrun, a card of its own for each rank."""

    @property
    def path(self) -> Path:
        """The run's own folder."""
        return self.folder / self.name


class ModelSection(Settings):
    """[model]: the diffusion model; the server must serve the same one."""

    family: str = "demo"
    """Model family."""
    checkpoint: str | None = None
    """Folder in diffusers' layout (relative to the TOML) or Hugging Face name; by default the
    family's own."""
    resolution_px: ResolutionPx | None = None
    """Size of the images: the side of a square, or [width, height], as [832, 1216]; by default the family's own."""
    sample_batch: Count = 48
    """Images that the trainer draws at once, on each rank (memory and speed only)."""
    gradient_checkpointing: bool = False
    """Keep only the blocks' inputs for the backward pass and evaluate each block again in it: a
    fraction of the memory of activations for about a third more time; the same gradients."""
    compile: bool = False
    """Compile the transformer's repeated blocks with torch.compile: faster after some minutes at the
    start, and again where a batch has another size. Results differ in the last bits."""
    shard: bool = False
    """Under torchrun: spread the frozen transformer over the ranks, each of which then holds a part
    and gathers a block at a time. For models that do not fit one card; slower than without."""

    def checkpoint_of(self, family: Family) -> str:
        """The one that is trained on: the family's own where the settings name none."""
        return self.checkpoint or family.default_checkpoint

    def resolution_of(self, family: Family) -> Resolution:
        """Size of the images in pixels: the family's own where the settings name none."""
        return self.resolution_px or family.default_resolution_px


class CheckpointSection(Settings):
    """[checkpoint]: what a run resumes from."""

    every: Count = 5
    """Steps between checkpoints."""
    keep: Count = 2
    """How many of the latest are kept, besides the best evaluated one."""


class LoggingSection(Settings):
    """[logging]: the numbers of metrics.jsonl and evaluation pictures, to other tools."""

    to: tuple[TrackerName, ...] = ()
    """tensorboard (heliostat[tensorboard]; files in the run's tensorboard/), wandb (heliostat[wandb]),
    both or none."""
    project: str = "heliostat"
    """Project at Weights & Biases; the run is called run.name there."""
    entity: str | None = None
    """User or team at Weights & Biases; by default yours."""
    mode: WandbMode = WandbMode.ONLINE
    """online, or offline: kept in the run's wandb/, for `wandb sync` later."""
    pictures: Annotated[int, Field(ge=0)] = 8
    """Prompts whose first picture is logged with each evaluation, of evaluation.images."""

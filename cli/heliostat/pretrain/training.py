"""The one training loop that all stages share: AdamW, a warm start, a long decay, an average.

A stage gives a loss as a function of (module, step). Batches are drawn from the step's own seed,
so a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from heliostat.pretrain.checkpoint import load_optimizer, optimizer_tensors, save_tensors
from heliostat_engines.errors import CheckpointError
from heliostat_engines.files.weights import load_exactly, read_metadata, read_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from heliostat.pretrain.progress import StageProgress

    Loss = Callable[[torch.nn.Module, int], torch.Tensor]


@dataclass(frozen=True)
class TrainSettings:
    """Numbers of one stage's training run."""

    steps: int
    batch: int
    learning_rate: float
    seed: int
    warmup_steps: int = 100
    decay_steps: int = 1000
    """Steps at the end over which the learning rate falls to zero; constant before."""
    weight_decay: float = 0.01
    beta2: float = 0.98
    grad_clip: float = 1.0
    average_decay: float = 0.998
    """Of the exponential moving average of the weights, the one that is exported."""
    checkpoint_every_s: float = 120.0
    history_every_steps: int = 50

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, a plateau, and a linear decay to zero at `steps`."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        remaining = min(1.0, (self.steps - step) / self.decay_steps)
        return self.learning_rate * warm * remaining


class Training:
    """A module in training with its average, resumable from one file."""

    def __init__(self, module: torch.nn.Module, settings: TrainSettings, path: Path) -> None:
        self.module = module
        self.settings = settings
        self.path = path
        self.average = copy.deepcopy(module).eval().requires_grad_(False)
        trainable = [weight for weight in module.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trainable,
            lr=settings.learning_rate,
            betas=(0.9, settings.beta2),
            weight_decay=settings.weight_decay,
        )
        self.step = 0
        if path.exists():
            self._load()

    def run(self, loss: Loss, progress: StageProgress) -> torch.nn.Module:
        """Train until `settings.steps` and return the averaged module."""
        if self.step >= self.settings.steps:
            return self.average
        saved_at = time.monotonic()
        while self.step < self.settings.steps:
            value = self._train_step(loss)
            progress.update(self.step, self.settings.steps, value)
            if self.step % self.settings.history_every_steps == 0:
                self._record(progress.loss)
            if time.monotonic() - saved_at > self.settings.checkpoint_every_s:
                self.save()
                saved_at = time.monotonic()
        self.save()
        return self.average

    def _train_step(self, loss: Loss) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate_at(self.step)
        value = loss(self.module, self.step)
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"loss is {value.item()} at step {self.step}; the last checkpoint is {self.path}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.grad_clip)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return float(value.item())

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on the average forgets faster, or it would remember the initial noise.
        decay = min(self.settings.average_decay, (1 + self.step) / (10 + self.step))
        pairs = zip(self.average.parameters(), self.module.parameters(), strict=True)
        for average, weight in pairs:
            average.lerp_(weight, 1 - decay)

    def _record(self, loss: float | None) -> None:
        """Append one line of history: step, smoothed loss, seconds since the epoch."""
        line = json.dumps({"step": self.step, "loss": loss, "time_s": round(time.time(), 1)})
        with self.path.with_suffix(".jsonl").open("a") as file:
            file.write(f"{line}\n")

    def save(self) -> None:
        """Write weights, average, moments and step as one file."""
        tensors = dict(_prefixed("module", self.module.state_dict()))
        tensors |= _prefixed("average", self.average.state_dict())
        tensors |= _prefixed("optimizer", optimizer_tensors(self.optimizer))
        save_tensors(self.path, tensors, {"step": str(self.step)})

    def _load(self) -> None:
        tensors, source = read_tensors(self.path), str(self.path)
        load_exactly(self.module, _with_prefix("module", tensors), source)
        load_exactly(self.average, _with_prefix("average", tensors), source)
        load_optimizer(self.optimizer, _with_prefix("optimizer", tensors), source)
        self.step = _step(self.path)


def load_average(module: torch.nn.Module, path: Path) -> int:
    """Load the averaged weights of a training run into `module`; returns the run's step.

    Raises:
        CheckpointError: the file does not hold exactly the module's weights.
    """
    load_exactly(module, _with_prefix("average", read_tensors(path)), str(path))
    module.eval().requires_grad_(False)
    return _step(path)


def _step(path: Path) -> int:
    step = read_metadata(path).get("step", "")
    if not step.isdecimal():
        raise CheckpointError(f"{path} does not say which step it is of: delete it to train anew")
    return int(step)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random stream of one step; independent of every other step's."""
    # Spread over 64 bits, so that neighbouring seeds and steps do not share streams.
    return torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + step) % 2**63)


def _prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # Cloned: safetensors refuses tensors that share memory.
    return {f"{prefix}/{key}": value.clone() for key, value in tensors.items()}


def _with_prefix(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(_stripped(prefix, tensors))


def _stripped(prefix: str, tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in tensors.items():
        if key.startswith(f"{prefix}/"):
            yield key.removeprefix(f"{prefix}/"), value

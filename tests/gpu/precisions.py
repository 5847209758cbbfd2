"""Each precision on one family: images a second, and how well it ranks candidates as BF16 in all steps does."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from heliostat_engines.adapters import Adapter, LoraPair
from heliostat_engines.errors import HeliostatError, first_line
from heliostat_engines.machine.hardware import default_precision
from heliostat_engines.plans.profiles import Point
from heliostat_engines.precisions import Precision
from heliostat_engines.runtimes.compiled import CompiledTorchEngine
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.euler import sample_euler
from heliostat_engines.sampling.noise import initial_noise
from heliostat_server.rewards.registry import RewardBook
from heliostat_trainer.exploring.fidelity import rank_fidelity
from tests.gpu.models import CANDIDATES, REWARD
from tests.gpu.step import PROMPTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_engines.families.family import Family
    from tests.gpu.models import Model

RANK = 16
UPDATE = 0.02
"""Size of B, A being normal: the adapter's update is then some percent of a linear's output."""
ADAPTER = "random"


@dataclass(frozen=True)
class Arm:
    """One way to draw candidates."""

    precision: Precision
    compiled: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.precision}, compiled" if self.compiled else str(self.precision)


@dataclass(frozen=True)
class Drawing:
    """What is drawn of a model, and how it is scored."""

    model: Model
    family: Family
    resolution_px: int
    steps: int
    explore_steps: int

    def draw(self, engine: TorchEngine, steps: int, adapter: str | None) -> torch.Tensor:
        """Clean latents[P * N, ...] of every prompt's candidates."""
        conditioning = self.model.encode()(PROMPTS).to(torch.bfloat16, self.model.device)
        shape = self.family.latent_shape(self.resolution_px)
        noise = initial_noise(range(CANDIDATES), shape).to(self.model.device)
        sigmas = self.family.sigmas(steps, self.resolution_px)
        groups = []
        for row in range(len(PROMPTS)):
            rows = conditioning.take([row] * CANDIDATES)
            velocity = partial(engine.velocity, conditioning=rows, adapter=adapter)
            groups.append(sample_euler(velocity, noise, sigmas))
        return torch.cat(groups)

    def rewards(self, latents: torch.Tensor) -> np.ndarray:
        """rewards[P, N]."""
        decoder = self.family.load_decoder("none").to(self.model.device)
        reward = RewardBook(self.family.name).get(REWARD)
        prompts = [prompt for prompt in PROMPTS for _ in range(CANDIDATES)]
        empty = self.model.encode()(prompts)
        images = [decoder.decode(latent[None]).cpu() for latent in latents]
        scores = reward.score(torch.cat(images), prompts, empty)
        return scores.double().cpu().numpy().reshape(len(PROMPTS), CANDIDATES)


def measure_precisions(model: Model, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """By arm; `keep` is given what there is so far after each, so that a late end loses one arm alone."""
    with tempfile.TemporaryDirectory() as folder:
        config = model.config(Path(folder))
    family = model.family
    drawing = Drawing(
        model,
        family,
        config.model.resolution_of(family),
        config.recipe.steps,
        config.recipe.explore_steps,
    )
    truths: dict[str | None, np.ndarray] = {}
    results: dict[str, Any] = {}
    for arm in _arms(model):
        try:
            results[arm.name] = _measure(arm, drawing, truths)
        except (HeliostatError, RuntimeError) as error:
            results[arm.name] = {"sentence": first_line(error)}
        keep(results)
    return results


def _arms(model: Model) -> list[Arm]:
    """BF16 first: the others are compared with it. Compiled last, since it may take the longest."""
    others = [Arm(precision) for precision in Precision if precision is not Precision.BF16]
    arms = [Arm(Precision.BF16), *others]
    if model.device == "cpu":
        return arms
    served = default_precision(torch.cuda.get_device_capability())
    return [*arms, Arm(Precision.BF16, compiled=True), Arm(served, compiled=True)]


def _measure(
    arm: Arm, drawing: Drawing, truths: dict[str | None, np.ndarray]
) -> dict[str, dict[str, Any]]:
    device = drawing.model.device
    kind = CompiledTorchEngine if arm.compiled else TorchEngine
    engine = kind(drawing.family, "none", precision=arm.precision, max_rank=RANK, device=device)
    if isinstance(engine, CompiledTorchEngine):
        engine.compile([Point(batch=CANDIDATES, resolution_px=drawing.resolution_px)])
    engine.make_resident(_adapter(engine))
    found = {}
    for adapter in (None, ADAPTER):
        if adapter not in truths:
            truths[adapter] = drawing.rewards(drawing.draw(engine, drawing.steps, adapter))
        drawing.draw(engine, 1, adapter)  # what is made at the first call is not timed
        _wait(device)
        started = time.perf_counter()
        latents = drawing.draw(engine, drawing.explore_steps, adapter)
        _wait(device)
        took = time.perf_counter() - started
        fidelity = rank_fidelity(drawing.rewards(latents), truths[adapter], CANDIDATES // 4)
        found["with LoRA" if adapter else "without LoRA"] = {
            "images a second": round(len(latents) / took, 3),
            **{name: round(value, 4) for name, value in asdict(fidelity).items()},
        }
    return found


def _adapter(engine: TorchEngine) -> Adapter:
    random = torch.Generator().manual_seed(0)
    pairs = {
        name: LoraPair(
            torch.randn(RANK, width_in, generator=random) / width_in**0.5,
            torch.randn(width_out, RANK, generator=random) * UPDATE,
        )
        for name, (width_in, width_out) in engine.describe().lora_targets.items()
    }
    return Adapter(ADAPTER, pairs)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()

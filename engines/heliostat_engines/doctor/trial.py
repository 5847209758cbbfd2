"""A small engine built and given adapters in every mode, and compared with torch: the demo's transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from pydantic import BaseModel, ConfigDict

from heliostat_engines.adapters import pack_adapter, parse_adapter
from heliostat_engines.compiling.builder import BuildRequest, build_engine
from heliostat_engines.compiling.target import Target
from heliostat_engines.conditioning import Conditioning
from heliostat_engines.doctor.findings import Finding, Level
from heliostat_engines.errors import HeliostatError
from heliostat_engines.machine.hardware import ADA, default_precision
from heliostat_engines.plans.graph_manifest import ExportOptions, LoraMode
from heliostat_engines.plans.profiles import parse_profile
from heliostat_engines.precisions import Precision
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.noise import initial_noise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from heliostat_engines.adapters import Adapter
    from heliostat_engines.compiling.builder import BuiltEngine
    from heliostat_engines.compiling.cache import EngineCache
    from heliostat_engines.families.family import Family
    from heliostat_engines.machine.hardware import Gpu
    from heliostat_engines.progress import Progress
    from heliostat_engines.runtimes.engine import Engine

RANK = 8
PROFILE = "1x64,4x64,4x64"
BATCH = 4
SIGMA = 0.7
WIDTH = 384
"""Of the demo's text embedding."""
UPDATE = 0.03
"""Size of a trial adapter's B: its update then is about as large as the velocity itself."""
TOLERANCE = {LoraMode.INPUTS: 0.15, LoraMode.REFIT: 0.15, LoraMode.MERGE: 0.2}
"""Largest relative error of a velocity against torch's: 0.08 is usual. What rounds to BF16 elsewhere
falls to another code now and then, and torch scales FP8's activations by rows; merging also quantises the adapter, which a branch does not.
"""


class ModeTrial(BaseModel):
    """One LoRA mode on this machine. Errors are relative, in the Euclidean norm."""

    model_config = ConfigDict(frozen=True)

    mode: LoraMode
    seconds: float
    """Export and compilation."""
    base_error: float
    adapter_error: float
    effect: float
    """The adapter's, in torch: how far it moves the velocity, relative to it."""
    returns_to_the_bit: bool
    """Whether adapter A gives the same bits again after adapter B."""

    @property
    def passed(self) -> bool:
        """Whether it draws as torch does and leaves no residue."""
        worst = max(self.base_error, self.adapter_error)
        return worst <= TOLERANCE[self.mode] < self.effect and self.returns_to_the_bit

    def finding(self) -> Finding:
        """In words."""
        text = (
            f"built in {self.seconds:.0f} s; velocity {self.base_error:.2%} off torch's, "
            f"{self.adapter_error:.2%} under an adapter that moves it by {self.effect:.0%} "
            f"(at most {TOLERANCE[self.mode]:.0%}); A, B, A "
            f"{'gives the same bits' if self.returns_to_the_bit else 'does not return to A'}"
        )
        if self.passed:
            return Finding(part=_part(self.mode), level=Level.GOOD, text=text)
        text += ": do not explore with such engines, and report this with `heliostat doctor --json`"
        return Finding(part=_part(self.mode), level=Level.PROBLEM, text=text)


class Loads(Protocol):
    """Loads an engine folder."""

    def __call__(self, folder: Path, /, *, slots: int) -> Engine:
        """With room for so many adapters."""


def compile_ahead(family: Family, cache: EngineCache, progress: Progress) -> Finding:
    """Compile a family's default checkpoint for SM120: all that a machine without a GPU can try."""
    try:
        built = _build(family, cache, LoraMode.INPUTS, Precision.NVFP4, Target.SM120, progress)
    except HeliostatError as error:
        return Finding(part="engine", level=Level.PROBLEM, text=str(error))
    manifest = built.manifest
    text = (
        f"{family.name} compiles for sm120 in {manifest.seconds:.0f} s "
        f"(plan {manifest.plan_bytes / 1e6:.1f} MB); running it, and the modes refit and merge, "
        "were not checked: there is no GPU"
    )
    return Finding(part="engine", level=Level.GOOD, text=text)


@dataclass(frozen=True)
class Trials:
    """Tries the modes on a GPU with a small family's default checkpoint, one after the other."""

    family: Family
    gpu: Gpu
    cache: EngineCache
    load: Loads
    progress: Progress

    def run(self) -> Iterator[ModeTrial | Finding]:
        """Each mode's figures, or why it has none."""
        for mode in LoraMode:
            try:
                yield self._try(mode)
            except (HeliostatError, RuntimeError) as error:
                yield Finding(part=_part(mode), level=Level.PROBLEM, text=str(error))

    def _try(self, mode: LoraMode) -> ModeTrial:
        built = _build(self.family, self.cache, mode, self._precision, Target.AUTO, self.progress)
        engine = self.load(built.folder, slots=1)
        reference = TorchEngine(self.family, precision=self._precision, max_rank=RANK)
        first, second = (_adapter(engine, seed) for seed in range(2))
        base = self._draw(reference, None)
        base_error = _distance(self._draw(engine, None), base)
        engine.make_resident(first)
        drawn = self._draw(engine, first)
        engine.make_resident(second)
        engine.make_resident(first)
        reference.make_resident(first)
        expected = self._draw(reference, first)
        return ModeTrial(
            mode=mode,
            seconds=built.manifest.seconds,
            base_error=base_error,
            adapter_error=_distance(drawn, expected),
            effect=_distance(expected, base),
            returns_to_the_bit=torch.equal(self._draw(engine, first), drawn),
        )

    def _draw(self, engine: Engine, adapter: Adapter | None) -> torch.Tensor:
        family = self.family
        generator = torch.Generator().manual_seed(0)
        conditioning = Conditioning(
            tokens=torch.randn(BATCH, family.text_tokens, WIDTH, generator=generator),
            pooled=torch.randn(BATCH, WIDTH, generator=generator),
        )
        return engine.velocity(
            initial_noise(range(BATCH), family.latent_shape(family.default_resolution_px)),
            torch.full((BATCH,), SIGMA),
            conditioning,
            None if adapter is None else adapter.sha256,
        ).float()

    @property
    def _precision(self) -> Precision:
        capability = self.gpu.capability
        return default_precision(capability) if capability >= ADA else Precision.NVFP4_W4A16


def _build(
    family: Family,
    cache: EngineCache,
    mode: LoraMode,
    precision: Precision,
    target: Target,
    progress: Progress,
) -> BuiltEngine:
    options = ExportOptions(lora=mode, max_rank=RANK, precision=precision)
    profiles = (parse_profile(PROFILE),)
    return build_engine(
        BuildRequest(family, family.default_checkpoint, options, profiles, target), cache, progress
    )


def _adapter(engine: Engine, seed: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    pairs = {
        name: (
            torch.randn(RANK, inputs, generator=generator),
            torch.randn(outputs, RANK, generator=generator) * UPDATE,
        )
        for name, (inputs, outputs) in engine.describe().lora_targets.items()
    }
    return parse_adapter(pack_adapter(pairs, alpha=RANK))


def _distance(drawn: torch.Tensor, expected: torch.Tensor) -> float:
    return float((drawn - expected).norm() / expected.norm())


def _part(mode: LoraMode) -> str:
    return f"engine, {mode}"

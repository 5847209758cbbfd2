"""`heliostat bench engine`: the same seeds drawn in every way; each is timed and compared."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.table import Table

from heliostat.examples import example
from heliostat.screens.console import table_console
from heliostat.screens.engine_build import quieten
from heliostat_engines.errors import HeliostatError
from heliostat_engines.families import get_family
from heliostat_engines.files.atomic import atomic_text
from heliostat_engines.files.ownership import require_own_file
from heliostat_engines.fp8 import linears as fp8_linears
from heliostat_engines.machine.arithmetic import compute_dtype, name_of, ready_for
from heliostat_engines.machine.hardware import AUTO, choose_device
from heliostat_engines.nvfp4 import native as native_fp4
from heliostat_engines.plans.manifest import read_manifest
from heliostat_engines.plans.profiles import Point
from heliostat_engines.precisions import Precision
from heliostat_engines.progress import shown
from heliostat_engines.runtimes.compiled import CompiledTorchEngine
from heliostat_engines.runtimes.tensorrt.engine import TensorRTEngine
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.euler import sample_euler
from heliostat_engines.sampling.noise import initial_noise
from heliostat_engines.torch_compile import require_compiler
from heliostat_server.launcher.compiled_engine import engine_folder
from heliostat_server.rewards.registry import RewardBook
from heliostat_trainer.exploring.fidelity import rank_fidelity
from heliostat_trainer.prompts.sources import read_prompts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.families.family import Decoder
    from heliostat_engines.progress import Stages
    from heliostat_engines.resolution import Resolution
    from heliostat_server.rewards.reward import Reward

    Draws = Callable[[torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]
    """velocity[B, ...] of latents[B, ...], sigma[B], conditioning[B]; on the host."""

SIGN = '"latent_error"'
"""In every file of figures that we wrote."""
KEPT_SHARE = 4
"""A quarter of a group is kept, half of it the best and half the worst, as published."""


class BenchError(HeliostatError, ValueError):
    """What was asked for cannot be compared."""


@dataclass(frozen=True)
class BenchSettings:
    """The command's options. engines: folders; nvfp4, fp8: whether torch draws so too; compiled: whether it
    draws each way of its own once more, compiled.
    """

    family: str
    engines: tuple[Path, ...]
    checkpoint: str | None
    compiled: bool
    nvfp4: bool
    fp8: bool
    prompts: Path | None
    groups: int
    candidates: int
    batch: int
    steps: int
    explore_steps: int
    resolution_px: Resolution | None
    reward: str | None


@dataclass(frozen=True)
class Way:
    """One way to evaluate the model. note: what its speed does not say."""

    name: str
    velocity: Draws
    note: str = ""


@dataclass(frozen=True)
class Agreement:
    """How candidates rank against the reference's; as in `heliostat_trainer.exploring.fidelity`."""

    rho: float
    tau_b: float
    overlap: float
    spread_gain: float


@dataclass(frozen=True)
class WayResult:
    """A way with a number of steps, against plain BF16 in eager torch at full steps.

    speedup: median over batches drawn in turn, with the lowest and highest. latent_error: relative,
    in the Euclidean norm, mean over images. psnr_db: of the decoded images, mean. agreement: None
    without a reward.
    """

    way: str
    steps: int
    note: str
    images_per_s: float
    speedup: float
    lowest_speedup: float
    highest_speedup: float
    latent_error: float
    psnr_db: float
    agreement: Agreement | None


@dataclass(frozen=True)
class Drawn:
    """What one way drew with one number of steps: seconds[batches], latents[groups, N, ...]."""

    seconds: tuple[float, ...]
    latents: torch.Tensor


def run(settings: BenchSettings, out: Path | None) -> None:
    """Draw, compare, print; write JSON if asked.

    Raises:
        HeliostatError: a setting does not fit, or an engine or checkpoint cannot be loaded.
    """
    quieten()
    _check(settings)
    if out is not None:
        require_own_file(out, SIGN, "give another file with --out")
    with shown(Console(stderr=True)) as stages:
        with stages.during("load the model"):
            bench = Bench(settings, stages)
        rows = bench.rows()
    if out is not None:
        atomic_text(out, json.dumps([asdict(row) for row in rows], indent=2))
    console = table_console()
    console.print(_table(settings, rows))


def _check(settings: BenchSettings) -> None:
    if settings.candidates % settings.batch:
        raise BenchError(
            f"--candidates {settings.candidates} is no multiple of --batch {settings.batch}: every "
            "batch has the same shape, so that a compiled model is compiled once"
        )
    for folder in settings.engines:
        family = read_manifest(engine_folder(folder)).recipe.family
        if family != settings.family:
            raise BenchError(
                f"--engine {folder} is one of {family}: name that family, or leave it out"
            )


class Bench:
    """The model and its prompts, loaded once for all ways."""

    def __init__(self, settings: BenchSettings, stages: Stages) -> None:
        family = get_family(settings.family)
        self._settings = settings
        self._stages = stages
        self._family = family
        self._checkpoint = settings.checkpoint or family.default_checkpoint
        self._pixels = settings.resolution_px or family.default_resolution_px
        self._shape = family.latent_shape(self._pixels)
        file = settings.prompts or example("prompts/demo_heldout.txt")
        self._prompts = read_prompts(file, "--prompts")[: settings.groups]
        self._reward = (
            None if settings.reward is None else RewardBook(family.name).get(settings.reward)
        )
        self._device = choose_device(AUTO, "the device")
        if settings.compiled:
            require_compiler(
                self._device, "compiled ways", "leave them out with --without compiled"
            )
        encoder = family.load_text_encoder(self._checkpoint).to(self._device)
        self._conditioning = encoder.encode(self._prompts)
        self._decoder = family.load_decoder(self._checkpoint).to(self._device)

    def rows(self) -> list[WayResult]:
        """Every way with full steps and with exploration's; the first is the reference."""
        with self._stages.during("load every way of drawing"):
            ways = list(self._ways())
        drawn = self._draw_all(ways)
        with self._stages.during("compare"):
            return self._compared(ways, drawn)

    def _compared(
        self, ways: Sequence[Way], drawn: Mapping[tuple[str, int], Drawn]
    ) -> list[WayResult]:
        (reference, *_) = drawn.values()
        images = self._decode(reference.latents)
        rewards = None if self._reward is None else self._rate(self._reward, images)
        return [
            self._row(way, steps, drawn[way.name, steps], reference, images, rewards)
            for way in ways
            for steps in self._step_counts
        ]

    @property
    def _step_counts(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((self._settings.steps, self._settings.explore_steps)))

    def _ways(self) -> Iterator[Way]:
        family, settings = self._family, self._settings
        loaded = family.load_transformer(self._checkpoint, torch.bfloat16)
        plain = ready_for(self._device, loaded).to(self._device)
        dtype = name_of(compute_dtype(self._device))
        yield Way(f"torch {dtype}, eager", self._plain(plain))
        if settings.compiled:
            yield Way(f"torch {dtype}, compiled", self._compiled(Precision.BF16).velocity)
        device = torch.device(self._device)
        if settings.nvfp4:
            yield from self._quantised(Precision.NVFP4, is_native=native_fp4.usable_on(device))
        if settings.fp8:
            yield from self._quantised(Precision.FP8, is_native=fp8_linears.usable_on(device))
        for given in settings.engines:
            folder = engine_folder(given)
            compiled = TensorRTEngine(folder, slots=1)
            info = compiled.describe()
            yield Way(f"{info.runtime} {info.precision}, {given}", compiled.velocity)

    def _compiled(self, precision: Precision) -> CompiledTorchEngine:
        engine = CompiledTorchEngine(
            self._family, self._checkpoint, precision=precision, device=self._device
        )
        shape = Point(batch=self._settings.batch, resolution_px=self._pixels)
        engine.compile([shape], self._stages)
        return engine

    def _quantised(self, precision: Precision, *, is_native: bool) -> Iterator[Way]:
        engine = TorchEngine(
            self._family, self._checkpoint, precision=precision, device=self._device
        )
        bits = "FP4" if precision is Precision.NVFP4 else "FP8"
        note = "" if is_native else f"emulated: its speed is not {bits}'s"
        name = f"torch {precision.format_name}"
        yield Way(name, engine.velocity, note)
        if self._settings.compiled:
            yield Way(f"{name}, compiled", self._compiled(precision).velocity, note)

    def _plain(self, transformer: nn.Module) -> Draws:
        """The transformer as diffusers has it, without a LoRA branch: a merged adapter's speed."""

        @torch.inference_mode()
        def velocity(
            latents: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning, /
        ) -> torch.Tensor:
            return self._family.velocity(
                transformer,
                latents.to(self._device),
                sigma.to(self._device),
                conditioning.to(torch.float32, self._device),
            ).to(latents.device)

        return velocity

    def _draw_all(self, ways: Sequence[Way]) -> dict[tuple[str, int], Drawn]:
        """All ways draw a batch in turn, so that a machine that slows down slows all of them."""
        settings = self._settings
        seconds: dict[tuple[str, int], list[float]] = {
            (way.name, steps): [] for way in ways for steps in self._step_counts
        }
        latents: dict[tuple[str, int], list[torch.Tensor]] = {key: [] for key in seconds}
        batches = settings.candidates // settings.batch
        for way in ways:
            with self._stages.during(f"warm up {way.name}"):
                self._draw(way, 0, range(settings.batch), 1)
        turns = list(product(range(len(self._prompts)), ways))
        for done, (group, way) in enumerate(turns):
            self._stages("draw", done, len(turns))
            for batch in range(batches):
                first = group * settings.candidates + batch * settings.batch
                for steps in self._step_counts:
                    took, drawn = self._draw(
                        way, group, range(first, first + settings.batch), steps
                    )
                    seconds[way.name, steps].append(took)
                    latents[way.name, steps].append(drawn)
        self._stages("draw", len(turns), len(turns))
        size = (len(self._prompts), settings.candidates, *self._shape)
        return {
            key: Drawn(tuple(seconds[key]), torch.cat(latents[key]).view(size)) for key in seconds
        }

    def _draw(
        self, way: Way, group: int, seeds: Sequence[int], steps: int
    ) -> tuple[float, torch.Tensor]:
        """Seconds, and latents[B, ...]. They come to the host: nothing is left in flight."""
        conditioning = self._conditioning.take([group]).repeat(len(seeds))
        noise = initial_noise(seeds, self._shape)
        sigmas = self._family.sigmas(steps, self._pixels)
        began = time.perf_counter()
        latents = sample_euler(lambda x, sigma: way.velocity(x, sigma, conditioning), noise, sigmas)
        return time.perf_counter() - began, latents

    def _row(
        self,
        way: Way,
        steps: int,
        drawn: Drawn,
        reference: Drawn,
        images: torch.Tensor,
        rewards: NDArray[np.float64] | None,
    ) -> WayResult:
        pairs = zip(reference.seconds, drawn.seconds, strict=True)
        speedups = [base / took for base, took in pairs]
        own = self._decode(drawn.latents)
        agreement = None
        if self._reward is not None and rewards is not None:
            agreement = _agreement(self._rate(self._reward, own), rewards)
        return WayResult(
            way=way.name,
            steps=steps,
            note=way.note,
            images_per_s=self._settings.batch / statistics.median(drawn.seconds),
            speedup=statistics.median(speedups),
            lowest_speedup=min(speedups),
            highest_speedup=max(speedups),
            latent_error=_relative_error(drawn.latents, reference.latents),
            psnr_db=_psnr_db(own, images),
            agreement=agreement,
        )

    @torch.inference_mode()
    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        """images[groups * N, 3, H, W]."""
        return _in_batches(self._decoder, latents.flatten(0, 1), self._settings.batch)

    @torch.inference_mode()
    def _rate(self, reward: Reward, images: torch.Tensor) -> NDArray[np.float64]:
        """rewards[groups, N]."""
        groups = images.view(len(self._prompts), -1, *images.shape[1:])
        rows = [
            reward.score(
                group, [prompt] * len(group), self._conditioning.take([row]).repeat(len(group))
            )
            for row, (prompt, group) in enumerate(zip(self._prompts, groups, strict=True))
        ]
        return torch.stack(rows).double().cpu().numpy()


def _in_batches(decoder: Decoder, latents: torch.Tensor, size: int) -> torch.Tensor:
    return torch.cat([decoder.decode(part).cpu() for part in torch.split(latents, size)])


def _agreement(rewards: NDArray[np.float64], reference: NDArray[np.float64]) -> Agreement:
    pairs = max(1, rewards.shape[1] // KEPT_SHARE // 2)
    fidelity = rank_fidelity(rewards, reference, pairs)
    return Agreement(fidelity.rho, fidelity.tau_b, fidelity.overlap, fidelity.spread_gain)


def _relative_error(latents: torch.Tensor, reference: torch.Tensor) -> float:
    drawn, wanted = (x.flatten(0, 1).flatten(1).float() for x in (latents, reference))
    return float(((drawn - wanted).norm(dim=1) / wanted.norm(dim=1)).mean())


def _psnr_db(images: torch.Tensor, reference: torch.Tensor) -> float:
    error = (images - reference).square().flatten(1).mean(dim=1).clamp(min=1e-10)
    return float((-10 * error.log10()).mean())


def _table(settings: BenchSettings, rows: Sequence[WayResult]) -> Table:
    first = rows[0]
    title = (
        f"{settings.family}: {settings.groups} prompts x {settings.candidates} seeds in batches of "
        f"{settings.batch}, denoising alone. All against {first.way}, {first.steps} steps."
    )
    table = Table("way", "steps", "images/s", "speed-up (lowest, highest)", title=title)
    table.title_justify = "left"
    for heading in ("latents off by", "PSNR", *(_RANKS if first.agreement else ())):
        table.add_column(heading, justify="right")
    show = partial(_cells, reference=first)
    for row in rows:
        table.add_row(*show(row), end_section=row.steps == rows[-1].steps)
    notes = dict.fromkeys(f"{row.way}: {row.note}" for row in rows if row.note)
    table.caption = "\n".join(notes) or None
    return table


_RANKS = ("rho", "tau-b", "overlap@K", "spread")


def _cells(row: WayResult, *, reference: WayResult) -> list[str]:
    same = row == reference
    cells = [
        row.way + ("*" if row.note else ""),
        str(row.steps),
        f"{row.images_per_s:.3g}",
        f"{row.speedup:.2f} ({row.lowest_speedup:.2f}, {row.highest_speedup:.2f})",
        "" if same else f"{row.latent_error:.1%}",
        "" if same else f"{row.psnr_db:.1f} dB",
    ]
    if row.agreement is not None:
        ranks = asdict(row.agreement).values()
        cells += [f"{value:.3f}" for value in ranks]
    return cells

"""One step of sol_rl at one size: seconds by phase, and memory beside what was told."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from heliostat.examples import example
from heliostat.in_process import InProcessService
from heliostat_engines.doctor.memory import Serving, server_memory
from heliostat_engines.families import get_family
from heliostat_engines.machine.counting import FusedKernels, LiveBytes
from heliostat_engines.runtimes.torch import KEPT_BATCHES
from heliostat_trainer.forecast.memory import memory_of
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.ranks.ranks import Ranks
from heliostat_trainer.workshop import build_workshop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from heliostat_engines.doctor.memory import ServerMemory
    from heliostat_trainer.forecast.work import TrainerMemory
    from heliostat_trainer.settings.config import TrainConfig
    from tests.gpu.models import Model

PROMPTS = ("a red fox in the snow", "two owls and a lamp")
PHASES = ("explore", "redraw", "publish")
"""Of the loop; what is left of a step is the update, and encoding and selecting, which take no time."""
RANK, SLOTS = 64, 8
"""A server's defaults."""


def measure_step(model: Model) -> dict[str, Any]:
    """Told and measured bytes, and seconds by phase."""
    with tempfile.TemporaryDirectory() as folder:
        config = model.config(Path(folder))
        trainer, server = told(model, config)
        with measured_peak(model.device) as peak:
            seconds = _step(model, config)
    held = trainer.transformer + trainer.lora + trainer.optimiser
    held += server.transformer + server.text_encoders + server.decoder
    # The two adapters that are published in a step, of the run's own rank.
    held += server.slots * 2 * config.lora.rank // (SLOTS * RANK)
    # Exploring counts the embeddings of its batches, which then stay in the engine.
    after = max(trainer.activations, trainer.redrawing, server.decoding) + _embeddings(model)
    busy = max(server.exploring, after)
    return {
        "step of": {
            "prompts": len(PROMPTS),
            "candidates": config.recipe.candidates,
            "explored in steps": config.recipe.explore_steps,
            "kept": config.recipe.kept,
            "redrawn in steps": config.recipe.steps,
            "images": f"{config.model.resolution_of(get_family(model.name))} px",
            "LoRA rank": config.lora.rank,
            "micro-batch": config.optimiser.micro_batch,
        },
        "seconds": seconds,
        "told": {
            "trainer": trainer_parts(trainer),
            "server": server.model_dump(),
            "by turns": held + busy,
            "at once": trainer.total + server.total,
        },
        "measured": peak[0],
        "measured of told": round(peak[0] / (held + busy), 3),
    }


def told(model: Model, config: TrainConfig) -> tuple[TrainerMemory, ServerMemory]:
    """What `--dry-run` and `heliostat doctor` count of the two."""
    family = get_family(model.name)
    resolution_px = config.model.resolution_of(family)
    trainer = memory_of(config, family, family.build_transformer(model.size), resolution_px)
    serving = Serving(
        emulated=True,
        max_rank=RANK,
        slots=SLOTS,
        batch=model.batch,
        resolution_px=resolution_px,
        size=model.size,
    )
    return trainer, server_memory(family, serving)


def _embeddings(model: Model) -> int:
    family = get_family(model.name)
    row = family.probe_conditioning(family.build_transformer(model.size), family.text_tokens)
    return KEPT_BATCHES * model.batch * row.to(torch.bfloat16).bytes


def trainer_parts(memory: TrainerMemory) -> dict[str, int]:
    """By name, in bytes."""
    names = ("transformer", "lora", "optimiser", "activations", "redrawing", "total")
    return {name: getattr(memory, name) for name in names}


@contextmanager
def measured_peak(device: str) -> Iterator[list[int]]:
    """A list that has, afterwards, the most bytes of tensors that lay on the device at once."""
    peak = [0]
    if device == "cpu":
        with LiveBytes() as live, FusedKernels():
            yield peak
        peak[0] = live.peak
        return
    torch.cuda.reset_peak_memory_stats()
    yield peak
    peak[0] = torch.cuda.max_memory_allocated()


def _step(model: Model, config: TrainConfig) -> dict[str, float]:
    started = time.perf_counter()
    family = model.family
    text_encoders = family.build_text_encoders(model.size, model.device)
    service = InProcessService(
        model.device,
        model.encode(),
        batch=model.batch,
        resolution_px=config.model.resolution_of(family),
        family=family,
        scored_together=1,
    )
    targets = service.info().lora_targets
    workshop = build_workshop(config, targets, Ranks(), Interrupts(), family=family)
    loop = _minimal_loop().Loop(config, service, workshop, PROMPTS)
    seconds = {"load": _since(started, model.device)}
    for phase in PHASES:
        _time(loop, phase, seconds, model.device)
    adapter = loop.publish()
    started = time.perf_counter()
    loop.step(1, adapter)
    seconds["step"] = _since(started, model.device)
    seconds["update"] = seconds["step"] - sum(seconds[phase] for phase in PHASES)
    del text_encoders
    return {phase: round(took, 3) for phase, took in seconds.items()}


def _time(loop: Any, phase: str, seconds: dict[str, float], device: str) -> None:
    call = getattr(loop, phase)

    def timed(*arguments: Any) -> Any:
        started = time.perf_counter()
        result = call(*arguments)
        seconds[phase] = _since(started, device)
        return result

    object.__setattr__(loop, phase, timed)  # the loop is frozen, for those who read it


def _since(started: float, device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _minimal_loop() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minimal_loop", example("minimal_loop.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module

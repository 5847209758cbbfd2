"""Whether a family's published transformer fits on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict
from rich import filesize

from heliostat_engines.compiling.target import BuildNeeds
from heliostat_engines.doctor.findings import Finding, Level
from heliostat_engines.families.family import Size
from heliostat_engines.families.inspection import transformer_bytes
from heliostat_engines.families.precision import plan_linears
from heliostat_engines.machine.hardware import find_gpu, free_disk_bytes, free_memory_bytes
from heliostat_engines.precisions import Precision

if TYPE_CHECKING:
    from heliostat_engines.families.family import Family


@dataclass(frozen=True)
class Space:
    """Free bytes; gpu_bytes is None without a GPU."""

    host_bytes: int
    disk_bytes: int
    gpu_bytes: int | None


class SpaceNeed(BaseModel):
    """What a use takes of one resource, and what is free of it, in bytes."""

    model_config = ConfigDict(frozen=True)

    what: str
    takes: int
    free: int

    @property
    def fits(self) -> bool:
        """Whether there is enough."""
        return self.takes <= self.free


class FamilySpace(BaseModel):
    """A family's published transformer under its published map; all that a server holds: `doctor.memory`."""

    model_config = ConfigDict(frozen=True)

    family: str
    bf16_bytes: int
    nvfp4_bytes: int
    torch: SpaceNeed
    """To explore with the torch runtime, where it runs."""
    build: tuple[SpaceNeed, ...]
    """To build an NVFP4 engine: memory, GPU memory if there is a GPU, disk."""

    @property
    def can_build(self) -> bool:
        """Whether an engine can be built here."""
        return all(need.fits for need in self.build)


def measure_space(cache: Path) -> Space:
    """Of this machine; `cache` is where engines are kept."""
    gpu = find_gpu()
    return Space(
        host_bytes=free_memory_bytes(),
        disk_bytes=free_disk_bytes(cache),
        gpu_bytes=None if gpu is None else gpu.free_bytes,
    )


def family_space(family: Family, space: Space) -> FamilySpace:
    """Compare a family's needs with the space there is. Takes no memory for weights."""
    transformer = family.build_transformer(Size.PUBLISHED)
    plans = plan_linears(transformer, family.precision_map, family.lora_targets)
    bf16 = transformer_bytes(transformer, plans, Precision.BF16)
    nvfp4 = transformer_bytes(transformer, plans, Precision.NVFP4)
    is_local = Path(family.default_checkpoint).is_dir()
    is_measured = is_local and family.activation_amax(family.default_checkpoint) is not None
    needs = BuildNeeds.of(nvfp4, 0 if is_measured else bf16)
    disk = needs.disk + (0 if is_local else bf16)
    build = [SpaceNeed(what="memory", takes=int(needs.host), free=space.host_bytes)]
    if space.gpu_bytes is not None:
        build.append(SpaceNeed(what="GPU memory", takes=int(needs.device), free=space.gpu_bytes))
    build.append(SpaceNeed(what="disk", takes=int(disk), free=space.disk_bytes))
    return FamilySpace(
        family=family.name,
        bf16_bytes=bf16,
        nvfp4_bytes=nvfp4,
        torch=_torch_need(bf16, space),
        build=tuple(build),
    )


def space_findings(needs: FamilySpace) -> list[Finding]:
    """What somebody who asked for this family has to know."""
    lacking = [f"explore with it: {_lack(needs.torch)}"] if not needs.torch.fits else []
    lacking += [f"build an engine of it: {_lack(need)}" for need in needs.build if not need.fits]
    if not lacking:
        text = "fits, to explore with torch and to build an engine"
        return [Finding(part=needs.family, level=Level.GOOD, text=text)]
    return [
        Finding(
            part=needs.family,
            level=Level.PROBLEM,
            text=f"there is too little to {what}; free some, or use a larger machine",
        )
        for what in lacking
    ]


def _torch_need(bf16: int, space: Space) -> SpaceNeed:
    """All of it in BF16: while it loads, and for good where NVFP4 is emulated."""
    if space.gpu_bytes is None:
        return SpaceNeed(what="memory", takes=bf16, free=space.host_bytes)
    return SpaceNeed(what="GPU memory", takes=bf16, free=space.gpu_bytes)


def _lack(need: SpaceNeed) -> str:
    return f"{filesize.decimal(need.takes)} of {need.what}, {filesize.decimal(need.free)} are free"

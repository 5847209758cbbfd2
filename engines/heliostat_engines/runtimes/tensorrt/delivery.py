"""How an adapter reaches a compiled engine: by the mode that it was built in (`LoraMode`).

    inputs    `InputSlots` bind its tensors. Nothing is refitted.
    refit     `RefittedConstants` give its tensors to `WeightRefitter` (`refitting`).
    merge     the same, of the weights with it added (`MergedWeights`).

It is made ready once, when it becomes resident (`prepare`), and put to work with each batch
(`activate`): there a plan is refitted, if the adapter is another than the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog
import torch

from heliostat_engines.errors import EngineFaultError
from heliostat_engines.export.sources import CheckpointSource
from heliostat_engines.families import get_family
from heliostat_engines.plans.adapter_tensors import adapter_tensors
from heliostat_engines.plans.graph_manifest import LoraMode
from heliostat_engines.plans.merged_tensors import (
    refittable_names,
    weight_names,
    weight_tensors,
)
from heliostat_engines.runtimes.tensorrt.refitting import WeightRefitter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from heliostat_engines.adapters import Adapter
    from heliostat_engines.plans.manifest import EngineManifest
    from heliostat_engines.plans.vendor import Vendor
    from heliostat_engines.runtimes.tensorrt.device import Device
    from heliostat_engines.runtimes.tensorrt.plan import CompiledModel


@dataclass(eq=False)
class DeviceSlot:
    """An adapter's tensors on the device, by graph tensor name."""

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Device memory taken."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


class Delivery(Protocol):
    """Brings adapters to one engine."""

    def prepare(self, adapter: Adapter | None) -> DeviceSlot:
        """Put an adapter (None: the base model) where it can be activated from."""

    def activate(self, slot: DeviceSlot) -> Mapping[str, torch.Tensor]:
        """Let the engine compute with it; gives the inputs to bind.

        Raises:
            EngineFaultError: the engine is out of service.
        """

    def release(self, slot: DeviceSlot) -> None:
        """Its adapter has left."""

    @property
    def is_in_service(self) -> bool:
        """Whether the engine computes with one adapter, whole."""


class InputSlots:
    """A and B are inputs: an adapter is written to an inactive slot, verified, and then bound.

    No barrier: what is on the stream reads its own slot.
    """

    is_in_service = True

    def __init__(self, manifest: EngineManifest, device: Device) -> None:
        self._manifest = manifest
        self._device = device
        self._spare: list[DeviceSlot] = []

    def prepare(self, adapter: Adapter | None) -> DeviceSlot:
        """Write a spare slot and read it back."""
        written = adapter_tensors(self._manifest.graph, adapter)
        slot = self._spare.pop() if self._spare else self._new_slot(written)
        with self._device.ordered():
            for name, tensor in written.items():
                slot.tensors[name].copy_(tensor)
        self._device.synchronise()
        damaged = [
            name for name, t in written.items() if not torch.equal(slot.tensors[name].cpu(), t)
        ]
        if damaged:
            raise EngineFaultError(
                f"the adapter's tensor {damaged[0]} came back changed from the device: check its "
                "memory (nvidia-smi -q -d ECC), and restart the server"
            )
        return slot

    def activate(self, slot: DeviceSlot) -> Mapping[str, torch.Tensor]:
        """The slot's tensors, to be read where they lie."""
        return slot.tensors

    def release(self, slot: DeviceSlot) -> None:
        """The slot is spare."""
        self._spare.append(slot)

    def _new_slot(self, like: Mapping[str, torch.Tensor]) -> DeviceSlot:
        return DeviceSlot(
            {
                name: torch.empty_like(tensor, device=self._device.torch_device)
                for name, tensor in like.items()
            }
        )


class RefittedConstants:
    """Adapters are refitted into the engine's constants, which the whole engine waits for."""

    def __init__(
        self,
        refitter: WeightRefitter,
        device: Device,
        constants_of: Callable[[Adapter | None], Mapping[str, torch.Tensor]],
    ) -> None:
        """`constants_of` gives every refittable constant under an adapter."""
        self._refitter = refitter
        self._device = device
        self._constants_of = constants_of
        self._active: DeviceSlot | None = None

    @property
    def is_in_service(self) -> bool:
        """Not after a refit that failed."""
        return self._refitter.is_whole

    def prepare(self, adapter: Adapter | None) -> DeviceSlot:
        """Copy the full set of constants to the device."""
        constants = self._constants_of(adapter)
        return DeviceSlot({name: t.to(self._device.torch_device) for name, t in constants.items()})

    def activate(self, slot: DeviceSlot) -> Mapping[str, torch.Tensor]:
        """Refit, unless it is active already; binds nothing."""
        if slot is not self._active or not self._refitter.is_whole:
            self._active = None
            self._refitter.refit(slot.tensors)
            self._active = slot
        return {}

    def release(self, slot: DeviceSlot) -> None:
        """Nothing to do: its memory goes with it."""


class MergedWeights:
    """The weights that carry LoRA under an adapter: W + B A, quantised afresh.

    Never un-merged: every adapter is added in float32 to the checkpoint's own weights.
    """

    def __init__(self, manifest: EngineManifest) -> None:
        """Raises CheckpointError: the checkpoint is not where it was when the engine was built."""
        family = get_family(manifest.recipe.family)
        self._graph = manifest.graph
        self._targets = manifest.lora_targets
        self._masters = CheckpointSource(family, Path(manifest.checkpoint))

    def __call__(self, adapter: Adapter | None) -> dict[str, torch.Tensor]:
        """Every target's constants; logs how many stored weights the adapter moved."""
        constants: dict[str, torch.Tensor] = {}
        moved = []
        for module, (inputs, outputs) in self._targets.items():
            master = self._masters.read(f"{module}.weight").float().reshape(outputs, inputs)
            merged = weight_tensors(self._graph, module, master)
            if adapter is not None:
                stored = weight_names(self._graph, module)[0]
                before = merged[stored]
                pair = adapter.pairs[module]
                update = torch.addmm(master, pair.up, pair.down)
                merged = weight_tensors(self._graph, module, update)
                moved.append(float((merged[stored] != before).float().mean()))
            constants |= merged
        if moved:
            share = sum(moved) / len(moved)
            structlog.get_logger("engine").info("merged", stored_weights_moved=f"{share:.2%}")
        return constants


def choose_delivery(
    manifest: EngineManifest, model: CompiledModel, vendor: Vendor, device: Device
) -> Delivery:
    """What the engine was built for."""
    mode = manifest.graph.options.lora
    if mode is LoraMode.INPUTS:
        return InputSlots(manifest, device)
    refitter = WeightRefitter(
        vendor, model, device, refittable_names(manifest.graph, manifest.lora_targets)
    )
    if mode is LoraMode.REFIT:
        return RefittedConstants(refitter, device, partial(adapter_tensors, manifest.graph))
    return RefittedConstants(refitter, device, MergedWeights(manifest))

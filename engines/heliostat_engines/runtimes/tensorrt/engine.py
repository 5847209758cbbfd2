"""The compiled runtimes: an engine folder of TensorRT or TensorRT-RTX behind `Engine`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_engines.adapters import check_binding
from heliostat_engines.errors import EngineFaultError, EngineFolderError
from heliostat_engines.families import get_family
from heliostat_engines.plans.graph_manifest import TensorSpec
from heliostat_engines.plans.manifest import (
    DECODER_PLAN,
    TRANSFORMER_PLAN,
    read_manifest,
    read_plan,
)
from heliostat_engines.plans.profiles import DECODER_BATCH, decoder_profile, input_shapes
from heliostat_engines.plans.vendor import load_vendor
from heliostat_engines.runtimes.engine import EngineInfo
from heliostat_engines.runtimes.resident import (
    PROBE_SEED,
    PROBE_SIGMA,
    ResidentAdapters,
    check_effect,
)
from heliostat_engines.runtimes.tensorrt.delivery import choose_delivery
from heliostat_engines.runtimes.tensorrt.device import CudaDevice
from heliostat_engines.runtimes.tensorrt.plan import CompiledModel
from heliostat_engines.sampling.noise import initial_noise

if TYPE_CHECKING:
    from pathlib import Path

    from heliostat_engines.adapters import Adapter, Binding
    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.plans.manifest import EngineManifest
    from heliostat_engines.plans.vendor import Vendor
    from heliostat_engines.runtimes.tensorrt.delivery import DeviceSlot
    from heliostat_engines.runtimes.tensorrt.device import Device


class TensorRTEngine:
    """A compiled transformer that takes adapters while it runs. One thread at a time."""

    def __init__(
        self,
        folder: Path,
        *,
        slots: int = 8,
        device: Device | None = None,
        vendor: Vendor | None = None,
    ) -> None:
        """Load an engine folder.

        Args:
            folder: what the builder wrote.
            slots: adapters resident at once; the least recently used one leaves.
            device: where it runs; the current CUDA device if None.
            vendor: the library that compiled it; loaded if None.

        Raises:
            EngineFolderError: the folder is no whole engine, or one for another machine.
            HardwareError: there is no CUDA device.
            RuntimeMissingError: the library is not installed.
        """
        manifest = read_manifest(folder)
        self._manifest = manifest
        self._family = get_family(manifest.recipe.family)
        self._device = device or CudaDevice()
        vendor = vendor or load_vendor(manifest.recipe.runtime)
        check_version(manifest, vendor)
        inputs = [spec for spec in manifest.graph.inputs if not _is_lora(manifest, spec)]
        self._inputs = {spec.name: spec for spec in inputs}
        ranges = [input_shapes(self._family, inputs, p) for p in manifest.recipe.profiles]
        plan = read_plan(folder / TRANSFORMER_PLAN, manifest.plan_sha256)
        self._model = CompiledModel(vendor, self._device, plan, ranges)
        self._delivery = choose_delivery(manifest, self._model, vendor, self._device)
        self._resident: ResidentAdapters[DeviceSlot] = ResidentAdapters(slots)
        self._base = self._delivery.prepare(None)
        self._base_probe = self._probe(self._base)

    def describe(self) -> EngineInfo:
        """Family, runtime, precision, LoRA targets and limits."""
        recipe, graph = self._manifest.recipe, self._manifest.graph
        return EngineInfo(
            family=recipe.family,
            checkpoint=self._manifest.checkpoint,
            runtime=recipe.runtime,
            precision=graph.options.precision,
            nvfp4_linears=len(graph.nvfp4_linears),
            linears=self._manifest.linears,
            lora_targets=self._manifest.lora_targets,
            max_rank=graph.options.max_rank,
            slots=self._resident.slots,
            resident_bytes=sum(slot.nbytes for slot in self._resident),
            weights_digest=self._manifest.weights_digest,
        )

    def is_resident(self, sha256: str) -> bool:
        """Whether the adapter is loaded."""
        return sha256 in self._resident

    def make_resident(self, adapter: Adapter) -> Binding:
        """Load an adapter, after checking that it binds and has an effect.

        How it gets in is `delivery`'s: in the modes refit and merge the probe refits the plan with it,
        and every batch under another adapter than the one before does so again (`_run`).

        Raises:
            EngineFaultError: the library refused it; every adapter has left the engine, which is
                out of service until a refit succeeds.
        """
        options = self._manifest.graph.options
        binding = check_binding(adapter, self._manifest.lora_targets, options.max_rank)
        if self.is_resident(adapter.sha256):
            return binding
        slot = self._delivery.prepare(adapter)
        try:
            probe = self._probe(slot)
            if not adapter.is_zero:
                check_effect(binding, probe, self._base_probe)
        except Exception:
            self._delivery.release(slot)
            raise
        for leaving in self._resident.add(adapter.sha256, slot):
            self._delivery.release(leaving)
        return binding

    @torch.inference_mode()
    def velocity(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning,
        adapter: str | None = None,
    ) -> torch.Tensor:
        """velocity[B, ...] in BF16 at latents[B, ...], sigma[B], under a resident adapter.

        Raises:
            EngineFaultError: the engine is out of service, or no profile holds the shapes.
        """
        slot = self._base if adapter is None else self._resident.use(adapter)
        if not self._delivery.is_in_service:
            raise EngineFaultError(
                "the engine is out of service since a refit failed: publish an adapter again, or "
                "restart the server"
            )
        inputs = {"latents": latents, "sigma": sigma, "tokens": conditioning.tokens}
        inputs |= {"pooled": conditioning.pooled}
        if conditioning.mask is not None:
            inputs["mask"] = conditioning.mask
        return self._run(slot, inputs).to(latents.device)

    def _run(self, slot: DeviceSlot, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        try:
            bound = self._delivery.activate(slot)  # here a plan is refitted, if it is to be
        finally:
            if not self._delivery.is_in_service:
                for leaving in self._resident.clear():
                    self._delivery.release(leaving)
        taken = {name: tensor for name, tensor in inputs.items() if name in self._inputs}
        return self._model.run(taken, bound, id(slot) if bound else None)

    @torch.inference_mode()
    def _probe(self, slot: DeviceSlot) -> torch.Tensor:
        """One evaluation at a fixed point, at the smallest shape that the engine takes."""
        point = self._manifest.recipe.profiles[0].smallest
        shape = self._family.latent_shape(point.resolution_px)
        ranges = input_shapes(
            self._family, list(self._inputs.values()), self._manifest.recipe.profiles[0]
        )
        inputs = {name: torch.ones(ranges[name].smallest) for name in self._inputs}
        inputs["latents"] = initial_noise(range(PROBE_SEED, PROBE_SEED + point.batch), shape)
        inputs["sigma"] = torch.full((point.batch,), PROBE_SIGMA)
        return self._run(slot, inputs)


class TensorRTDecoder:
    """An engine folder's compiled decoder."""

    def __init__(
        self, folder: Path, *, device: Device | None = None, vendor: Vendor | None = None
    ) -> None:
        """Raises EngineFolderError: the folder has no decoder, or is for another machine."""
        manifest = read_manifest(folder)
        if manifest.decoder is None:
            raise EngineFolderError(
                f"{folder} has no compiled decoder: build it again with --decoder full"
            )
        vendor = vendor or load_vendor(manifest.recipe.runtime)
        check_version(manifest, vendor)
        family = get_family(manifest.recipe.family)
        spec = TensorSpec(name="latents", dtype="float", shape=manifest.decoder.latents)
        ranges = [
            input_shapes(family, [spec], decoder_profile(p)) for p in manifest.recipe.profiles
        ]
        plan = read_plan(folder / DECODER_PLAN, manifest.decoder.plan_sha256)
        self._model = CompiledModel(vendor, device or CudaDevice(), plan, ranges)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """latents[B, ...] -> images[B, 3, H, W], float32 in 0..1, where the latents are."""
        parts = torch.split(latents.float(), DECODER_BATCH)
        return torch.cat([self._model.run({"latents": part}).to(latents.device) for part in parts])


def check_version(manifest: EngineManifest, vendor: Vendor) -> None:
    """A plan runs on the version that compiled it. Raises EngineFolderError."""
    recipe = manifest.recipe
    if vendor.version != recipe.runtime_version:
        raise EngineFolderError(
            f"the engine was compiled by {recipe.runtime} {recipe.runtime_version}, installed is "
            f"{vendor.version}: build it again, or install that version"
        )


def _is_lora(manifest: EngineManifest, spec: TensorSpec) -> bool:
    return any(spec.name in (site.down, site.up) for site in manifest.graph.lora)

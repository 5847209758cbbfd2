"""The torch runtime: the reference of NVFP4 and FP8, on tensor cores or emulated on any device."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from heliostat_engines.adapters import Adapter, Binding, LoraPair, check_binding
from heliostat_engines.families.precision import LinearPlan, lora_targets, plan_linears
from heliostat_engines.families.weights import weights_digest
from heliostat_engines.fp8 import format as fp8
from heliostat_engines.fp8 import linears as fp8_linears
from heliostat_engines.linears import (
    BranchWeights,
    LastCall,
    LoraBranch,
    LoraSlot,
    shared_inputs,
    stack_downs,
)
from heliostat_engines.machine.arithmetic import compute_dtype, name_of, ready_for
from heliostat_engines.nvfp4 import format as nvfp4
from heliostat_engines.nvfp4 import native as native_fp4
from heliostat_engines.nvfp4.linears import NVFP4Linear, NVFP4WeightLinear, SharedActivations
from heliostat_engines.precisions import MapName, Precision
from heliostat_engines.runtimes.engine import EngineInfo
from heliostat_engines.runtimes.lanes import Lanes
from heliostat_engines.runtimes.resident import (
    PROBE_SEED,
    PROBE_SIGMA,
    ResidentAdapters,
    check_effect,
)
from heliostat_engines.sampling.noise import initial_noise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.families.family import Family

SHARED_FROM = 50_000_000
"""Weights of a transformer from which its products are large enough for several CPU threads to share; in a
smaller one they would wait for each other at each."""
KEPT_BATCHES = 2
"""Of whose embeddings an engine has copies: a rollout's, and its unconditional ones or those of the one before."""


class TorchEngine:
    """A family's transformer with quantised linears and LoRA branches, run by torch.

    Adapters are immutable once resident, so a batch in flight keeps its own whatever is
    published meanwhile. One thread at a time may call `velocity`.
    """

    runtime: ClassVar[str] = "torch"

    def __init__(
        self,
        family: Family,
        checkpoint: str | None = None,
        *,
        precision: Precision = Precision.NVFP4,
        precision_map: MapName = MapName.PUBLISHED,
        max_rank: int = 64,
        slots: int = 8,
        device: str = "cpu",
    ) -> None:
        """Load and rewrite the transformer.

        Args:
            family: the model family.
            checkpoint: where its weights are; the family's default if None.
            precision: what the map quantises is quantised to; BF16 keeps every linear.
            precision_map: which of the family's maps.
            max_rank: the largest LoRA rank accepted.
            slots: adapters resident at once; the least recently used one leaves.
            device: where the transformer and the adapters are; quantised products run on its
                tensor cores if it has such.

        Raises:
            CheckpointError: the checkpoint cannot be read.
        """
        self._family = family
        self._checkpoint = checkpoint or family.default_checkpoint
        self._precision = precision
        self._max_rank = max_rank
        self._slot = LoraSlot()
        self._device = torch.device(device)
        self._dtype = compute_dtype(self._device)
        self._has_fp4 = native_fp4.usable_on(self._device)
        self._has_fp8 = fp8_linears.usable_on(self._device)
        self._emulated_activations = SharedActivations(nvfp4.fake_quantise)
        self._native_activations = SharedActivations(native_fp4.quantise)
        self._fp8_activations = LastCall(fp8.quantise_unchecked)
        self._conditioning = MovedConditioning(self._dtype, self._device)
        self._resident: ResidentAdapters[Mapping[str, BranchWeights]] = ResidentAdapters(slots)
        transformer = family.load_transformer(self._checkpoint, torch.bfloat16)
        self._transformer = ready_for(self._device, transformer).to(self._device)
        self._weights_digest = weights_digest(self._checkpoint)
        rules = family.rules(precision_map)
        self.plan = plan_linears(self._transformer, rules, family.lora_targets)
        amax = family.activation_amax(self._checkpoint) or {}
        for linear in self.plan:
            self._rewrite(linear, amax.get(linear.name))
        self._targets = lora_targets(self.plan)
        self._is_small = (
            sum(linear.in_features * linear.out_features for linear in self.plan) < SHARED_FROM
        )
        self._lanes = Lanes()
        self._is_calibrated = all(
            linear.name in amax for linear in self.plan if self._is_quantised(linear)
        )
        self._base_probe: torch.Tensor | None = None
        self._readers: list[list[str]] = []

    def describe(self) -> EngineInfo:
        """Family, precision, LoRA targets and limits."""
        quantised = sum(self._is_quantised(linear) for linear in self.plan)
        return EngineInfo(
            family=self._family.name,
            checkpoint=self._checkpoint,
            runtime=self.runtime,
            precision=self._precision,
            compute_dtype=name_of(self._dtype),
            nvfp4_linears=quantised,
            linears=len(self.plan),
            lora_targets=self._targets,
            max_rank=self._max_rank,
            slots=self._resident.slots,
            resident_bytes=sum(
                branch.nbytes for branches in self._resident for branch in branches.values()
            ),
            weights_digest=self._weights_digest,
        )

    def is_resident(self, sha256: str) -> bool:
        """Whether the adapter is loaded."""
        return sha256 in self._resident

    def make_resident(self, adapter: Adapter) -> Binding:
        """Load an adapter into a slot, after checking that it binds and has an effect."""
        binding = check_binding(adapter, self._targets, self._max_rank)
        if self.is_resident(adapter.sha256):
            return binding
        pairs = {
            name: LoraPair(
                pair.down.to(self._device, self._dtype), pair.up.to(self._device, self._dtype)
            )
            for name, pair in adapter.pairs.items()
        }
        base = self._base_output()  # the first one finds out what `stack_downs` needs
        branches = stack_downs(pairs, self._readers)
        if not adapter.is_zero:
            check_effect(binding, self._probe(branches), base)
        self._resident.add(adapter.sha256, branches)
        return binding

    @torch.inference_mode()
    def velocity(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning,
        adapter: str | None = None,
    ) -> torch.Tensor:
        """velocity[B, ...] in the device's arithmetic at latents[B, ...], sigma[B], under a resident adapter."""
        branches = None if adapter is None else self._resident.use(adapter)
        return self._evaluate(latents, sigma, conditioning, branches)

    def _evaluate(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning,
        branches: Mapping[str, BranchWeights] | None,
    ) -> torch.Tensor:
        moved = self._conditioning.moved(conditioning)
        shares = self._lanes.shares(len(latents)) if self._has_lanes() else []
        if len(shares) < 2:
            return self._evaluate_rows(latents, sigma, moved, branches)

        @torch.inference_mode()  # of a thread, not of the process
        def share_of(rows: slice) -> torch.Tensor:
            return self._evaluate_rows(latents[rows], sigma[rows], moved.part(rows), branches)

        return self._lanes.evaluate(shares, share_of)

    def _evaluate_rows(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        moved: Conditioning,
        branches: Mapping[str, BranchWeights] | None,
    ) -> torch.Tensor:
        try:
            with self._under(branches):
                velocity = self._transform(latents.to(self._device), sigma.to(self._device), moved)
            return velocity.to(latents.device)
        finally:
            self._emulated_activations.forget()
            self._native_activations.forget()
            self._fp8_activations.forget()

    @contextmanager
    def _under(self, branches: Mapping[str, BranchWeights] | None) -> Iterator[None]:
        """The branches add this adapter while the block runs."""
        self._slot.active = branches
        try:
            yield
        finally:
            self._slot.forget()

    def _transform(
        self, latents: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """One evaluation of what is on the device."""
        return self._family.velocity(self._transformer, latents, sigma, conditioning)

    def _has_lanes(self) -> bool:
        """Whether cores take rows of their own: not where a row's codes depend on the other rows."""
        is_alone = self._precision is not Precision.NVFP4 or self._is_calibrated
        return self._device.type == "cpu" and self._is_small and is_alone

    def _rewrite(self, plan: LinearPlan, activation_amax: float | None) -> None:
        linear = self._transformer.get_submodule(plan.name)
        assert isinstance(linear, nn.Linear)
        module = self._quantised(linear, activation_amax) if self._is_quantised(plan) else linear
        if plan.carries_lora:
            module = self._branch(plan, module)
        _set_submodule(self._transformer, plan.name, module)

    def _branch(self, plan: LinearPlan, linear: nn.Module) -> nn.Module:
        return LoraBranch(plan.name, linear, self._slot)

    def _is_quantised(self, plan: LinearPlan) -> bool:
        return plan.runs_in(self._precision) is not Precision.BF16

    def _quantised(self, linear: nn.Linear, activation_amax: float | None) -> nn.Module:
        if self._precision is Precision.FP8:
            is_native = self._has_fp8 and fp8_linears.fits(linear)
            kind = fp8_linears.NativeFP8Linear if is_native else fp8_linears.FP8Linear
            return kind(linear, self._fp8_activations)
        if self._precision is Precision.NVFP4_W4A16:
            return NVFP4WeightLinear(linear)
        if self._has_fp4 and native_fp4.fits(linear):
            return native_fp4.NativeNVFP4Linear(linear, activation_amax, self._native_activations)
        return NVFP4Linear(linear, activation_amax, self._emulated_activations)

    @torch.inference_mode()
    def _probe(self, branches: Mapping[str, BranchWeights] | None) -> torch.Tensor:
        """One evaluation at a fixed point: enough to see whether an adapter does anything."""
        shape = self._family.latent_shape(self._family.resolutions.smallest_px)
        latents = initial_noise([PROBE_SEED], shape).to(self._device)
        conditioning = self._family.probe_conditioning(self._transformer)
        with _one_thread() if self._is_small else nullcontext():
            return self._evaluate(latents, torch.tensor([PROBE_SIGMA]), conditioning, branches)

    def _base_output(self) -> torch.Tensor:
        """Of the probe; the first one also shows which branches read one input."""
        if self._base_probe is None:
            branches = {name: self._transformer.get_submodule(name) for name in self._targets}
            with shared_inputs(branches) as self._readers:
                self._base_probe = self._probe(None)
        return self._base_probe


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class MovedConditioning:
    """Casts and moves embeddings once for all steps of a rollout, its unconditional ones too."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._last: deque[tuple[Conditioning, Conditioning]] = deque(maxlen=KEPT_BATCHES)

    def moved(self, conditioning: Conditioning) -> Conditioning:
        """The same in that dtype on the device."""
        for known, moved in self._last:
            if known is conditioning:
                return moved
        moved = conditioning.to(self._dtype, self._device)
        self._last.append((conditioning, moved))
        return moved


def _set_submodule(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)

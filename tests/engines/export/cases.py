"""What the exported files are compared on: models of random weights, adapters, samples, engines."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import onnx
import torch
from torch import nn
from torch.nn import functional

from heliostat_engines.adapters import Adapter, LoraPair, pack_adapter, parse_adapter
from heliostat_engines.conditioning import Conditioning
from heliostat_engines.export.graph import export_graph
from heliostat_engines.export.sources import MergedSource, ModuleSource
from heliostat_engines.families import get_family
from heliostat_engines.families.calibration import calibrate
from heliostat_engines.families.family import Family, Size
from heliostat_engines.families.precision import LinearPlan, lora_targets, plan_linears
from heliostat_engines.fp8 import format as fp8
from heliostat_engines.nvfp4 import format as nvfp4
from heliostat_engines.plans.adapter_tensors import adapter_tensors
from heliostat_engines.plans.graph_manifest import ExportOptions, GraphManifest, LoraMode
from heliostat_engines.precisions import MapName, Precision
from heliostat_engines.runtimes.torch import TorchEngine
from tests.engines.export.evaluator import (
    Arithmetic,
    Evaluation,
    Evaluator,
    linear_inputs,
    to_torch,
)

FAMILIES = ("sana", "flux", "flux-schnell", "sd3.5-large", "sd3.5-medium", "demo")
MAX_RANK = 8
RANK = 4
"""Below the graph's: the rest is padding."""
ADAPTER_SIZE = 0.3
"""Makes adapters move the velocity by a third and more."""


@dataclass(frozen=True)
class Model:
    """A family's transformer with random weights, and the calibrated magnitudes of its inputs."""

    family: Family
    transformer: nn.Module
    amax: Mapping[str, float]

    def plans(self, map_name: MapName = MapName.PUBLISHED) -> tuple[LinearPlan, ...]:
        return plan_linears(self.transformer, self.family.rules(map_name), self.family.lora_targets)


@dataclass(frozen=True)
class Sample:
    """One evaluation's inputs."""

    latents: torch.Tensor
    sigma: torch.Tensor
    conditioning: Conditioning


@dataclass(frozen=True)
class Distance:
    """How far one tensor is from another: |a - b| / |b|, and the cosine between them."""

    relative: float
    cosine: float

    @staticmethod
    def between(tensor: torch.Tensor, expected: torch.Tensor) -> Distance:
        a, b = tensor.double().flatten(), expected.double().flatten()
        return Distance(
            float((a - b).norm() / b.norm()), float(functional.cosine_similarity(a, b, dim=0))
        )


def make_model(name: str, size: Size = Size.TINY, blocks: int | None = None) -> Model:
    family = get_family(name)
    transformer = family.build_transformer(size, blocks=blocks, device="cpu")
    sample = make_sample(family, transformer, batch=1)
    smallest = family.resolutions.smallest_px
    amax = calibrate(family, transformer, sample.conditioning, [0], 1, smallest)
    return Model(family, transformer, amax)


def make_sample(
    family: Family,
    transformer: nn.Module,
    *,
    batch: int = 2,
    size: tuple[int, int] | None = None,
    tokens: int = 6,
) -> Sample:
    """size: height and width of the latents; the family's smallest if None."""
    random = torch.Generator().manual_seed(batch + tokens)
    channels, *smallest = family.latent_shape(family.resolutions.smallest_px)
    row = family.probe_conditioning(transformer, tokens)
    mask = None
    if row.mask is not None:
        mask = (torch.arange(tokens) < tokens - 2).to(row.mask.dtype).tile(batch, 1)
    conditioning = replace(
        row,
        tokens=torch.randn(batch, *row.tokens.shape[1:], generator=random),
        pooled=torch.randn(batch, *row.pooled.shape[1:], generator=random),
        mask=mask,
    )
    return Sample(
        torch.randn(batch, channels, *(size or smallest), generator=random),
        torch.linspace(0.2, 0.9, batch),
        conditioning,
    )


def make_adapter(model: Model, size: float = ADAPTER_SIZE) -> Adapter:
    random = torch.Generator().manual_seed(0)
    pairs = {
        name: (
            torch.randn(RANK, inputs, generator=random) * inputs**-0.5,
            torch.randn(outputs, RANK, generator=random) * size,
        )
        for name, (inputs, outputs) in lora_targets(model.plans()).items()
    }
    return parse_adapter(pack_adapter(pairs, alpha=RANK))


def merged(model: Model, adapter: Adapter) -> Model:
    """The model with the adapter added to its weights, rounded to BF16."""
    transformer = copy.deepcopy(model.transformer)
    for name, pair in adapter.pairs.items():
        weight = transformer.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        weight.data = (weight.float() + pair.up @ pair.down).bfloat16()
    return replace(model, transformer=transformer)


def export(
    model: Model, options: ExportOptions, folder: Path, adapter: Adapter | None = None
) -> GraphManifest:
    """Write the file; mode `merge` takes its adapter here."""
    source = ModuleSource(model.transformer)
    return export_graph(
        model.family,
        MergedSource(source, adapter) if options.lora is LoraMode.MERGE and adapter else source,
        options,
        folder,
        activation_amax=model.amax,
        progress=lambda *_: None,
    )


def feed(manifest: GraphManifest, sample: Sample) -> dict[str, torch.Tensor]:
    """The sample as the graph's inputs."""
    tensors = {
        "latents": sample.latents,
        "sigma": sample.sigma,
        "tokens": sample.conditioning.tokens,
        "pooled": sample.conditioning.pooled,
    }
    if sample.conditioning.mask is not None:
        tensors["mask"] = sample.conditioning.mask
    return {spec.name: tensors[spec.name] for spec in manifest.inputs if spec.name in tensors}


def run(
    evaluator: Evaluator, manifest: GraphManifest, sample: Sample, adapter: Adapter | None
) -> Evaluation:
    """Evaluate the file under an adapter, however its mode takes one."""
    inputs = feed(manifest, sample)
    if manifest.options.lora is LoraMode.MERGE:
        return evaluator.run(inputs)
    tensors = adapter_tensors(manifest, adapter)
    if manifest.options.lora is LoraMode.INPUTS:
        return evaluator.run(inputs | tensors)
    return evaluator.run(inputs, tensors)


class Reference:
    """TorchEngine on a model, calibrated, under an adapter."""

    def __init__(
        self,
        model: Model,
        precision: Precision,
        map_name: MapName = MapName.PUBLISHED,
        adapter: Adapter | None = None,
    ) -> None:
        self.transformer = copy.deepcopy(model.transformer)
        """Rewritten by the engine: its linears are the engine's."""
        self._engine = TorchEngine(
            _given(model, self.transformer, map_name),
            "in memory",
            precision=precision,
            max_rank=MAX_RANK,
        )
        self._adapter = adapter
        if adapter is not None:
            self._engine.make_resident(adapter)

    def velocity(self, sample: Sample) -> torch.Tensor:
        return self._engine.velocity(
            sample.latents,
            sample.sigma,
            sample.conditioning,
            None if self._adapter is None else self._adapter.sha256,
        )


def _given(model: Model, transformer: nn.Module, map_name: MapName) -> Family:
    """The model's family, with a checkpoint that is in memory."""

    class Given(type(model.family)):  # type: ignore[misc]
        precision_map = model.family.rules(map_name)

        def load_transformer(self, checkpoint: str, dtype: torch.dtype) -> nn.Module:  # noqa: ARG002
            return transformer

        def activation_amax(self, checkpoint: str) -> Mapping[str, float]:  # noqa: ARG002
            return model.amax

    family: Family = Given()
    return family


@contextmanager
def in_step(transformer: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Iterator[list[Distance]]:
    """Walk a transformer beside a file: linears go on with the file's inputs, not with their own.

    Gives the distance between the two at each linear. FP4 steps are coarse: a value that BF16
    rounds differently may fall on another step, and what follows is another trajectory. In step,
    each stretch between two quantisers is compared on the same values.
    """
    distances: list[Distance] = []

    def go_on_with(name: str) -> torch.utils.hooks.RemovableHandle:
        def replace_input(_module: nn.Module, arguments: tuple[torch.Tensor]) -> torch.Tensor:
            theirs = inputs[name].reshape(arguments[0].shape)
            distances.append(Distance.between(theirs, arguments[0]))
            return theirs

        return transformer.get_submodule(name).register_forward_pre_hook(replace_input)

    handles = [go_on_with(name) for name in inputs]
    try:
        yield distances
    finally:
        for handle in handles:
            handle.remove()


def quantised_inputs(model: onnx.ModelProto, evaluation: Evaluation) -> dict[str, torch.Tensor]:
    """What each quantised linear of a file read, before it was quantised, by module."""
    read = linear_inputs(model.graph)
    return {module: to_torch(evaluation.values[name]) for module, name in read.items()}


class ExactLinear(nn.Module):
    """What a linear means, in float32: quantised values multiplied without rounding, plus the branch."""

    def __init__(
        self, linear: nn.Linear, precision: Precision, amax: float, pair: LoraPair | None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._precision = precision
        self._weight = linear.weight.detach().float()
        if precision is Precision.FP8:
            self._weight = fp8.dequantise(fp8.quantise(self._weight))
        elif precision is not Precision.BF16:
            self._weight = nvfp4.dequantise(nvfp4.quantise(self._weight))
        self._bias = linear.bias
        self._amax = torch.tensor(amax)
        self._pair = pair

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = x
        if self._precision is Precision.NVFP4:
            values = nvfp4.dequantise(nvfp4.quantise(x, nvfp4.global_scale_of(self._amax)))
        elif self._precision is Precision.FP8:
            values = fp8.dequantise(fp8.quantise(x, fp8.scale_of(self._amax)))
        output = functional.linear(values, self._weight, self._bias)
        if self._pair is None:
            return output
        down, up = self._pair.down.bfloat16().float(), self._pair.up.bfloat16().float()
        return output + functional.linear(functional.linear(x, down), up)


class Exact:
    """A model in float32 arithmetic: what every runtime rounds its way towards."""

    def __init__(
        self,
        model: Model,
        precision: Precision,
        map_name: MapName = MapName.PUBLISHED,
        adapter: Adapter | None = None,
    ) -> None:
        self.transformer = copy.deepcopy(model.transformer).float()
        self._family = model.family
        for plan in model.plans(map_name):
            linear = self.transformer.get_submodule(plan.name)
            assert isinstance(linear, nn.Linear)
            exact = ExactLinear(
                linear,
                plan.runs_in(precision),
                model.amax.get(plan.name, 1.0),
                adapter.pairs.get(plan.name) if adapter else None,
            )
            self.transformer.set_submodule(plan.name, exact)

    @torch.inference_mode()
    def velocity(self, sample: Sample) -> torch.Tensor:
        return self._family.velocity(
            self.transformer, sample.latents, sample.sigma, sample.conditioning
        )


class Runner(Protocol):
    """What has run a file; its `model` is the file as it was exported."""

    model: onnx.ModelProto


@dataclass(frozen=True)
class Parity:
    """A file against a torch model: on its own, and in step with the file, up to each linear."""

    free: Distance
    in_step: Distance
    linears: tuple[Distance, ...]

    @property
    def worst(self) -> Distance:
        """In step, at the velocity and at each linear."""
        every = (self.in_step, *self.linears)
        return Distance(max(d.relative for d in every), min(d.cosine for d in every))


def compare(
    runner: Runner, evaluation: Evaluation, torch_model: Reference | Exact, sample: Sample
) -> Parity:
    """How far a file's evaluation is from a torch model's."""
    velocity = evaluation.velocity
    free = Distance.between(velocity, torch_model.velocity(sample))
    with in_step(torch_model.transformer, quantised_inputs(runner.model, evaluation)) as linears:
        stepped = Distance.between(velocity, torch_model.velocity(sample))
    return Parity(free, stepped, tuple(linears))


@dataclass(frozen=True)
class Proof:
    """One exported file under one adapter: against TorchEngine as typed, and without rounding."""

    engine: Parity
    exact: Parity


def prove(
    model: Model, manifest: GraphManifest, folder: Path, sample: Sample, adapter: Adapter
) -> Proof:
    """Compare a file with torch's NVFP4, in both arithmetics; mode `merge` with the merged model."""
    precision, map_name = manifest.options.precision, manifest.options.precision_map
    is_merged = manifest.options.lora is LoraMode.MERGE
    target = merged(model, adapter) if is_merged else model
    branches = None if is_merged else adapter
    rounded, wide = Evaluator(folder), Evaluator(folder, Arithmetic.WIDE)
    return Proof(
        compare(
            rounded,
            run(rounded, manifest, sample, adapter),
            Reference(target, precision, map_name, branches),
            sample,
        ),
        compare(
            wide,
            run(wide, manifest, sample, adapter),
            Exact(target, precision, map_name, branches),
            sample,
        ),
    )

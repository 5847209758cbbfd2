"""The torch runtime with its transformer's blocks compiled: what is fastest without TensorRT."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from heliostat_engines.errors import first_line
from heliostat_engines.progress import unheard
from heliostat_engines.runtimes.resident import PROBE_SEED, PROBE_SIGMA
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.noise import initial_noise
from heliostat_engines.torch_compile import compile_blocks, require_compiler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.families.precision import LinearPlan
    from heliostat_engines.linears import BranchWeights
    from heliostat_engines.plans.profiles import Point
    from heliostat_engines.progress import Progress

    Evaluate = Callable[[torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]
    Capture = Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, Callable[[], None]]]
    """Evaluates once; gives the output, and what does it again in the same memory."""

SERVING = "eager_on_recompile"
"""Torch's stance while images are drawn: what is not compiled by then is evaluated without."""

_log = logging.getLogger(__name__)


class CompiledTorchEngine(TorchEngine):
    """TorchEngine whose blocks torch compiles, once for each shape, before the first image is drawn.

    All adapters go through one place (`FixedBranch`), into which the active one is copied: graphs, and what a
    GPU records of them, never change. Other shapes than the compiled ones are evaluated as TorchEngine does,
    and so are probes.
    """

    runtime: ClassVar[str] = "torch-compile"
    _held: Mapping[str, BranchWeights] | None = None
    """Whose weights the branches have; None: zeros, the base model."""
    _batches: Mapping[tuple[int, ...], Sequence[int]] = MappingProxyType({})
    """Of each size of latents those that are compiled, in ascending order."""
    _recorded: Mapping[tuple[torch.Size, torch.Size], Recorded] = MappingProxyType({})
    """By the shapes of latents and tokens, on a CUDA device."""

    def compile(self, shapes: Sequence[Point], progress: Progress = unheard) -> None:
        """Compile for batches of images of those sizes; a smaller batch is filled up to the next.

        Raises:
            HardwareError: there is no compiler.
            FilesError: the folder of compiled code cannot be used.
            ResolutionError: the family does not draw such images.
        """
        require_compiler(self._device.type, "runtime = torch-compile", "set runtime = torch")
        compile_blocks(self._blocks(), dynamic=False, rounds_as_eager=True)
        for done, point in enumerate(shapes):
            progress("compile", done, len(shapes))
            self._compile(point)
            size = self._family.latent_shape(point.resolution_px)
            batches = sorted({*self._batches.get(size, ()), point.batch})
            self._batches = {**self._batches, size: batches}
        progress("compile", len(shapes), len(shapes))

    @override
    @torch.inference_mode()
    def velocity(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning,
        adapter: str | None = None,
    ) -> torch.Tensor:
        """velocity[B, ...] as TorchEngine's, but for the rounding of what is fused; nothing is compiled here."""
        missing = self._missing_rows(latents)
        rows = len(latents)
        if missing:
            # With a row that is there: were a tensor scaled by its own largest, the scale would stay.
            index = torch.arange(rows + missing).clamp_(max=rows - 1)
            latents, sigma = latents[index], sigma[index]
            conditioning = conditioning.take(index)
        with torch.compiler.set_stance(SERVING):
            return super().velocity(latents, sigma, conditioning, adapter)[:rows]

    @override
    def _probe(self, branches: Mapping[str, BranchWeights] | None) -> torch.Tensor:
        with torch.compiler.set_stance("force_eager"):
            return super()._probe(branches)

    @override
    def _branch(self, plan: LinearPlan, linear: nn.Module) -> nn.Module:
        return FixedBranch(linear, plan, self._max_rank, self._dtype, self._device)

    @override
    @contextmanager
    def _under(self, branches: Mapping[str, BranchWeights] | None) -> Iterator[None]:
        if branches is not self._held:
            for name in self._targets:
                branch = self._transformer.get_submodule(name)
                assert isinstance(branch, FixedBranch)
                branch.hold(None if branches is None else branches[name])
            self._held = branches
        yield

    @override
    def _transform(
        self, latents: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        recorded = self._recorded.get((latents.shape, conditioning.tokens.shape))
        evaluate = recorded or super()._transform
        return evaluate(latents, sigma, conditioning)

    @override
    def _has_lanes(self) -> bool:
        return False  # what is compiled has its batch

    def _blocks(self) -> list[nn.Module]:
        return self._family.blocks(self._transformer)

    def _missing_rows(self, latents: torch.Tensor) -> int:
        """How many rows fill a batch up to the next that is compiled; 0 if there is none."""
        rows = len(latents)
        batches = self._batches.get(tuple(latents.shape[1:]), [])
        return next((batch - rows for batch in batches if batch >= rows), 0)

    @torch.inference_mode()
    def _compile(self, point: Point) -> None:
        shape = self._family.latent_shape(point.resolution_px)
        latents = initial_noise(range(PROBE_SEED, PROBE_SEED + point.batch), shape)
        row = self._family.probe_conditioning(self._transformer, self._family.text_tokens)
        conditioning = row.repeat(point.batch)
        sigma = torch.full((point.batch,), PROBE_SIGMA)
        self._evaluate(latents, sigma, conditioning, None)
        if self._device.type != "cuda":
            return
        inputs = latents.to(self._device), sigma.to(self._device)
        moved = self._conditioning.moved(conditioning)
        try:
            recorded = Recorded(super()._transform, *inputs, moved, cuda_graph)
        except RuntimeError as error:
            _log.warning("%s is drawn without a CUDA graph: %s", point, first_line(error))
            return
        key = latents.shape, conditioning.tokens.shape
        self._recorded = {**self._recorded, key: recorded}


class FixedBranch(nn.Module):
    """base(x) + (x A^T)(s B)^T with A and B where they always are, zero-padded to the largest rank."""

    def __init__(
        self,
        base: nn.Module,
        plan: LinearPlan,
        max_rank: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.base = base
        # Buffers: a graph takes them as inputs that keep their place.
        down = torch.zeros(max_rank, plan.in_features, dtype=dtype, device=device)
        up = torch.zeros(plan.out_features, max_rank, dtype=dtype, device=device)
        self.register_buffer("down", down, persistent=False)
        self.register_buffer("up", up, persistent=False)
        self.down: torch.Tensor
        self.up: torch.Tensor

    def hold(self, weights: BranchWeights | None) -> None:
        """Take over an adapter's weights; None: the base model."""
        self.down.zero_()
        self.up.zero_()
        if weights is not None:
            rank = weights.up.shape[1]
            self.down[:rank].copy_(weights.down[weights.own])
            self.up[:, :rank].copy_(weights.up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The branch is evaluated for the base model, too."""
        output: torch.Tensor = self.base(x)
        projected = functional.linear(x, self.down).flatten(0, -2)
        # As `Update.add_to_` does: rounded once, so that both ways to draw give the same codes downstream.
        return torch.addmm(output.flatten(0, -2), projected, self.up.t()).view_as(output)


class Recorded:
    """An evaluation in memory of its own, which a device can do again without being told each step."""

    def __init__(
        self,
        evaluate: Evaluate,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning,
        capture: Capture,
    ) -> None:
        """What is given says the shapes; it has been evaluated before."""
        self._inputs = latents.clone(), sigma.clone(), conditioning.take(range(len(conditioning)))
        self._output, self._again = capture(lambda: evaluate(*self._inputs))

    def __call__(
        self, latents: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The evaluation of other values of the same shapes."""
        own_latents, own_sigma, own = self._inputs
        own_latents.copy_(latents)
        own_sigma.copy_(sigma)
        own.tokens.copy_(conditioning.tokens)
        own.pooled.copy_(conditioning.pooled)
        if own.mask is not None and conditioning.mask is not None:
            own.mask.copy_(conditioning.mask)
        self._again()
        return self._output.clone()


def cuda_graph(evaluate: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
    """What an evaluation asks of the current CUDA device, as one CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = evaluate()
    return output, graph.replay

"""The transformer and the LoRA weights it is driven with: trained, old, EMA, or none.

The weights live in float32 (`LoraWeights`), where the optimiser and the averages act on them.
The transformer computes with copies in BF16 (in float32 where a CPU has no BF16 units), the same
arithmetic for every policy and for the LoRA branch of a server on such a machine: equal weights give
equal velocities, to the bit.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from heliostat_engines.adapters import AdapterFiles, pack_adapter
from heliostat_engines.families.precision import is_lora_target, named_linears
from heliostat_engines.finite import are_finite
from heliostat_engines.machine.arithmetic import compute_dtype, ready_for
from heliostat_engines.machine.resting import Resting
from heliostat_engines.torch_compile import compile_blocks
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.policy.sharding import shard
from heliostat_trainer.randomness import Purpose, torch_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.families.family import Family
    from heliostat_engines.sampling.euler import Velocity

NOT_FINITE = "its weights are NaN or infinite"
"""Of a file or a policy."""


class PolicyName(StrEnum):
    """Which weights a velocity is asked of."""

    TRAINED = "trained"
    """What the optimiser moves; the only one with a gradient."""
    OLD = "old"
    """The behaviour policy: what the server explores with and samples are drawn with."""
    EMA = "ema"
    """The moving average, which is evaluated and exported."""
    BASE = "base"
    """The base model: all LoRA off."""


ADAPTERS = (PolicyName.TRAINED, PolicyName.OLD, PolicyName.EMA)


@dataclass(frozen=True)
class LoraWeights:
    """A[r, in] and B[out, r] of every target, float32, by PEFT's names `module.lora_A`."""

    tensors: Mapping[str, torch.Tensor]

    @staticmethod
    def initial(
        targets: Mapping[str, tuple[int, int]], rank: int, seed: int, device: torch.device
    ) -> LoraWeights:
        """A normal with deviation 1 / rank (PEFT's "gaussian"), B zero: the base model at first."""
        random = torch_stream(seed, Purpose.LORA_INIT)
        tensors = {}
        for name, (width_in, width_out) in sorted(targets.items()):
            down = torch.randn(rank, width_in, generator=random) / rank
            tensors[f"{name}.lora_A"] = down.to(device)
            tensors[f"{name}.lora_B"] = torch.zeros(width_out, rank, device=device)
        return LoraWeights(tensors)

    def clone(self) -> LoraWeights:
        """A copy of its own."""
        return LoraWeights({name: value.detach().clone() for name, value in self.tensors.items()})

    @torch.no_grad()
    def copy_from(self, other: LoraWeights) -> None:
        """Take over the other's values."""
        for name, value in self.tensors.items():
            value.copy_(other.tensors[name])

    @torch.no_grad()
    def decay_towards(self, other: LoraWeights, decay: float) -> None:
        """self <- decay self + (1 - decay) other."""
        for name, value in self.tensors.items():
            value.mul_(decay).add_(other.tensors[name], alpha=1 - decay)

    def equals(self, other: LoraWeights) -> bool:
        """Whether all weights are the other's."""
        return all(torch.equal(value, other.tensors[name]) for name, value in self.tensors.items())

    @property
    def finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return are_finite(self.tensors.values())

    def pairs(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """By module, its (A[r, in], B[out, r])."""
        modules = {name.rpartition(".")[0] for name in self.tensors}
        return {
            module: (self.tensors[f"{module}.lora_A"], self.tensors[f"{module}.lora_B"])
            for module in sorted(modules)
        }

    def pack(self, alpha: float) -> AdapterFiles:
        """The PEFT adapter, in float32."""
        return pack_adapter(self.pairs(), alpha)


class Policy:
    """A family's transformer with the policies' LoRA on given modules."""

    def __init__(
        self,
        family: Family,
        checkpoint: str,
        targets: Mapping[str, tuple[int, int]],
        *,
        rank: int,
        alpha: float,
        seed: int,
        device: torch.device,
        gradient_checkpointing: bool = False,
        compiled: bool = False,
        mesh: DeviceMesh | None = None,
    ) -> None:
        """Load the transformer and attach the LoRA.

        Args:
            family: the model family.
            checkpoint: where its weights are.
            targets: the server's LoRA targets, name -> (in_features, out_features).
            rank: of every module's update.
            alpha: the update is scaled by alpha / rank.
            seed: of the initial weights.
            device: where the policy lives.
            gradient_checkpointing: keep only the blocks' inputs for the backward pass.
            compiled: run the repeated blocks through torch.compile.
            mesh: devices that the frozen weights are spread over, instead of all on `device`.

        Raises:
            ConfigError: the server's targets are not this model's.
        """
        self._family = family
        loaded = family.load_transformer(checkpoint, torch.bfloat16)
        self._transformer = ready_for(device, loaded)
        if mesh is None:
            self._transformer.to(device)
        check_targets(family, self._transformer, targets)
        self.device = device
        self.dtype = compute_dtype(device)
        self.alpha = alpha
        self.targets = dict(targets)
        trained = LoraWeights.initial(targets, rank, seed, device)
        self.weights = {name: trained.clone() for name in ADAPTERS}
        self._layers = _attach(self._transformer, sorted(targets), rank, alpha, device)
        if gradient_checkpointing:
            transformer: Any = self._transformer
            transformer.enable_gradient_checkpointing()
        blocks = family.blocks(self._transformer)
        if compiled:
            compile_blocks(blocks)  # a graph for each kind of block, policy and batch
        if mesh is not None:
            copies = {copy for name in ADAPTERS for copy in self._copies(name).values()}
            shard(self._transformer, blocks, copies, mesh)
        self.refresh()

    def resting(self) -> Resting:
        """What leaves the device while a server works there.

        It is all but the policies' float32 weights, which are saved and published meanwhile.
        """
        return Resting(self.device, self._transformer)

    @property
    def trained(self) -> LoraWeights:
        """What the optimiser moves."""
        return self.weights[PolicyName.TRAINED]

    def refresh(self, *names: PolicyName) -> None:
        """Make the copies that compute follow the float32 weights (of all policies, if none is named)."""
        for name in names or ADAPTERS:
            weights = self.weights[name]
            for key, parameter in self._copies(name).items():
                parameter.data.copy_(weights.tensors[key])

    def velocity(
        self,
        name: PolicyName,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        """velocity[B, ...] in float32 at latents[B, ...], sigma[B]; a gradient for TRAINED only."""
        learns = name is PolicyName.TRAINED and torch.is_grad_enabled()
        with self._active(name), torch.set_grad_enabled(learns):
            return self._family.velocity(self._transformer, latents, sigma, conditioning).float()

    def bind(self, name: PolicyName, conditioning: Conditioning) -> Velocity:
        """The velocity of one policy with its conditioning, without gradients, for a sampler."""

        def velocity(latents: torch.Tensor, sigma: torch.Tensor, /) -> torch.Tensor:
            with torch.no_grad():
                return self.velocity(name, latents, sigma, conditioning)

        return velocity

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a loss in TRAINED's velocities to the float32 weights' gradients."""
        with self._active(PolicyName.TRAINED):  # checkpointed blocks are evaluated again
            loss.backward()  # type: ignore[no-untyped-call]
        for key, parameter in self._copies(PolicyName.TRAINED).items():
            if parameter.grad is None:
                continue
            weight = self.trained.tensors[key]
            gradient = parameter.grad.float()
            weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
            parameter.grad = None

    def _copies(self, name: PolicyName) -> dict[str, nn.Parameter]:
        copies = {}
        for module, layer in self._layers.items():
            copies[f"{module}.lora_A"] = layer.lora_A[name].weight
            copies[f"{module}.lora_B"] = layer.lora_B[name].weight
        return copies

    @contextmanager
    def _active(self, name: PolicyName) -> Iterator[None]:
        for layer in self._layers.values():
            if name is PolicyName.BASE:
                layer.enable_adapters(False)
            else:
                layer.set_adapter(name, inference_mode=name is not PolicyName.TRAINED)
        try:
            yield
        finally:
            if name is PolicyName.BASE:
                for layer in self._layers.values():
                    layer.enable_adapters(True)


def check_targets(
    family: Family, transformer: nn.Module, targets: Mapping[str, tuple[int, int]]
) -> None:
    """Compare the server's LoRA targets with the local model's.

    Raises:
        ConfigError: they differ; says in what.
    """
    local = {
        name: (linear.in_features, linear.out_features)
        for name, linear in named_linears(transformer)
        if is_lora_target(name, family.lora_targets)
    }
    differing = sorted(
        name for name in local.keys() | targets.keys() if local.get(name) != targets.get(name)
    )
    if differing:
        raise ConfigError(
            f"{len(differing)} LoRA targets of the server's model differ from the trainer's (the "
            f"first: {differing[0]}): set model.checkpoint to the checkpoint that the server serves"
        )


def _attach(
    transformer: nn.Module, names: list[str], rank: int, alpha: float, device: torch.device
) -> dict[str, LoraLayer]:
    """PEFT layers by module name, with weights in what the device computes in for every policy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # ours
        for adapter in ADAPTERS:
            config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, bias="none")
            inject_adapter_in_model(config, transformer, str(adapter))
    layers = {
        name: module
        for name, module in transformer.named_modules()
        if isinstance(module, LoraLayer)
    }
    assert sorted(layers) == names, "PEFT bound other modules than the server's targets"
    for layer in layers.values():
        layer.lora_A.to(device, compute_dtype(device))
        layer.lora_B.to(device, compute_dtype(device))
    return layers

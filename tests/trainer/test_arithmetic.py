"""The server in one arithmetic, the trainer in the other: how far their drawings differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from heliostat_engines.adapters import parse_adapter
from heliostat_engines.conditioning import Conditioning
from heliostat_engines.families import get_family
from heliostat_engines.machine.arithmetic import CHOICES
from heliostat_engines.precisions import Precision
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.euler import sample_euler
from heliostat_engines.sampling.noise import initial_noise
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.policy.policy import Policy, PolicyName
from heliostat_trainer.run import require_same_arithmetic

FAMILY = get_family("demo")
CHECKPOINT = FAMILY.default_checkpoint
SEEDS = range(3)
CONDITIONING = Conditioning(
    tokens=torch.randn(len(SEEDS), 16, 384, generator=torch.Generator().manual_seed(1)),
    pooled=torch.randn(len(SEEDS), 384, generator=torch.Generator().manual_seed(2)),
)
BF16_ROUNDING = 0.01
"""Relative distance, in the Euclidean norm, of velocities in BF16 from those in float32: a dozen
roundings of 2**-9 each on the way through the transformer."""
FLOAT32_ROUNDING = 1e-5
"""The same of float32 alone, whose sums are in another order."""


def make_policy() -> Policy:
    """With a LoRA that moves the velocity, the same at each call."""
    engine = TorchEngine(FAMILY, CHECKPOINT)
    policy = Policy(
        FAMILY,
        CHECKPOINT,
        engine.describe().lora_targets,
        rank=4,
        alpha=4.0,
        seed=0,
        device=torch.device("cpu"),
    )
    generator = torch.Generator().manual_seed(3)
    for name, weight in sorted(policy.trained.tensors.items()):
        if name.endswith("lora_B"):
            weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    policy.weights[PolicyName.OLD].copy_from(policy.trained)
    policy.refresh()
    return policy


def drawn_by_trainer() -> torch.Tensor:
    policy = make_policy()
    velocity = policy.bind(PolicyName.OLD, CONDITIONING.to(policy.dtype))
    return sample_euler(velocity, noise(), FAMILY.sigmas(6, 64))


def drawn_by_server(precision: Precision) -> torch.Tensor:
    adapter = parse_adapter(make_policy().trained.pack(4.0))
    engine = TorchEngine(FAMILY, CHECKPOINT, precision=precision)
    engine.make_resident(adapter)
    return sample_euler(
        lambda latents, sigma: engine.velocity(latents, sigma, CONDITIONING, adapter.sha256),
        noise(),
        FAMILY.sigmas(6, 64),
    )


def noise() -> torch.Tensor:
    return initial_noise(SEEDS, FAMILY.latent_shape(64))


def distance(drawn: torch.Tensor, expected: torch.Tensor) -> float:
    return float((drawn - expected).norm() / expected.norm())


@pytest.mark.parametrize("server", list(CHOICES))
@pytest.mark.parametrize("trainer", list(CHOICES))
def test_server_and_trainer_agree_within_rounding_whatever_each_computes_in(
    computing: Callable[[str], None], server: str, trainer: str
) -> None:
    computing(trainer)
    expected = drawn_by_trainer()
    computing(server)
    plain = distance(drawn_by_server(Precision.BF16), expected)
    # The server adds a LoRA's update within a product: rounded once, where the trainer rounds twice.
    exactly = server == trainer == "float32"
    assert plain < (FLOAT32_ROUNDING if exactly else BF16_ROUNDING)


@pytest.mark.slow
def test_nvfp4_draws_as_well_in_either_arithmetic(computing: Callable[[str], None]) -> None:
    """What rounds to BF16 elsewhere falls to another FP4 code now and then: no more than that."""
    drawn, exact = {}, {}
    for name in CHOICES:
        computing(name)
        drawn[name] = drawn_by_server(Precision.NVFP4)
        exact[name] = drawn_by_server(Precision.BF16)
    quantisation = distance(drawn["float32"], exact["float32"])
    assert quantisation > 0.05
    assert distance(drawn["bfloat16"], exact["bfloat16"]) == pytest.approx(quantisation, rel=0.25)
    assert distance(drawn["bfloat16"], drawn["float32"]) < quantisation


def test_ranks_of_one_run_compute_alike(computing: Callable[[str], None]) -> None:
    computing("float32")
    require_same_arithmetic("float32")
    sentence = (
        "one rank computes in float32, the leader's in bfloat16: set HELIOSTAT_CPU_DTYPE=float32"
    )
    with pytest.raises(ConfigError, match=sentence):
        require_same_arithmetic("bfloat16")

"""What training and drawing take: on paper, and as real tensors."""

from __future__ import annotations

import pytest
import torch

from heliostat_engines.families import FAMILIES, get_family
from heliostat_engines.families.family import Family, Size
from heliostat_engines.families.precision import lora_targets, plan_linears
from heliostat_engines.families.without_checkpoint import without_checkpoint
from heliostat_engines.machine import arithmetic
from heliostat_engines.machine.counting import peak_bytes
from heliostat_trainer.forecast.activations import drawing_bytes, training_bytes
from heliostat_trainer.policy.policy import Policy, PolicyName

NAMES = [family.name for family in FAMILIES if family.name != "demo"]
RANK, ROWS = 4, 2


def targets_of(family: Family) -> dict[str, tuple[int, int]]:
    transformer = family.build_transformer(Size.TINY)
    return dict(lora_targets(plan_linears(transformer, family.precision_map, family.lora_targets)))


def told(name: str, *, checkpointed: bool) -> int:
    family = get_family(name)
    return training_bytes(
        family,
        family.build_transformer(Size.TINY),
        targets_of(family),
        rank=RANK,
        rows=ROWS,
        resolution_px=family.resolutions.smallest_px,
        checkpointed=checkpointed,
    )


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_told_is_what_a_policy_takes_forwards_and_backwards(
    name: str, checkpointed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "cpu_dtype", lambda: torch.bfloat16)
    family = get_family(name)
    policy = Policy(
        without_checkpoint(family, Size.TINY, "cpu"),
        "none",
        targets_of(family),
        rank=RANK,
        alpha=RANK,
        seed=0,
        device=torch.device("cpu"),
        gradient_checkpointing=checkpointed,
    )
    shape = family.latent_shape(family.resolutions.smallest_px)
    latents, sigma = torch.randn(ROWS, *shape), torch.full((ROWS,), 0.5)
    row = family.probe_conditioning(policy._transformer, family.text_tokens)
    conditioning = row.repeat(ROWS).to(torch.bfloat16)

    def train() -> None:
        velocity = policy.velocity(PolicyName.TRAINED, latents, sigma, conditioning)
        policy.backward(velocity.square().mean())

    assert told(name, checkpointed=checkpointed) == pytest.approx(peak_bytes(train), rel=0.1)
    assert all(weight.grad is not None for weight in policy.trained.tensors.values())


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_takes_less(name: str) -> None:
    assert 0 < told(name, checkpointed=True) < told(name, checkpointed=False)


@pytest.mark.parametrize("name", NAMES)
def test_what_drawing_takes_on_paper_is_that_of_real_tensors(name: str) -> None:
    family = get_family(name)

    def counted_on(device: str) -> int:
        transformer = family.build_transformer(Size.TINY, device=device)
        px = family.resolutions.smallest_px
        return drawing_bytes(family, transformer, rows=3, resolution_px=px)

    assert counted_on("meta") == pytest.approx(counted_on("cpu"), rel=0.1)

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from heliostat_engines.adapters import parse_adapter
from heliostat_engines.conditioning import Conditioning
from heliostat_engines.families import get_family
from heliostat_engines.precisions import Precision
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.export import DIFFUSERS_FILE, write_lora_folder
from heliostat_trainer.policy.artist import Artist
from heliostat_trainer.policy.policy import ADAPTERS, Policy, PolicyName
from tests.compiler import needs_compiler

RANK, ALPHA = 4, 8.0


def targets_of(checkpoint: Path) -> dict[str, tuple[int, int]]:
    return TorchEngine(get_family("demo"), str(checkpoint)).describe().lora_targets


def make_policy(checkpoint: Path, seed: int = 0, **how: bool) -> Policy:
    return Policy(
        get_family("demo"),
        str(checkpoint),
        targets_of(checkpoint),
        rank=RANK,
        alpha=ALPHA,
        seed=seed,
        device=torch.device("cpu"),
        **how,
    )


@pytest.fixture
def policy(checkpoint: Path) -> Policy:
    return make_policy(checkpoint)


def stir(policy: Policy, name: PolicyName, scale: float = 0.2) -> None:
    """Give a policy weights that have an effect."""
    generator = torch.Generator().manual_seed(1)
    for value in policy.weights[name].tensors.values():
        value.copy_(torch.randn(value.shape, generator=generator) * scale)
    policy.refresh(name)


def point() -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(3, 16, 8, 8, generator=generator)
    conditioning = Conditioning(
        torch.randn(3, 4, 384, generator=generator), torch.randn(3, 384, generator=generator)
    )
    return latents, torch.tensor([1.0, 0.5, 0.1]), conditioning.to(torch.bfloat16)


def test_all_policies_begin_as_the_base_model(policy: Policy) -> None:
    base = policy.velocity(PolicyName.BASE, *point())
    for name in ADAPTERS:
        assert torch.equal(policy.velocity(name, *point()), base)


def test_the_lora_binds_exactly_the_servers_targets(policy: Policy, checkpoint: Path) -> None:
    assert set(parse_adapter(policy.trained.pack(ALPHA)).pairs) == set(targets_of(checkpoint))
    assert len(policy.targets) == 15  # the last block has no attn.to_add_out


def test_equal_weights_give_equal_bits_whatever_the_policy(policy: Policy) -> None:
    stir(policy, PolicyName.TRAINED)
    policy.weights[PolicyName.OLD].copy_from(policy.trained)
    policy.refresh(PolicyName.OLD)
    trained, old, ema = (policy.velocity(name, *point()) for name in ADAPTERS)
    assert torch.equal(trained.detach(), old)
    assert not torch.equal(old, ema)


def test_only_the_trained_policy_has_a_gradient(policy: Policy) -> None:
    assert not policy.velocity(PolicyName.OLD, *point()).requires_grad
    assert not policy.bind(PolicyName.TRAINED, point()[2])(*point()[:2]).requires_grad
    for _ in range(2):
        policy.backward(policy.velocity(PolicyName.TRAINED, *point()).square().mean())
    gradients = {name: value.grad for name, value in policy.trained.tensors.items()}
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    assert any(gradient.any() for name, gradient in gradients.items() if "lora_B" in name)


def test_the_server_computes_the_same_as_the_policy(policy: Policy, checkpoint: Path) -> None:
    stir(policy, PolicyName.OLD)
    engine = TorchEngine(get_family("demo"), str(checkpoint), precision=Precision.BF16)
    adapter = parse_adapter(policy.weights[PolicyName.OLD].pack(ALPHA))
    engine.make_resident(adapter)
    served = engine.velocity(*point(), adapter.sha256).float()
    ours = policy.velocity(PolicyName.OLD, *point())
    base = policy.velocity(PolicyName.BASE, *point())
    # Not to the bit: the server rounds the sum with a LoRA's update once.
    assert (served - ours).norm() < 0.06 * (ours - base).norm()


def test_initial_weights_follow_the_seed(checkpoint: Path, policy: Policy) -> None:
    again, other = make_policy(checkpoint), make_policy(checkpoint, seed=1)
    key = next(iter(policy.trained.tensors))
    assert torch.equal(policy.trained.tensors[key], again.trained.tensors[key])
    assert not torch.equal(policy.trained.tensors[key], other.trained.tensors[key])
    assert policy.trained.tensors[key].std() == pytest.approx(
        1 / RANK, rel=0.2
    )  # as PEFT's "gaussian"


def test_another_model_than_the_servers_is_refused(checkpoint: Path) -> None:
    targets = targets_of(checkpoint)
    first = min(targets)
    targets[first] = (7, 7)
    with pytest.raises(ConfigError, match=rf"1 LoRA targets .*{first}.*model\.checkpoint"):
        Policy(get_family("demo"), str(checkpoint), targets, rank=RANK, alpha=ALPHA, seed=0,
               device=torch.device("cpu"))  # fmt: skip


def test_averages(policy: Policy) -> None:
    stir(policy, PolicyName.TRAINED)
    ema, trained = policy.weights[PolicyName.EMA], policy.trained
    before = ema.clone()
    ema.decay_towards(trained, 0.75)
    for name, value in ema.tensors.items():
        expected = 0.75 * before.tensors[name] + 0.25 * trained.tensors[name]
        assert torch.allclose(value, expected)


def test_the_export_loads_in_plain_diffusers(
    policy: Policy, checkpoint: Path, tmp_path: Path
) -> None:
    stir(policy, PolicyName.EMA)
    write_lora_folder(policy.weights[PolicyName.EMA], ALPHA, tmp_path / "lora")
    family = get_family("demo")
    plain = family.load_transformer(str(checkpoint), torch.bfloat16)
    plain.load_lora_adapter(tmp_path / "lora", weight_name=DIFFUSERS_FILE, prefix="transformer")
    ours = policy.velocity(PolicyName.EMA, *point())
    base = policy.velocity(PolicyName.BASE, *point())
    theirs = family.velocity(plain, *point()).float()
    assert (theirs - ours).norm() < 0.05 * (ours - base).norm()  # BF16 rounding


def test_the_export_loads_in_peft(policy: Policy, checkpoint: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    stir(policy, PolicyName.EMA)
    write_lora_folder(policy.weights[PolicyName.EMA], ALPHA, tmp_path / "lora")
    family = get_family("demo")
    model = PeftModel.from_pretrained(
        family.load_transformer(str(checkpoint), torch.bfloat16), str(tmp_path / "lora")
    )
    ours = policy.velocity(PolicyName.EMA, *point())
    base = policy.velocity(PolicyName.BASE, *point())
    theirs = family.velocity(model.base_model.model, *point()).float()
    assert (theirs - ours).norm() < 0.05 * (ours - base).norm()  # BF16 rounding


def test_drawing_does_not_depend_on_the_batch(policy: Policy) -> None:
    family = get_family("demo")
    conditioning, rows = point()[2], [0, 0, 1, 2, 2]
    seeds = [5, 6, 7, 8, 9]
    stir(policy, PolicyName.OLD)
    whole, parts = (
        Artist(policy, family, 64, batch).draw(PolicyName.OLD, seeds, conditioning, rows, steps=3)
        for batch in (5, 2)
    )
    assert torch.allclose(whole, parts, atol=0.05)


def test_guidance_moves_along_the_difference(policy: Policy) -> None:
    artist = Artist(policy, get_family("demo"), 64, 4)
    conditioning, null = point()[2].take([0]), point()[2].take([1])
    with_one, plain, null_only = (
        artist.draw(PolicyName.BASE, [1], given, [0], steps=1, null=other, guidance=1.0)
        for given, other in ((conditioning, null), (conditioning, None), (null, None))
    )
    guided = artist.draw(PolicyName.BASE, [1], conditioning, [0], 1, null=null, guidance=3.0)
    assert torch.equal(with_one, plain)
    assert torch.allclose(guided, null_only + 3 * (plain - null_only), atol=0.05)


def gradients(policy: Policy) -> dict[str, torch.Tensor]:
    stir(policy, PolicyName.TRAINED)
    policy.backward(policy.velocity(PolicyName.TRAINED, *point()).square().mean())
    return {key: value.grad for key, value in policy.trained.tensors.items()}


def family_policy(name: str, folder: Path, **how: object) -> Policy:
    family = get_family(name)
    if not folder.exists():
        family.write_tiny_checkpoint(folder)
    targets = TorchEngine(family, str(folder)).describe().lora_targets
    device = torch.device("cpu")
    return Policy(family, str(folder), targets, rank=4, alpha=8.0, seed=0, device=device, **how)


@pytest.mark.parametrize("name", ["sana", "flux", "sd3.5-large", "sd3.5-medium"])
def test_checkpointed_gradients_of_every_family_are_the_same(tmp_path: Path, name: str) -> None:
    family, results = get_family(name), []
    for checkpointed in (False, True):
        policy = family_policy(name, tmp_path / name, gradient_checkpointing=checkpointed)
        stir(policy, PolicyName.TRAINED)
        random = torch.Generator().manual_seed(0)
        shape = family.latent_shape(family.resolutions.smallest_px)
        latents = torch.randn(1, *shape, generator=random)
        conditioning = family.probe_conditioning(policy._transformer, 8).to(torch.bfloat16)
        velocity = policy.velocity(PolicyName.TRAINED, latents, torch.tensor([0.5]), conditioning)
        policy.backward(velocity.square().mean())
        results.append({key: value.grad for key, value in policy.trained.tensors.items()})
    plain, checkpointed = results
    assert any(gradient.any() for gradient in plain.values())
    assert all(torch.equal(plain[key], checkpointed[key]) for key in plain)


@pytest.mark.slow
@needs_compiler
def test_a_compiled_policy_agrees(checkpoint: Path) -> None:
    plain, compiled = make_policy(checkpoint), make_policy(checkpoint, compiled=True)
    expected, actual = gradients(plain), gradients(compiled)
    for key, value in expected.items():
        assert torch.allclose(value, actual[key], atol=0.05 * float(value.abs().max())), key
    base, ours = (policy.velocity(PolicyName.BASE, *point()) for policy in (plain, compiled))
    assert torch.allclose(base, ours, atol=0.05 * float(base.abs().max()))

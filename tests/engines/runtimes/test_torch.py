from __future__ import annotations

import json
import random
import shutil
from typing import TYPE_CHECKING

import pytest
import torch

from heliostat_engines.adapters import Adapter, pack_adapter, parse_adapter
from heliostat_engines.conditioning import Conditioning
from heliostat_engines.errors import (
    AdapterError,
    CheckpointError,
    ResolutionError,
    UnknownFamilyError,
)
from heliostat_engines.families import get_family
from heliostat_engines.machine.arithmetic import ready_for
from heliostat_engines.precisions import Precision
from heliostat_engines.runtimes.lanes import ROWS
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.noise import initial_noise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAMILY = get_family("demo")
NOISE = initial_noise(range(3), FAMILY.latent_shape(64))
SIGMA = torch.full((3,), 0.7)
CONDITIONING = Conditioning(
    tokens=torch.randn(3, 16, 384, generator=torch.Generator().manual_seed(1)),
    pooled=torch.randn(3, 384, generator=torch.Generator().manual_seed(2)),
)


def make_engine(checkpoint: Path, **settings: object) -> TorchEngine:
    return TorchEngine(FAMILY, str(checkpoint), **settings)  # type: ignore[arg-type]


def make_adapter(engine: TorchEngine, seed: int = 0, size: float = 0.05, rank: int = 4) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    return parse_adapter(
        pack_adapter(
            {
                name: (
                    torch.randn(rank, inputs, generator=generator),
                    torch.randn(outputs, rank, generator=generator) * size,
                )
                for name, (inputs, outputs) in engine.describe().lora_targets.items()
            },
            alpha=rank,
        )
    )


def draw(engine: TorchEngine, adapter: Adapter | None = None) -> torch.Tensor:
    return engine.velocity(NOISE, SIGMA, CONDITIONING, adapter and adapter.sha256)


def test_fewer_bits_are_farther_from_bf16_which_is_the_plain_transformer(
    random_checkpoint: Path,
) -> None:
    plain = ready_for("cpu", FAMILY.load_transformer(str(random_checkpoint), torch.bfloat16))
    with torch.inference_mode():
        expected = FAMILY.velocity(plain, NOISE, SIGMA, CONDITIONING)
    assert torch.equal(draw(make_engine(random_checkpoint, precision=Precision.BF16)), expected)

    def error(precision: Precision) -> float:
        drawn = draw(make_engine(random_checkpoint, precision=precision))
        return float((drawn - expected).float().norm() / expected.float().norm())

    assert 0.001 < error(Precision.NVFP4_W4A16) < error(Precision.NVFP4) < 0.25


@pytest.mark.parametrize("precision", list(Precision))
def test_an_engine_says_its_precision(random_checkpoint: Path, precision: Precision) -> None:
    info = make_engine(random_checkpoint, precision=precision).describe()
    assert info.precision == precision
    assert (info.nvfp4_linears == 0) == (precision is Precision.BF16)


def test_the_precision_map_decides_what_is_quantised(random_checkpoint: Path) -> None:
    engine = make_engine(random_checkpoint)
    info = engine.describe()
    quantised = {plan.name for plan in engine.plan if plan.precision is Precision.NVFP4}
    assert info.nvfp4_linears == len(quantised) > 0
    assert "transformer_blocks.0.ff.net.2" in quantised
    assert not any("norm1" in name or "embed" in name for name in quantised)
    assert "transformer_blocks.0.attn.to_q" in info.lora_targets


def test_the_branch_equals_the_adapter_merged_in_float32(random_checkpoint: Path) -> None:
    engine = make_engine(random_checkpoint, precision=Precision.BF16)
    adapter = make_adapter(engine)
    engine.make_resident(adapter)
    merged = FAMILY.load_transformer(str(random_checkpoint), torch.float32)
    for name, pair in adapter.pairs.items():
        merged.get_submodule(name).weight.data += pair.up @ pair.down
    with torch.inference_mode():
        expected = merged(
            hidden_states=NOISE,
            encoder_hidden_states=CONDITIONING.tokens,
            pooled_projections=CONDITIONING.pooled,
            timestep=SIGMA * 1000,
            return_dict=False,
        )[0]
    drawn = draw(engine, adapter).float()
    assert (drawn - expected).norm() / expected.norm() < 0.03
    assert (drawn - draw(engine).float()).norm() / expected.norm() > 0.1


def test_a_zero_adapter_is_the_base_model_to_the_bit(random_checkpoint: Path) -> None:
    engine = make_engine(random_checkpoint)
    zero = make_adapter(engine, size=0.0)
    assert (
        str(engine.make_resident(zero)) == f"bound {len(zero.pairs)} of {len(zero.pairs)} modules"
    )
    assert torch.equal(draw(engine, zero), draw(engine))


@pytest.mark.parametrize("precision", list(Precision))
def test_a_then_b_then_a_is_a_to_the_bit(random_checkpoint: Path, precision: Precision) -> None:
    """Published again after it has left the engine, as a full one makes it."""
    engine = make_engine(random_checkpoint, precision=precision, slots=1)
    first, second = make_adapter(engine, 0), make_adapter(engine, 1)
    base = draw(engine)
    engine.make_resident(first)
    expected = draw(engine, first)
    engine.make_resident(second)
    assert not torch.equal(draw(engine, second), expected)
    engine.make_resident(first)
    assert torch.equal(draw(engine, first), expected)
    assert torch.equal(draw(engine), base)


@pytest.mark.slow
def test_a_thousand_random_switches_leave_no_residue(random_checkpoint: Path) -> None:
    """Adapters of several ranks, twice as many as fit: about half of the switches refit."""
    engine = make_engine(random_checkpoint, slots=3)
    adapters = [make_adapter(engine, seed, rank=1 + seed) for seed in range(6)]
    noise, sigma, conditioning = NOISE[:1], SIGMA[:1], CONDITIONING.take([0])

    def draw_one(adapter: Adapter | None) -> torch.Tensor:
        if adapter is not None:
            engine.make_resident(adapter)
        return engine.velocity(noise, sigma, conditioning, adapter and adapter.sha256)

    choices: list[Adapter | None] = [None, *adapters]
    expected = [draw_one(adapter) for adapter in choices]
    assert len({tuple(output.flatten().tolist()) for output in expected}) == len(choices)
    chooser = random.Random(0)
    for _ in range(1000):
        index = chooser.randrange(len(choices))
        assert torch.equal(draw_one(choices[index]), expected[index])


def test_the_least_recently_used_adapter_leaves_a_full_engine(random_checkpoint: Path) -> None:
    engine = make_engine(random_checkpoint, slots=2)
    first, second, third = (make_adapter(engine, seed) for seed in range(3))
    engine.make_resident(first)
    engine.make_resident(second)
    draw(engine, first)
    engine.make_resident(third)
    assert engine.is_resident(first.sha256)
    assert not engine.is_resident(second.sha256)
    with pytest.raises(KeyError):
        draw(engine, second)


def test_refused_adapters_leave_the_engine_as_it_was(random_checkpoint: Path) -> None:
    engine = make_engine(random_checkpoint, max_rank=4)
    before = draw(engine)
    partial = make_adapter(engine)
    some = dict(list(partial.pairs.items())[:2])
    refusals = {
        "bound 2 of": Adapter("partial", some),
        "--max-rank 5": make_adapter(engine, rank=5),
        "stays the base": make_adapter(engine, size=1e-30),
    }
    for message, adapter in refusals.items():
        with pytest.raises(AdapterError, match=message):
            engine.make_resident(adapter)
        assert not engine.is_resident(adapter.sha256)
    assert torch.equal(draw(engine), before)


@pytest.fixture
def calibrated_checkpoint(random_checkpoint: Path, tmp_path: Path) -> Path:
    checkpoint = tmp_path / "calibrated"
    shutil.copytree(random_checkpoint, checkpoint)
    amax = {plan.name: 8.0 for plan in make_engine(random_checkpoint).plan}
    (checkpoint / "transformer/activation_amax.json").write_text(json.dumps(amax))
    return checkpoint


def test_calibrated_scales_make_a_row_independent_of_its_batch(calibrated_checkpoint: Path) -> None:
    calibrated = make_engine(calibrated_checkpoint)
    louder = NOISE.clone()
    louder[2] *= 50
    row = calibrated.velocity(NOISE, SIGMA, CONDITIONING)[0]
    assert torch.equal(calibrated.velocity(louder, SIGMA, CONDITIONING)[0], row)


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("precision", list(Precision))
def test_cores_that_take_rows_of_their_own_draw_what_one_core_does(
    calibrated_checkpoint: Path, precision: Precision
) -> None:
    engine = make_engine(calibrated_checkpoint, precision=precision)
    adapter = make_adapter(engine)
    engine.make_resident(adapter)
    rows = torch.arange(4 * ROWS) % len(NOISE)
    latents, sigma, conditioning = NOISE[rows], SIGMA[rows], CONDITIONING.take(rows)
    for sha256 in (None, adapter.sha256, None):
        side_by_side = engine.velocity(latents, sigma, conditioning, sha256)
        torch.set_num_threads(1)
        halves = [
            engine.velocity(latents[half], sigma[half], conditioning.part(half), sha256)
            for half in (slice(2 * ROWS), slice(2 * ROWS, None))
        ]
        torch.set_num_threads(2)
        assert torch.equal(side_by_side, torch.cat(halves))


@pytest.mark.usefixtures("two_cores")
def test_rows_that_share_a_scale_are_not_parted(random_checkpoint: Path) -> None:
    """Without calibration a batch has one scale, of its largest magnitude."""
    engine = make_engine(random_checkpoint)
    rows = torch.arange(4 * ROWS) % len(NOISE)
    latents = NOISE[rows].clone()
    latents[-1] *= 50
    before = engine.velocity(NOISE[rows], SIGMA[rows], CONDITIONING.take(rows))[0]
    assert not torch.equal(
        engine.velocity(latents, SIGMA[rows], CONDITIONING.take(rows))[0], before
    )


def test_errors_name_what_to_change() -> None:
    with pytest.raises(UnknownFamilyError, match="did you mean 'demo'"):
        get_family("demoo")
    with pytest.raises(CheckpointError, match="diffusers' layout"):
        TorchEngine(FAMILY, "/nowhere")
    with pytest.raises(ResolutionError, match="resolution_px = 64"):
        FAMILY.latent_shape(512)

"""Every family on its tiny checkpoint: engine, adapters, schedule, sizes, errors."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, SanaTransformer2DModel

from heliostat_engines.adapters import Adapter, pack_adapter, parse_adapter
from heliostat_engines.decoders import DecoderName
from heliostat_engines.errors import CheckpointError, ResolutionError
from heliostat_engines.families import FAMILIES, get_family
from heliostat_engines.families.family import Family, Size
from heliostat_engines.families.sana.mix_ffn import linearise
from heliostat_engines.precisions import Precision
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.euler import cut_after, sample_dpm2m, sample_euler
from heliostat_engines.sampling.noise import initial_noise

EVERY = pytest.mark.parametrize("name", [family.name for family in FAMILIES])
PROMPTS = ["a red cat", "two blue dogs"]


def adapter_for(engine: TorchEngine, rank: int = 4) -> Adapter:
    random = torch.Generator().manual_seed(0)
    pairs = {
        name: (
            torch.randn(rank, inputs, generator=random) * inputs**-0.5,
            torch.randn(outputs, rank, generator=random) * 0.3,
        )
        for name, (inputs, outputs) in engine.describe().lora_targets.items()
    }
    return parse_adapter(pack_adapter(pairs, alpha=rank))


def smallest(family: Family) -> int:
    return family.resolutions.smallest_px


@EVERY
def test_the_engine_draws_images_with_an_adapter_on_every_target(
    name: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    family, checkpoint = get_family(name), str(tiny_checkpoint(name))
    noise = initial_noise([0, 1], family.latent_shape(smallest(family)))
    conditioning = family.load_text_encoder(checkpoint).encode(PROMPTS)
    decoder = family.load_decoder(checkpoint)
    drawn = {}
    for precision in (Precision.BF16, Precision.FP8, Precision.NVFP4):
        engine = TorchEngine(family, checkpoint, precision=precision)
        adapter = adapter_for(engine)
        binding = engine.make_resident(adapter)
        assert len(adapter.pairs) == len(engine.describe().lora_targets) > 0, str(binding)
        for which in (None, adapter.sha256):
            drawn[precision, which] = sample_euler(
                lambda x, s, e=engine, a=which: e.velocity(x, s, conditioning, a),
                noise,
                family.sigmas(2, smallest(family)),
            )
    images = decoder.decode(drawn[Precision.NVFP4, adapter.sha256])
    assert images.shape == (2, 3, smallest(family), smallest(family))
    assert all(torch.isfinite(latents).all() for latents in drawn.values())
    base, adapted = drawn[Precision.BF16, None], drawn[Precision.BF16, adapter.sha256]
    fp8, nvfp4 = (
        (drawn[precision, None] - base).norm() / base.norm()
        for precision in (Precision.FP8, Precision.NVFP4)
    )
    assert 0.001 < fp8 < nvfp4 < 0.35
    assert (adapted - base).norm() / base.norm() > 0.01


@EVERY
def test_weights_depend_on_seed_and_name_alone_and_none_is_zero(name: str) -> None:
    family = get_family(name)
    whole = family.build_transformer(Size.TINY, device="cpu", seed=1).state_dict()
    cut = family.build_transformer(Size.TINY, device="cpu", seed=1, blocks=1).state_dict()
    other = family.build_transformer(Size.TINY, device="cpu", seed=2).state_dict()
    # The position table is no parameter; later blocks may be of another kind when cut.
    parameters = [key for key in whole if "pos_embed.pos_embed" not in key]
    first = [key for key in cut if "blocks." not in key or "blocks.0." in key]
    assert all(torch.equal(cut[key], whole[key]) for key in first)
    assert not any(torch.equal(other[key], whole[key]) for key in parameters)
    assert all((whole[key] != 0).float().mean() > 0.99 for key in parameters)


@EVERY
def test_a_published_transformer_cut_to_one_block_of_a_kind_has_no_weights(name: str) -> None:
    family = get_family(name)
    transformer = family.build_transformer(Size.PUBLISHED, blocks=1)
    assert {parameter.device.type for parameter in transformer.parameters()} == {"meta"}
    assert not transformer.training
    kept = sum(len(transformer.get_submodule(blocks)) for blocks in family.block_counts)  # type: ignore[arg-type]
    assert (
        kept
        == {
            "demo": 2,
            "sana": 1,
            "flux": 2,
            "flux-schnell": 2,
            "sd3.5-large": 2,
            "sd3.5-medium": 3,
        }[name]
    )


def test_sanas_mix_ffn_as_linears_is_the_convolutional_one() -> None:
    family = get_family("sana")
    config = family.transformer_configs[Size.TINY]
    torch.manual_seed(0)
    plain = SanaTransformer2DModel.from_config(dict(config)).double().eval()
    ffn = plain.transformer_blocks[0].ff
    x = torch.randn(2, 64, 5, 7, dtype=torch.float64)
    with torch.inference_mode():
        expected = ffn(x)
    names = set(plain.state_dict())
    linearise(plain)
    with torch.inference_mode():
        torch.testing.assert_close(plain.transformer_blocks[0].ff(x), expected, rtol=0, atol=1e-12)
    assert set(plain.state_dict()) == names


@EVERY
def test_noise_levels_fall_from_one_to_zero(name: str) -> None:
    family = get_family(name)
    for steps in (1, 6, 10, 40):
        levels = family.sigmas(steps, family.default_resolution_px)
        assert len(levels) == steps + 1
        assert levels[0] == 1
        assert levels[-1] == 0
        assert (levels.diff() < 0).all()
        assert torch.equal(cut_after(levels, steps), levels)


@EVERY
def test_dpm2m_draws_as_diffusers_does(name: str) -> None:
    """DPMSolverMultistepScheduler is SANA's own; given each family's levels, it is all families'."""
    family = get_family(name)
    generator = torch.Generator().manual_seed(0)
    noise, flow = (
        torch.randn(2, 16, 8, 8, generator=generator),
        torch.randn(16, 16, generator=generator),
    )

    def velocity(latents: torch.Tensor, sigma: torch.Tensor, /) -> torch.Tensor:
        turned = torch.einsum("bchw,dc->bdhw", latents, flow) / 4
        return torch.tanh(turned) * (1 + sigma[:, None, None, None])

    shift = 3.0 if name == "sana" else 1.0
    for steps in (1, 2, 3, 4, 6, 10, 20, 40):
        scheduler = DPMSolverMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=shift,
            algorithm_type="dpmsolver++",
            solver_order=2,
            solver_type="midpoint",
        )
        for own in (True, False):
            scheduler.set_timesteps(steps)
            if not own:
                scheduler.sigmas = family.sigmas(steps, family.default_resolution_px)
            latents = noise
            for moment, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
                predicted = velocity(latents, sigma.expand(len(latents)))
                (latents,) = scheduler.step(predicted, moment, latents, return_dict=False)
            drawn = sample_dpm2m(velocity, noise, scheduler.sigmas)
            torch.testing.assert_close(drawn, latents, rtol=1e-5, atol=2e-5)


def test_flux_shifts_its_levels_with_the_resolution() -> None:
    """mu goes from 0.5 at 256 tokens to 1.15 at 4096; sigma = e^mu / (e^mu + 1 / t - 1)."""
    family = get_family("flux")
    for resolution_px, mu in ((256, 0.5), (1024, 1.15)):
        shift = torch.e**mu
        middle = family.sigmas(2, resolution_px)[1]
        assert middle == pytest.approx(shift / (shift + 1), rel=1e-6)


def test_flux_shifts_by_the_tokens_of_what_is_no_square() -> None:
    """512 x 2048 has as many as 1024 x 1024."""
    family = get_family("flux")
    for shape in ((512, 2048), (2048, 512)):
        assert torch.equal(family.sigmas(4, shape), family.sigmas(4, 1024))


def test_latents_are_as_high_and_wide_as_the_image_to_the_bit_as_plain_diffusers_draws() -> None:
    family = get_family("flux")
    shape = family.latent_shape((256, 368))
    assert shape == (16, 46, 32)
    plain = torch.randn((1, *shape), generator=torch.Generator("cpu").manual_seed(7))
    assert torch.equal(initial_noise([7], shape), plain)


def test_schnell_is_not_shifted() -> None:
    levels = get_family("flux-schnell").sigmas(4, 1024)
    assert levels.tolist() == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def test_resolutions_off_the_grid_name_the_nearest_that_works() -> None:
    for name, asked, nearest in (
        ("sana", 1000, 992),
        ("flux", 100, 256),
        ("sd3.5-large", 1030, 1024),
        ("sd3.5-medium", 4000, 1536),
        ("demo", 65, 64),
    ):
        with pytest.raises(ResolutionError, match=f"not {asked}: set resolution_px = {nearest}$"):
            get_family(name).latent_shape(asked)


def test_of_an_image_that_is_no_square_each_side_is_on_the_grid() -> None:
    assert get_family("sd3.5-large").latent_shape((832, 1216)) == (16, 152, 104)
    for name, asked, nearest in (
        ("sana", (830, 1216), "[832, 1216]"),
        ("flux", (832, 4000), "[832, 2048]"),
        ("demo", (64, 32), "64"),
    ):
        written = "{}x{}".format(*asked)
        with pytest.raises(
            ResolutionError, match=re.escape(f"not {written}: set resolution_px = {nearest}")
        ):
            get_family(name).latent_shape(asked)


def test_decoders_that_do_not_exist_are_refused(tiny_checkpoint: Callable[[str], Path]) -> None:
    checkpoint = str(tiny_checkpoint("sana"))
    assert get_family("sana").decoders(checkpoint) == (DecoderName.FULL,)
    with pytest.raises(CheckpointError, match="set decoder = full"):
        get_family("sana").load_decoder(checkpoint, DecoderName.TINY)


def test_a_folder_with_a_tiny_decoder_offers_it(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    family, folder = get_family("demo"), tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint("demo"), folder)
    assert family.decoders(str(folder)) == (DecoderName.FULL, DecoderName.TINY)
    latents = initial_noise([1, 2], family.latent_shape(64))
    full, tiny = (
        family.load_decoder(str(folder), name).decode(latents)
        for name in family.decoders(str(folder))
    )
    assert full.shape == tiny.shape == (2, 3, 64, 64)
    assert full.dtype == tiny.dtype == torch.float32
    assert not torch.equal(full, tiny)
    shutil.rmtree(folder / "vae_tiny")
    assert family.decoders(str(folder)) == (DecoderName.FULL,)
    with pytest.raises(CheckpointError, match=r"has no folder vae_tiny .*: set decoder = full"):
        family.load_decoder(str(folder), DecoderName.TINY)


def test_a_published_tiny_decoder_is_offered_once_it_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    family, commit = get_family("sd3.5-large"), "0" * 40
    assert family.decoders(family.default_checkpoint) == (DecoderName.FULL,)
    repository = tmp_path / "models--madebyollin--taesd3"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (snapshot / "config.json").touch()
    assert family.decoders(family.default_checkpoint) == (DecoderName.FULL,)
    (snapshot / "diffusion_pytorch_model.safetensors").touch()
    assert family.decoders(family.default_checkpoint) == (DecoderName.FULL, DecoderName.TINY)


@pytest.mark.parametrize("name", ["sana", "flux", "sd3.5-large"])
def test_checkpoints_with_missing_or_foreign_parts_say_what_to_do(
    name: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    family, folder = get_family(name), tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint(name), folder)
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "Other2DModel"}))
    with pytest.raises(CheckpointError, match=r"is of Other2DModel, this family needs .*2DModel"):
        family.load_transformer(str(folder), torch.bfloat16)
    for part, load in (
        ("transformer/config.json", lambda: family.load_transformer(str(folder), torch.bfloat16)),
        ("vae/config.json", lambda: family.load_decoder(str(folder))),
        ("model_index.json", lambda: family.load_text_encoder(str(folder))),
    ):
        (folder / part).unlink()
        with pytest.raises(CheckpointError, match=f"has no {part}: point the checkpoint at"):
            load()


def test_a_pipeline_of_another_family_is_refused(tiny_checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(CheckpointError, match="is of SanaPipeline, this family needs FluxPipeline"):
        get_family("flux").load_text_encoder(str(tiny_checkpoint("sana")))


def test_truncated_weights_are_a_checkpoint_error(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint("flux"), folder)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"{weights} is no whole safetensors file"):
        get_family("flux").load_transformer(str(folder), torch.bfloat16)


def test_a_hub_that_is_out_of_reach_is_one_sentence() -> None:
    """The tests run with HF_HUB_OFFLINE."""
    family = get_family("sd3.5-large")
    for load in (
        lambda: family.load_transformer(family.default_checkpoint, torch.bfloat16),
        lambda: family.load_text_encoder(family.default_checkpoint),
        lambda: family.load_decoder(family.default_checkpoint, DecoderName.TINY),
    ):
        with pytest.raises(CheckpointError, match="out of reach: connect to it, or give a local"):
            load()

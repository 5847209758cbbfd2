"""Each stage of the recipe runs, resumes and exports, on drawings made up for the test."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from heliostat.pretrain import drawings as drawings_module
from heliostat.pretrain.autoencoder import (
    AutoencoderSettings,
    build_autoencoder,
    calibrate,
    encode,
    painted_batch,
    polish_decoder,
    train_autoencoder,
)
from heliostat.pretrain.captions import Scene, SceneKind
from heliostat.pretrain.checkpoint import save_tensors
from heliostat.pretrain.denoiser import (
    DenoiserData,
    DenoiserSettings,
    TransformerSettings,
    build_denoiser,
    sample,
    train_denoiser,
)
from heliostat.pretrain.drawings import PACKAGES, Drawings, load_drawings
from heliostat.pretrain.evaluation import EvaluationSettings, difference, judge_accuracy
from heliostat.pretrain.export import export_judges, export_model, export_part
from heliostat.pretrain.judges import (
    FAMILY_SIZE,
    FamilySettings,
    JudgeSettings,
    JudgeStudio,
    draw_family,
    train_judge,
)
from heliostat.pretrain.pool import Captions, PoolSettings, load_latents
from heliostat.pretrain.progress import StageProgress
from heliostat.pretrain.scenes import LayoutSettings, Painter
from heliostat.pretrain.tiny_decoder import (
    TinyDecoderSettings,
    build_tiny_decoder,
    decode,
    load_predictions,
    predicted,
    tiny_decoder_psnr_db,
    train_tiny_decoder,
)
from heliostat.pretrain.training import Training, TrainSettings, load_average
from heliostat.pretrain.vocabulary import BACKGROUNDS, NOUNS
from heliostat_engines.conditioning import Conditioning
from heliostat_engines.decoders import DecoderName
from heliostat_engines.errors import CheckpointError
from heliostat_engines.families.demo.family import DemoFamily
from heliostat_engines.families.demo.text_encoder import DemoTextEncoder
from heliostat_engines.files.weights import read_metadata, read_tensors
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.euler import sample_euler
from heliostat_engines.sampling.noise import initial_noise
from heliostat_server.rewards.demo.network import (
    Calibration,
    Judge,
    JudgeArchitecture,
    JudgeNetwork,
)

if TYPE_CHECKING:
    from pathlib import Path

TINY = TrainSettings(steps=2, batch=4, learning_rate=1e-3, seed=0, warmup_steps=1, decay_steps=1)
AUTOENCODER = AutoencoderSettings(channels=(8, 8, 8, 8), norm_groups=4, training=TINY, polish=TINY)
DENOISER = DenoiserSettings(
    transformer=TransformerSettings(
        num_layers=1, attention_head_dim=8, num_attention_heads=2, caption_projection_dim=16
    ),
    training=TINY,
)


@pytest.fixture(scope="module")
def painter() -> Painter:
    """Every noun a blob of its own colour on a transparent square."""
    pixels = np.random.default_rng(0).integers(0, 256, (len(PACKAGES), len(NOUNS), 1, 1, 4))
    rgba = np.broadcast_to(pixels, (len(PACKAGES), len(NOUNS), 16, 16, 4)).astype(np.uint8).copy()
    rgba[..., 3] = 255
    return Painter(Drawings(rgba, tuple(PACKAGES)), tuple(PACKAGES), LayoutSettings())


@pytest.fixture(scope="module")
def conditioning() -> Conditioning:
    generator = torch.Generator().manual_seed(0)
    return Conditioning(
        torch.randn(8, 16, 384, generator=generator), torch.randn(8, 384, generator=generator)
    )


def test_missing_npm_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawings_module.shutil, "which", lambda _: None)
    with pytest.raises(FileNotFoundError, match=r"npm was not found.*Node\.js"):
        load_drawings(tmp_path)


@pytest.mark.parametrize("kind", SceneKind)
def test_same_seed_paints_the_same_scene(painter: Painter, kind: SceneKind) -> None:
    scene = draw_family(FamilySettings(kind_weights=weights_of(kind)), 0)[0]
    one, same = (painter.paint(scene, random.Random(3)) for _ in range(2))
    assert one.shape == (64, 64, 3)
    assert np.array_equal(one, same)


def weights_of(kind: SceneKind) -> tuple[float, float, float]:
    first, second, third = (float(kind is other) for other in SceneKind)
    return first, second, third


def test_background_shows_and_the_thing_covers_the_middle(painter: Painter) -> None:
    picture = painter.paint(Scene((NOUNS[0].singular,), "blue"), random.Random(0))
    assert tuple(picture[0, 0]) == BACKGROUNDS["blue"]
    assert tuple(picture[32, 32]) != BACKGROUNDS["blue"]


@pytest.mark.parametrize("kind", SceneKind)
def test_family_differs_from_its_scene_in_one_thing(kind: SceneKind) -> None:
    for number in range(50):
        scene, *others = draw_family(FamilySettings(kind_weights=weights_of(kind)), number)
        captions = {scene.caption, *(other.caption for other in others)}
        assert len(captions) == FAMILY_SIZE
        assert {difference(scene, other) for other in others} >= {"name", "background"}


def test_autoencoder_stage(painter: Painter, tmp_path: Path) -> None:
    model = train_autoencoder(AUTOENCODER, painter, tmp_path / "autoencoder.safetensors")
    images = painted_batch(painter, 8, "test")
    calibrate(model, images)
    assert encode(model, images).std().item() == pytest.approx(1, abs=0.01)
    polished = polish_decoder(model, AUTOENCODER, painter, tmp_path / "decoder.safetensors")
    torch.testing.assert_close(encode(polished, images), encode(model, images))
    assert not torch.equal(polished.decoder.conv_out.weight, model.decoder.conv_out.weight), (
        "polishing left the decoder as it was"
    )


def test_latents_are_encoded_once(painter: Painter, tmp_path: Path) -> None:
    autoencoder = build_autoencoder(AUTOENCODER, 64).eval()
    calibrate(autoencoder, painted_batch(painter, 8, "test"))
    settings = PoolSettings(size=6, encode_batch=4)
    path = tmp_path / "latents.safetensors"
    latents = load_latents(path, settings, painter, autoencoder)
    assert latents.shape == (6, 16, 8, 8)
    assert latents.dtype == torch.float16
    written = path.stat().st_mtime_ns
    assert torch.equal(load_latents(path, settings, painter, autoencoder), latents)
    assert path.stat().st_mtime_ns == written


def test_denoiser_stage(conditioning: Conditioning, tmp_path: Path) -> None:
    data = DenoiserData(torch.randn(8, 16, 8, 8).half(), torch.arange(8), conditioning)
    model = train_denoiser(DENOISER, data, tmp_path / "denoiser.safetensors")
    latents = sample(
        model,
        conditioning.take([1, 2]),
        conditioning.take([0]),
        torch.randn(2, 16, 8, 8),
        steps=2,
        guidance=3.0,
    )
    assert latents.shape == (2, 16, 8, 8)
    assert latents.isfinite().all()


def test_judge_stage(painter: Painter, tmp_path: Path) -> None:
    families = [draw_family(FamilySettings(), number) for number in range(4)]
    scenes = [scene for family in families for scene in family]
    scenes += [Scene((noun.singular,), color) for noun in NOUNS for color in BACKGROUNDS]
    texts = dict.fromkeys(scene.caption for scene in scenes)
    index = {caption: row for row, caption in enumerate(texts)}
    embedded = Conditioning(torch.randn(len(index), 16, 384), torch.randn(len(index), 384))
    autoencoder = build_autoencoder(AUTOENCODER, 64).eval()
    calibrate(autoencoder, painted_batch(painter, 8, "test"))
    studio = JudgeStudio(families, Captions(embedded, index), painter, autoencoder)
    settings = JudgeSettings(
        sets=("noto",),
        training=replace(TINY, batch=12),
        architecture=JudgeArchitecture(image_width=8, text_width=16, embedding=16),
    )
    judge = train_judge(settings, studio, tmp_path / "judge.safetensors")
    accuracy = judge_accuracy(judge, studio, EvaluationSettings(names_per_background=2))
    assert 0 <= accuracy.name <= 1
    export_judges(tmp_path / "out", {"judge": judge})
    images = torch.rand(3, 3, 64, 64)
    reloaded = Judge.load(tmp_path / "out" / "judge.safetensors")
    torch.testing.assert_close(
        reloaded.score(images, embedded.take([0, 1, 2])),
        judge.score(images, embedded.take([0, 1, 2])),
        atol=0.02,
        rtol=0,
    )


def test_exported_model_is_in_diffusers_layout(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL, SD3Transformer2DModel

    autoencoder, denoiser = build_autoencoder(AUTOENCODER, 64), build_denoiser(DENOISER)
    export_model(tmp_path, autoencoder, denoiser)
    for kind, folder in ((AutoencoderKL, "vae"), (SD3Transformer2DModel, "transformer")):
        model = kind.from_pretrained(tmp_path / folder, torch_dtype=torch.float16)
        assert next(model.parameters()).dtype == torch.float16
    assert next(denoiser.parameters()).dtype == torch.float32, "exporting changed the original"


def test_tiny_decoder_stage(tmp_path: Path) -> None:
    family = DemoFamily()
    family.write_tiny_checkpoint(tmp_path)
    settings = TinyDecoderSettings(
        batches=1,
        batch=3,
        steps=2,
        first=1,
        measured=2,
        channels=8,
        blocks=(1, 0, 0, 0),
        training=TINY,
    )
    path = tmp_path / "predictions.safetensors"
    found = load_predictions(path, tmp_path, DemoTextEncoder(), ["a", "b"], settings)
    assert found.latents.shape == (6, 16, 8, 8)
    full = family.load_decoder(str(tmp_path)).decode(found.latents.float())
    torch.testing.assert_close(found.take(slice(None))[1], full, atol=0.01, rtol=0)
    written = path.stat().st_mtime_ns
    again = load_predictions(path, tmp_path, DemoTextEncoder(), ["a", "b"], settings)
    assert torch.equal(again.images, found.images)
    assert path.stat().st_mtime_ns == written
    judge = Judge(JudgeNetwork(JudgeArchitecture(image_width=8)), Calibration(0.5, 4.0))
    model = train_tiny_decoder(settings, found, judge, tmp_path / "stage.safetensors")
    assert not torch.equal(
        model.decoder.layers[0].weight, build_tiny_decoder(settings).decoder.layers[0].weight
    )
    assert tiny_decoder_psnr_db(model, found, settings) > 0
    export_part(tmp_path / "vae_tiny", model)
    reloaded = family.load_decoder(str(tmp_path), DecoderName.TINY).decode(found.latents.float())
    expected = decode(model, found.latents.float()).clamp(0, 1)
    torch.testing.assert_close(reloaded, expected, atol=0.02, rtol=0)


def test_the_last_prediction_is_what_all_steps_lead_to(tmp_path: Path) -> None:
    family, settings = DemoFamily(), TinyDecoderSettings(steps=3, first=2)
    family.write_tiny_checkpoint(tmp_path)
    engine, conditioning = TorchEngine(family, str(tmp_path)), DemoTextEncoder().encode(["a", "b"])
    drawn = predicted(engine, conditioning, [5, 6], settings)
    noise = initial_noise([5, 6], family.latent_shape(64))
    last = sample_euler(
        lambda x, sigma: engine.velocity(x, sigma, conditioning), noise, family.sigmas(3, 64)
    )
    assert drawn.shape == (4, 16, 8, 8)
    torch.testing.assert_close(drawn[2:], last)


def quadratic(module: torch.nn.Module, step: int) -> torch.Tensor:
    inputs = torch.full((1, 3), float(step + 1))
    loss: torch.Tensor = module(inputs).square().mean()
    return loss


def linear() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def test_resumed_training_equals_uninterrupted_training(tmp_path: Path) -> None:
    settings = replace(TINY, steps=6)
    straight = Training(linear(), settings, tmp_path / "straight.safetensors")
    with StageProgress("test") as progress:
        straight.run(quadratic, progress)
        # Stopped after three steps of the same six: only the checkpoint survives.
        first = Training(linear(), settings, tmp_path / "resumed.safetensors")
        for _ in range(3):
            first._train_step(quadratic)
        first.save()
        Training(linear(), settings, tmp_path / "resumed.safetensors").run(quadratic, progress)
    one, other = (read_tensors(tmp_path / f"{n}.safetensors") for n in ("straight", "resumed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    module = linear()
    assert load_average(module, tmp_path / "resumed.safetensors") == 6


def test_training_stops_at_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    training = Training(linear(), TINY, tmp_path / "state.safetensors")
    with (
        StageProgress("test") as progress,
        pytest.raises(FloatingPointError, match="step 0"),
    ):
        training.run(lambda module, step: quadratic(module, step) * torch.nan, progress)


def test_learning_rate_warms_up_stays_and_falls() -> None:
    settings = TrainSettings(
        steps=100, batch=1, learning_rate=1.0, seed=0, warmup_steps=10, decay_steps=20
    )
    assert settings.learning_rate_at(0) == pytest.approx(0.1)
    assert settings.learning_rate_at(50) == 1
    assert settings.learning_rate_at(99) == pytest.approx(0.05)


def test_saving_leaves_no_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    save_tensors(path, {"a": torch.ones(2)}, {"step": "7"})
    assert read_metadata(path) == {"step": "7"}
    assert [file.name for file in tmp_path.iterdir()] == ["tensors.safetensors"]


def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    settings, path = replace(TINY, steps=2), tmp_path / "stage.safetensors"
    with StageProgress("test") as progress:
        Training(linear(), settings, path).run(quadratic, progress)
    whole = read_tensors(path)
    for missing in ("module/weight", "average/bias", "optimizer/0.exp_avg"):
        save_tensors(path, {k: t for k, t in whole.items() if k != missing}, {"step": "2"})
        name = missing.partition("/")[2]
        with pytest.raises(CheckpointError, match=rf"{path} .*1 differ\): {name} is missing"):
            Training(linear(), settings, path)
    save_tensors(path, whole)
    with pytest.raises(CheckpointError, match=f"{path} does not say which step it is of"):
        Training(linear(), settings, path)

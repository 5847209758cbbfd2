from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.errors import CheckpointError
from heliostat_server.rewards.definitions import AestheticReward, PretrainedReward, WeightedSum
from heliostat_server.rewards.published import clip as clip_module
from heliostat_server.rewards.published.clip import ClipTower
from heliostat_server.rewards.published.preprocessing import clip_pixels, padded_pixels
from heliostat_server.rewards.registry import RewardBook
from tests.server.rewards.offers import book_of
from tests.server.rewards.published_layouts import head_shapes
from tests.server.rewards.tiny_models import clip_tokenizer, pictures, write_clip

NO_TEXT = Conditioning(torch.zeros(0, 1, 1), torch.zeros(0, 1))
PROMPTS = [
    "a fox",
    "two cats on a mat",
    "a very long prompt that no tiny model reads whole",
    "a fox",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


def logits(folder: Path, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """transformers' own forward pass."""
    model = CLIPModel.from_pretrained(folder).eval()
    tokens = clip_tokenizer()(
        prompts, padding=True, truncation=True, max_length=20, return_tensors="pt"
    )
    with torch.inference_mode():
        answer = model(pixel_values=clip_pixels(images, 24), **tokens)
    return answer.logits_per_image.diagonal()


@pytest.mark.parametrize("kind", ["pickscore", "clipscore", "hpsv2"])
def test_rewards_are_transformers_logits_in_the_published_scale(folder: Path, kind: str) -> None:
    images = pictures(4)
    definition = PretrainedReward(kind=kind, checkpoint=str(folder))
    rewards = book_of({kind: definition}).get(kind).score(images, PROMPTS, NO_TEXT)
    scale = torch.tensor(3.0).exp()
    expected = logits(folder, images, PROMPTS) / (26 if kind == "pickscore" else scale)
    assert rewards.dtype == torch.float32
    torch.testing.assert_close(rewards, expected, atol=2e-6, rtol=1e-5)
    assert rewards.std() > 0.01


def test_hpsv2_sees_the_whole_of_an_upright_image_and_clipscore_its_middle(folder: Path) -> None:
    upright, squares = pictures(4, 48, 32), pictures(4, 48, 48)
    kinds = ("hpsv2", "clipscore")
    book = book_of({kind: PretrainedReward(kind=kind, checkpoint=str(folder)) for kind in kinds})
    whole, middle = (book.get(kind).score(upright, PROMPTS, NO_TEXT) for kind in kinds)
    tower = ClipTower.load(folder, folder, "cpu", "float32", padded_pixels)
    torch.testing.assert_close(whole, tower.cosine(upright, PROMPTS))
    assert (whole - middle).abs().max() > 1e-3
    of_squares = [book.get(kind).score(squares, PROMPTS, NO_TEXT) for kind in kinds]
    torch.testing.assert_close(*of_squares)


def test_a_reward_does_not_depend_on_its_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_module, "CHUNK", 3)
    images = pictures(8)
    prompts = PROMPTS * 2
    tower = ClipTower.load(folder, folder, "cpu", "float32")
    together = tower.cosine(images, prompts)
    for row in range(8):
        alone = tower.cosine(images[row : row + 1], prompts[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=0)


def test_a_checkpoint_with_missing_parameters_is_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 differ\): text_projection\.weight is missing"):
        ClipTower.load(tmp_path, tmp_path, "cpu", "float32")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("head")
    weights = {name: torch.randn(shape) / 4 for name, shape in head_shapes(16).items()}
    save_file(weights, folder / "model.safetensors")
    return folder


def shared_book(folder: Path, head: Path) -> RewardBook:
    return book_of(
        {
            "clipscore": PretrainedReward(kind="clipscore", checkpoint=str(folder)),
            "aesthetic": AestheticReward(kind="aesthetic", checkpoint=str(head), clip=str(folder)),
            "mix": WeightedSum(kind="weighted_sum", weights={"clipscore": 2.0, "aesthetic": -0.5}),
        }
    )


def test_aesthetic_is_the_published_head_on_unit_embeddings(folder: Path, head: Path) -> None:
    images = pictures(4)
    with torch.inference_mode():
        model = CLIPModel.from_pretrained(folder).eval()
        seen = model.vision_model(pixel_values=clip_pixels(images, 24)).pooler_output
        score = model.visual_projection(seen)
        score = (score / score.norm(dim=-1, keepdim=True)).double()
        weights = load_file(head / "model.safetensors")
        for index in (0, 2, 4, 6, 7):
            score = score @ weights[f"layers.{index}.weight"].double().T
            score = score + weights[f"layers.{index}.bias"].double()
    rewards = shared_book(folder, head).get("aesthetic").score(images, PROMPTS, NO_TEXT)
    torch.testing.assert_close(rewards.double(), score[:, 0], atol=1e-4, rtol=1e-4)


def test_clipscore_and_aesthetic_share_one_tower_and_one_look_at_the_images(
    folder: Path, head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, looks = [], []
    load, look = ClipTower.load, ClipTower._images

    def counted_load(*arguments: str) -> ClipTower:
        loaded.append(arguments)
        return load(*arguments)  # type: ignore[arg-type]

    def counted_look(tower: ClipTower, images: torch.Tensor) -> torch.Tensor:
        looks.append(len(images))
        return look(tower, images)

    monkeypatch.setattr(ClipTower, "load", counted_load)
    monkeypatch.setattr(ClipTower, "_images", counted_look)
    book, images = shared_book(folder, head), pictures(4)
    columns = {
        name: book.get(name).score(images, PROMPTS, NO_TEXT)
        for name in ("mix", "clipscore", "aesthetic")
    }
    assert len(loaded) == 1
    assert looks == [4]
    expected = 2 * columns["clipscore"] - 0.5 * columns["aesthetic"]
    torch.testing.assert_close(columns["mix"], expected)
    book.get("mix").score(images.clone(), PROMPTS, NO_TEXT)
    assert looks == [4, 4]

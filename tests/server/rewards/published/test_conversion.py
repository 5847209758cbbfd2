"""Published checkpoints' layouts, converted, against models under the published names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.errors import CheckpointError, FilesError
from heliostat_server.rewards.published import conversion
from heliostat_server.rewards.published.clip import ClipTower
from heliostat_server.rewards.published.image_reward import PUBLISHED, ImageReward
from heliostat_server.rewards.published.preprocessing import clip_pixels
from tests.server.rewards.caches import empty_caches
from tests.server.rewards.published_layouts import Blip, OpenClip, blip_shapes
from tests.server.rewards.tiny_models import (
    TINY_BLIP,
    TINY_CLIP,
    clip_tokenizer,
    pictures,
    write_bert_tokenizer,
    write_clip,
)

NO_TEXT = Conditioning(torch.zeros(0, 1, 1), torch.zeros(0, 1))
PROMPTS = ["a red fox", "two cat", "a cat", "fox"]


def save(state: dict[str, torch.Tensor], file: Path, **beside: Any) -> Path:
    torch.save({"state_dict": state, **beside} if beside else state, file)
    return file


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """`convert` for tiny models."""
    monkeypatch.setitem(
        conversion._CONVERTERS,
        "hpsv2",
        (conversion.HPSV2, lambda state: conversion.convert_hpsv2(state, TINY_CLIP)),
    )
    monkeypatch.setitem(
        conversion._CONVERTERS,
        "image_reward",
        (conversion.IMAGE_REWARD, lambda state: conversion.convert_image_reward(state, TINY_BLIP)),
    )


def test_hpsv2_converted_computes_what_open_clip_does(small: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = OpenClip(TINY_CLIP).eval()
    file = save(published.state_dict(), tmp_path / "HPS.pt", epoch=3)
    folder = conversion.convert("hpsv2", file, tmp_path / "hpsv2")
    images, prompts = pictures(4), PROMPTS
    ours = ClipTower.load(folder, write_clip(tmp_path / "clip"), "cpu", "float32")
    tokens = clip_tokenizer()(prompts, padding="max_length", max_length=20)["input_ids"]
    with torch.inference_mode():
        seen = F.normalize(published.visual(clip_pixels(images, 24)), dim=-1)
        read = F.normalize(published.encode_text(torch.tensor(tokens)), dim=-1)
    torch.testing.assert_close(ours.embed_images(images), seen, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.embed_prompts(prompts), read, atol=1e-5, rtol=1e-5)
    assert ours.logit_scale == pytest.approx(torch.tensor(2.0).exp().item())


def test_image_reward_converted_computes_what_blip_does(small: None, tmp_path: Path) -> None:
    published = Blip.random(TINY_BLIP)
    file = save(published.weights, tmp_path / "ImageReward.pt")
    folder = conversion.convert("image_reward", file, tmp_path / "image_reward")
    tokenizer = write_bert_tokenizer(tmp_path / "bert")
    reward = ImageReward(folder, tokenizer, "cpu", "float32")
    images = pictures(4)
    tokens = reward._tokenizer(
        PROMPTS, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    expected = published.score(
        clip_pixels(images, 32), tokens["input_ids"], tokens["attention_mask"]
    )
    rewards = reward.score(images, PROMPTS, NO_TEXT)
    assert rewards.dtype == torch.float32
    torch.testing.assert_close(rewards, expected, atol=1e-5, rtol=1e-4)
    assert expected.std() > 0.005
    alone = reward.score(images[2:3], PROMPTS[2:3], NO_TEXT)
    torch.testing.assert_close(alone[0], rewards[2], atol=1e-5, rtol=1e-5)


def test_every_published_name_and_shape_of_hpsv2_is_known() -> None:
    with torch.device("meta"):
        published = OpenClip(conversion.CLIP_H14).state_dict()
    state, _ = conversion.convert_hpsv2(published)
    assert sum(tensor.numel() for tensor in state.values()) == 986_109_441  # As open_clip says.
    assert "visual.transformer.resblocks.31.attn.in_proj_weight" in published
    assert "transformer.resblocks.23.mlp.c_proj.bias" in published


def test_every_published_name_and_shape_of_image_reward_is_known() -> None:
    published = Blip.random(PUBLISHED, "meta").weights
    state, _ = conversion.convert_image_reward(published)
    used = {name for name in published if not name.startswith(conversion._BLIP_UNUSED)}
    assert len(state) == len(used)
    size = 4 * sum(tensor.numel() for tensor in published.values())
    assert size / 1e9 == pytest.approx(1.79, abs=0.005)  # As the hub says of ImageReward.pt.


@pytest.mark.parametrize("change", ["missing", "foreign", "reshaped"])
def test_another_checkpoint_is_refused_by_name(small: None, tmp_path: Path, change: str) -> None:
    state = dict(OpenClip(TINY_CLIP).state_dict())
    name = "visual.ln_post.weight"
    if change == "missing":
        del state[name]
    elif change == "foreign":
        state["visual.extra"] = torch.zeros(1)
    else:
        state[name] = torch.zeros(7)
    file = save(state, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"1 differ.*(post_layernorm|visual\.extra)"):
        conversion.convert("hpsv2", file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_others_is_refused_before_the_file_is_read(tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    clip.mkdir()
    for name in ("config.json", "model.safetensors"):
        (clip / name).write_text("x")
    for out in (clip, tmp_path, Path()):
        with pytest.raises(FilesError, match=r"give --out a folder that is new"):
            conversion.convert("hpsv2", tmp_path / "nowhere.pt", out)
    assert [path.read_text() for path in clip.iterdir()] == ["x", "x"]


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


def test_a_pickle_with_code_in_it_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.pt"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Harmful()}, file)
    with pytest.raises(CheckpointError, match=r"bad\.pt is no file of weights"):
        conversion.convert("hpsv2", file, tmp_path / "out")
    assert "code ran" not in capsys.readouterr().out


def test_what_cannot_be_converted_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty_caches(tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match="pickscore needs no conversion"):
        conversion.convert("pickscore")
    with pytest.raises(CheckpointError, match=r"run `hf download xswu/HPSv2 HPS_v2\.1_compressed"):
        conversion.convert("hpsv2")


def test_the_shapes_are_of_the_published_models() -> None:
    shapes = blip_shapes(PUBLISHED)
    assert shapes["blip.visual_encoder.pos_embed"] == (1, 197, 1024)
    assert shapes["blip.text_encoder.encoder.layer.11.crossattention.self.key.weight"] == (
        768,
        1024,
    )

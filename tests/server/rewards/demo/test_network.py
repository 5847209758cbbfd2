"""The judges know what they see: the right caption of a real drawing scores best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import heliostat_server.rewards.demo as rewards_module
from heliostat_engines.errors import CheckpointError
from heliostat_engines.families.demo.text_encoder import DemoTextEncoder
from heliostat_engines.files.weights import read_metadata, read_tensors
from heliostat_server.rewards.demo.demo_judge import TRAINING
from heliostat_server.rewards.demo.network import Judge

WEIGHTS = Path(rewards_module.__file__).parent / "weights"
# Painted from the fluent set (MIT licence); the file's name is the caption.
FIXTURES = sorted((Path(__file__).parent / "judge_fixtures").glob("*.png"))
# Who of a pair stands where is not among them: neither judge knows it (the demo's model card).
NEAR_MISSES = {
    "an owl on a pink background": [
        "a penguin on a pink background",
        "an owl on a blue background",
    ],
    "a rocket on a blue background": [
        "a fish on a blue background",
        "a rocket on a red background",
    ],
    "three carrots on a white background": [
        "two carrots on a white background",
        "three lemons on a white background",
    ],
    "a penguin left of a cactus on a yellow background": [
        "a penguin above a cactus on a yellow background",
        "a penguin left of a guitar on a yellow background",
    ],
}


@pytest.fixture(scope="module")
def encoder() -> DemoTextEncoder:
    return DemoTextEncoder()


@pytest.fixture(scope="module", params=["judge", "judge_heldout"])
def judge(request: pytest.FixtureRequest) -> Judge:
    return Judge.load(WEIGHTS / f"{request.param}.safetensors")


def read(path: Path) -> torch.Tensor:
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


def test_every_fixture_has_near_misses() -> None:
    assert {path.stem for path in FIXTURES} == set(NEAR_MISSES)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_right_caption_scores_best(path: Path, judge: Judge, encoder: DemoTextEncoder) -> None:
    captions = [path.stem, *NEAR_MISSES[path.stem]]
    scores = judge.score(read(path).repeat(len(captions), 1, 1, 1), encoder.encode(captions))
    assert scores.argmax() == 0
    assert scores[0] > 0.5


def test_scores_are_bounded_and_do_not_depend_on_the_batch(
    judge: Judge, encoder: DemoTextEncoder
) -> None:
    images = torch.stack([read(path) for path in FIXTURES])
    conditioning = encoder.encode([path.stem for path in FIXTURES])
    together = judge.score(images, conditioning)
    assert together.dtype == torch.float32
    assert together.shape == (len(FIXTURES),)
    assert ((together > 0) & (together < 1)).all()
    alone = torch.cat(
        [judge.score(images[i : i + 1], conditioning.take([i])) for i in range(len(images))]
    )
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert torch.equal(together, judge.score(images, conditioning)), "same input, same bits"


def test_a_blank_picture_scores_below_a_drawing(judge: Judge, encoder: DemoTextEncoder) -> None:
    path = next(path for path in FIXTURES if "rocket" in path.stem)
    drawing = read(path)
    blank = drawing[:, :1, :1].expand(3, 64, 64)
    scores = judge.score(torch.stack([drawing, blank]), encoder.encode([path.stem] * 2))
    assert scores[0] > scores[1] + 0.2


def test_image_gradients_are_not_kept(judge: Judge, encoder: DemoTextEncoder) -> None:
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    assert not judge.score(images, encoder.encode(["a sun on a blue background"])).requires_grad


def test_a_judge_that_lacks_a_tensor_or_its_description_is_refused(tmp_path: Path) -> None:
    tensors = read_tensors(TRAINING)
    described = read_metadata(TRAINING)
    path = tmp_path / "judge.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=f"{path} does not say which judge it holds"):
        Judge.load(path)
    del tensors["text_tower.head.bias"]
    save_file(tensors, path, described)
    with pytest.raises(CheckpointError, match=rf"{path} .*: text_tower\.head\.bias is missing"):
        Judge.load(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{path} is no whole safetensors file"):
        Judge.load(path)

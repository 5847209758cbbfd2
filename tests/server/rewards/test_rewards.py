from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from heliostat_engines.conditioning import Conditioning
from heliostat_server.errors import RequestError
from heliostat_server.rewards.computed.colourfulness import Colourfulness
from heliostat_server.rewards.computed.jpeg_compressibility import JpegCompressibility
from heliostat_server.rewards.entry import RewardEntry
from heliostat_server.rewards.images import to_uint8
from heliostat_server.rewards.registry import RewardBook, check_rewards
from heliostat_server.rewards.reward import RewardContext

if TYPE_CHECKING:
    from pathlib import Path

NO_TEXT = Conditioning(torch.zeros(0, 1, 1), torch.zeros(0, 1))


def test_to_uint8_rounds_and_puts_channels_last() -> None:
    images = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1)
    assert to_uint8(images).tolist() == [[[[0, 128, 255]]]]


def test_jpeg_is_the_files_size_in_kilobytes() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images[1] = 0.5
    rewards = JpegCompressibility().score(images, ["", ""], NO_TEXT)
    file = io.BytesIO()
    Image.fromarray(to_uint8(images)[0].numpy()).save(file, "JPEG", quality=95)
    assert rewards[0].item() == pytest.approx(-len(file.getvalue()) / 1000)
    assert rewards[1] > rewards[0]


def test_colourfulness_follows_the_papers_formula() -> None:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    red, green, blue = (images[1] * 255).double().numpy()
    rg, yb = red - green, (red + green) / 2 - blue
    expected = np.sqrt(rg.var() + yb.var()) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    rewards = Colourfulness().score(images, [""] * 3, NO_TEXT)
    assert rewards[1].item() == pytest.approx(expected / 100, rel=1e-5)


def test_grey_has_no_colour() -> None:
    grey = torch.rand(1, 1, 8, 8).expand(1, 3, 8, 8)
    assert Colourfulness().score(grey, [""], NO_TEXT).item() == pytest.approx(0, abs=1e-6)


def test_the_book_offers_what_the_family_can_have(tmp_path: Path) -> None:
    def load(_: RewardContext) -> Colourfulness:
        return Colourfulness()

    weights = tmp_path / "weights"
    entries = [
        RewardEntry("any", load),
        RewardEntry("other_family", load, family="sana"),
        RewardEntry("without_weights", load, weights=weights),
    ]
    assert RewardBook("demo", entries).names == ("any",)
    weights.touch()
    assert RewardBook("demo", entries).names == ("any", "without_weights")


def test_a_reward_is_loaded_once_and_only_when_asked_for() -> None:
    loaded: list[Colourfulness] = []

    def load(_: RewardContext) -> Colourfulness:
        loaded.append(Colourfulness())
        return loaded[-1]

    book = RewardBook("demo", [RewardEntry("lazy", load)])
    assert not loaded
    assert book.get("lazy") is book.get("lazy")
    assert len(loaded) == 1


def test_an_unknown_reward_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match="did you mean 'colourfulness'"):
        check_rewards(["colorfulness"], ["colourfulness", "jpeg"])
    with pytest.raises(RequestError, match="this server has colourfulness, jpeg"):
        check_rewards(["zzz"], ["colourfulness", "jpeg"])

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from heliostat_engines.conditioning import Conditioning
from heliostat_server.errors import RequestError
from heliostat_server.rewards.computed.ocr import Ocr, likeness, quoted_text

NO_TEXT = Conditioning(torch.zeros(0, 1, 1), torch.zeros(0, 1))


def written(text: str) -> torch.Tensor:
    """image[3, 256, 256] of a sign with the text."""
    picture = Image.new("RGB", (256, 256), "khaki")
    font = ImageFont.load_default(34)
    ImageDraw.Draw(picture).text((20, 100), text, fill="navy", font=font)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255


def test_signs_are_read() -> None:
    reader = Ocr()
    images = torch.stack([written("Hello World"), written("Hello Wor"), written("")])
    prompts = ['a sign that says "hello world"'] * 3
    rewards = reader.score(images, prompts, NO_TEXT)
    assert rewards.tolist() == pytest.approx([1.0, 0.8, 0.0])
    alone = reader.score(images[1:2], prompts[1:2], NO_TEXT)
    assert alone[0] == rewards[1]


@pytest.mark.parametrize(
    ("read", "wanted", "reward"),
    [
        ("OPEN", "open", 1.0),
        ("we are o p e n today", "Open", 1.0),
        ("opem", "open", 0.75),
        ("opne", "open", 0.5),
        ("", "open", 0.0),
        ("nothing like it at all", "open", 0.0),
    ],
)
def test_likeness_is_one_minus_the_edit_distance(read: str, wanted: str, reward: float) -> None:
    assert likeness(read, wanted) == pytest.approx(reward)


def levenshtein(first: str, second: str) -> int:
    """Wagner and Fischer's table."""
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, 1):
        last, row = row, [i]
        for j, right in enumerate(second, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (left != right)))
    return row[-1]


@given(st.text("abc", max_size=8), st.text("abc", min_size=1, max_size=8))
def test_likeness_is_in_bounds_and_counts_edits(read: str, wanted: str) -> None:
    reward = likeness(read, wanted)
    assert 0 <= reward <= 1
    if wanted not in read:
        assert reward == pytest.approx(max(0, 1 - levenshtein(read, wanted) / len(wanted)))


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('a sign "Stop Now" beside "go"', "stopnow"),
        ("a sign “Halt”, big", "halt"),
        ("ein Schild „Bäckerei“ und „Café“", "bäckerei"),
        ("ein Schild „Halt”", "halt"),
        ("une enseigne «\u00a0Chez Luc\u00a0»", "chezluc"),
        ("ein Schild »Ausfahrt«, ›Ruhe‹", "ausfahrt"),
        ("ein Schild ›Ruhe‹", "ruhe"),
        ("une enseigne ‹ fermé ›", "fermé"),
        ("en skylt ”Stängt”", "stängt"),
        ("看板「営業中」と『準備中』", "営業中"),
        ("看板『準備中』", "準備中"),
        ("一块写着“开放”的牌子", "开放"),
        ('一块写着"开放"的牌子', "开放"),
        ("＂全角＂", "全角"),
        ('sign:"OPEN"', "open"),
        ('a sign " open "', "open"),
        ('a 5" ruler beside a sign "66" on a 6" board', "66"),
        ('a 12"x18" poster saying "SALE"', "sale"),
        ("a 5” pipe and a sign “OPEN”", "open"),
        ('a "" sign, a " " sign, a sign "OPEN"', "open"),
        ('on route 5 "OPEN"', "open"),
    ],
)
def test_the_first_quoted_text_counts(prompt: str, text: str) -> None:
    assert quoted_text(prompt) == text


@pytest.mark.parametrize(
    "prompt",
    [
        "a sign",
        'a "" sign',
        'a " " sign',
        'an inch is 1"',
        'a 5" ruler and 6" ruler',
        'a 5 " ruler and 6 " ruler',
        "a 5” ruler and 6” ruler",
        "it's the baker's",
        "a «» sign",
    ],
)
def test_a_prompt_without_quoted_text_is_refused(prompt: str) -> None:
    with pytest.raises(RequestError, match="in quotation marks"):
        quoted_text(prompt)

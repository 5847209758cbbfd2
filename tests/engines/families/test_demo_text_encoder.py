"""The demo's text encoder gives a prompt the same bits in any company."""

from __future__ import annotations

import pytest
import torch

from heliostat_engines.families.demo import text_encoder as text_encoder_module
from heliostat_engines.families.demo.text_encoder import (
    POOLED_SCALE,
    DemoTextEncoder,
    packaged_model_dir,
)

PROMPTS = [
    "a red apple on a blue background",
    "",
    "a penguin left of a rocket on a yellow background",
]


@pytest.fixture(scope="module")
def encoder() -> DemoTextEncoder:
    return DemoTextEncoder()


def test_shapes_and_scale(encoder: DemoTextEncoder) -> None:
    conditioning = encoder.encode(PROMPTS)
    assert conditioning.tokens.shape == (3, 16, 384)
    assert conditioning.pooled.shape == (3, 384)
    assert conditioning.tokens.dtype == conditioning.pooled.dtype == torch.float32
    assert conditioning.mask is None
    torch.testing.assert_close(conditioning.pooled.norm(dim=-1), torch.full((3,), POOLED_SCALE))


def test_same_bits_whatever_else_is_in_the_batch(encoder: DemoTextEncoder) -> None:
    together = encoder.encode(PROMPTS)
    # Another encoder, so that nothing comes from the first one's cache.
    other = DemoTextEncoder()
    for row, prompt in reversed(list(enumerate(PROMPTS))):
        alone = other.encode([prompt])
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert torch.equal(alone.pooled[0], together.pooled[row])


def test_null_caption_is_its_two_marks_and_padding(encoder: DemoTextEncoder) -> None:
    tokens = encoder.encode([""]).tokens[0]
    assert (tokens[:2] != 0).any(dim=-1).all()
    assert (tokens[2:] == 0).all()


def test_long_prompts_are_cut(encoder: DemoTextEncoder) -> None:
    conditioning = encoder.encode(["a very " + "very " * 50 + "long prompt"])
    assert conditioning.tokens.shape == (1, 16, 384)
    assert (conditioning.tokens != 0).any(dim=-1).all()


def test_no_prompts_no_rows(encoder: DemoTextEncoder) -> None:
    assert len(encoder.encode([])) == 0


def test_missing_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoder_module, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'heliostat\[demo\]'"):
        packaged_model_dir()

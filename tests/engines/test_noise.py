from __future__ import annotations

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from heliostat_engines.noise import initial_noise

SHAPE = (16, 8, 8)


def test_noise_is_what_plain_diffusers_draws_from_the_seed() -> None:
    generator = torch.Generator("cpu").manual_seed(1234)
    expected = randn_tensor((1, *SHAPE), generator=generator, dtype=torch.float32)
    assert torch.equal(initial_noise([1234], SHAPE), expected)


def test_a_seed_gives_the_same_noise_in_any_batch() -> None:
    together = initial_noise([5, 6, 2**32 - 1], SHAPE)
    assert torch.equal(together[1:2], initial_noise([6], SHAPE))
    assert torch.equal(together[2:], initial_noise([2**32 - 1], SHAPE))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        initial_noise([seed], SHAPE)

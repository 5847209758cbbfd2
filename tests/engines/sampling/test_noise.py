from __future__ import annotations

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from heliostat_engines.sampling.noise import initial_noise, step_noise, window_start

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


def test_the_noise_of_a_step_is_of_the_seed_and_the_step_alone() -> None:
    together = step_noise([5, 6], 3, SHAPE)
    assert torch.equal(together[1:], step_noise([6], 3, SHAPE))
    different = [initial_noise([6], SHAPE), *(step_noise([6], step, SHAPE) for step in range(4))]
    for first, left in enumerate(different):
        for right in different[first + 1 :]:
            assert abs(float((left * right).mean())) < 0.15  # of 1024 independent products
    assert step_noise([7], 0, (64, 64)).std() == pytest.approx(1, abs=0.05)


def test_windows_start_anywhere_allowed() -> None:
    starts = [window_start(seed, 3) for seed in range(300)]
    assert min(starts.count(start) for start in range(3)) > 70
    assert set(starts) == {0, 1, 2}


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_has_no_step_noise(seed: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        step_noise([seed], 0, SHAPE)
    with pytest.raises(ValueError, match="out of range"):
        window_start(seed, 3)

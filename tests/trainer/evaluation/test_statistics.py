from __future__ import annotations

import numpy as np
import pytest
import torch

from heliostat_trainer.evaluation.results import prompt_interval
from heliostat_trainer.evaluation.statistics import (
    Interval,
    brightness,
    colour_entropy,
    diversity,
    edge_density,
    interval,
)
from heliostat_trainer.prompts.sources import step_prompts
from heliostat_trainer.randomness import Purpose, candidate_seeds, torch_stream


def test_brightness_weighs_colours() -> None:
    images = torch.zeros(3, 3, 4, 4)
    images[1] = 1.0
    images[2, 1] = 1.0
    assert brightness(images).tolist() == pytest.approx([0.0, 1.0, 0.587], abs=1e-5)


def test_entropy_counts_colours() -> None:
    images = torch.zeros(2, 3, 4, 4)
    images[1, 0, :, 2:] = 1.0
    assert colour_entropy(images).tolist() == pytest.approx([0.0, 1.0], abs=1e-5)


def test_edges_are_where_luma_jumps() -> None:
    images = torch.zeros(2, 3, 5, 5)
    images[1, :, :, 2:] = 1.0
    assert edge_density(images).tolist() == [0.0, 0.25]


def test_diversity_is_zero_for_copies_and_one_for_opposites() -> None:
    images = torch.zeros(2, 3, 4, 4)
    assert diversity(images) == 0.0
    images[1] = 1.0
    assert diversity(images) == 1.0


def test_the_interval_is_students() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    result = interval(values)
    assert (result.mean, result.low, result.high) == pytest.approx((2.5, 0.4458, 4.5542), abs=1e-4)
    assert result.is_above_zero
    assert not interval(-values).is_above_zero
    assert interval(-values).is_below_zero


def test_a_single_draw_has_no_interval() -> None:
    single = interval(torch.tensor([0.5]))
    assert single == Interval(0.5, None, None)
    assert single.half_width is None
    assert not single.is_above_zero
    assert not single.is_below_zero


def test_intervals_are_over_prompts_not_images() -> None:
    same_prompt = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    assert prompt_interval(same_prompt).high == pytest.approx(0.5)


def test_each_epoch_visits_every_prompt_once() -> None:
    prompts = tuple("abcdef")
    epoch = [step_prompts(prompts, 2, 0, step) for step in (1, 2, 3)]
    assert sorted(sum(epoch, ())) == list(prompts)
    later = [step_prompts(prompts, 2, 0, step) for step in (4, 5, 6)]
    assert sorted(sum(later, ())) == list(prompts)
    assert epoch != later
    assert step_prompts(prompts, 2, 0, 5) == later[1]


def test_random_numbers_depend_on_the_position_alone() -> None:
    seeds = candidate_seeds(1, Purpose.CANDIDATES, 96, 3, 4)
    assert len(set(seeds)) == 96
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seeds == candidate_seeds(1, Purpose.CANDIDATES, 96, 3, 4)
    assert not set(seeds) & set(candidate_seeds(1, Purpose.CANDIDATES, 96, 4, 3))
    assert not set(seeds) & set(candidate_seeds(1, Purpose.EVALUATION, 96, 3, 4))
    assert torch_stream(0, Purpose.TRAINING_NOISE, 1).device.type == "cpu"

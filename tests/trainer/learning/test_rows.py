"""At which levels, and with which noise, a step's samples are trained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heliostat_trainer.learning.advantages import advantages, balanced
from heliostat_trainer.learning.rows import GroupBatch, Schedule, lay_out
from heliostat_trainer.randomness import Purpose, stream, torch_stream
from heliostat_trainer.settings.objectives import (
    AwmSettings,
    Deviation,
    DgpoSettings,
    DiffusionDpoSettings,
    DiffusionNftSettings,
    FlowGrpoSettings,
    Levels,
)
from tests.trainer.objectives.test_objectives import LEVELS, drawn, group

if TYPE_CHECKING:
    from heliostat_trainer.learning.rows import Batch

CPU = torch.device("cpu")
NOISED = (DiffusionNftSettings, AwmSettings, DiffusionDpoSettings, DgpoSettings)
GROUPS = [group(0, [0.5, 0.9, 0.1, 0.2]), group(3, [3.0, 1.0, 2.0, 5.0])]


def laid_out(settings, step: int = 1) -> Batch:
    return lay_out(settings, Schedule(42, step, LEVELS), GROUPS, CPU)


def whole(batch: Batch):
    return batch.take(np.arange(len(batch.samples)))


def test_by_default_every_row_has_its_own_level_at_random_and_its_own_noise() -> None:
    """The numbers of before there was a choice: they are part of the results."""
    rows = whole(laid_out(DiffusionNftSettings(), step=7))
    random = stream(42, Purpose.TIMESTEPS, 7)
    levels = np.concatenate([random.permutation(LEVELS[:-1])[:6] for _ in range(8)])
    assert np.array_equal(rows.sigma.numpy(), levels)
    for row in range(48):
        noise = torch.randn(1, 1, 1, generator=torch_stream(42, Purpose.TRAINING_NOISE, 7, row))
        assert torch.equal(rows.noise[row], noise)


@pytest.mark.parametrize("kind", NOISED)
@pytest.mark.parametrize("levels", Levels)
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("fraction", [0.01, 0.5, 1.0])
def test_there_are_as_many_rows_as_the_settings_say(kind, levels, share, fraction) -> None:
    settings = kind(levels=levels, share_noise=share, timestep_fraction=fraction)
    assert len(laid_out(settings).samples) == 2 * settings.rows(kept=4, steps=10)


@pytest.mark.parametrize("kind", NOISED)
def test_high_levels_are_the_upper_half_each_as_likely(kind) -> None:
    settings = kind(levels="high", timestep_fraction=0.4)
    sigmas = np.concatenate([laid_out(settings, step).sigmas for step in range(1, 301)])
    found, counts = np.unique(sigmas, return_counts=True)
    assert np.array_equal(found, np.sort(LEVELS[:5]))
    assert counts == pytest.approx(len(sigmas) / 5, rel=0.15)
    assert Levels.HIGH.among(1) == 1  # of a single level there is no lower half
    all_of_them = laid_out(kind(levels="high", timestep_fraction=1.0)).sigmas
    assert len(np.unique(all_of_them)) == 5


@given(
    count=st.integers(1, 40), fraction=st.floats(0.01, 1), run=st.integers(0, 99),
    step=st.integers(1, 99),
)  # fmt: skip
def test_of_each_stratum_one_level_is_taken(count: int, fraction: float, run: int, step: int):
    settings = DiffusionNftSettings(levels="stratified", timestep_fraction=fraction)
    schedule = Schedule(run, step, np.linspace(1, 0, count + 1, dtype=np.float32))
    places = schedule.places(settings, count, 3)
    taken = settings.levels_taken(count)
    assert places.shape == (3, taken)
    edges = np.arange(taken + 1) * count / taken
    assert (places + 1 > edges[:-1]).all()  # the place's own unit reaches into the stratum
    assert (places < edges[1:]).all()
    assert ((places >= 0) & (places < count)).all()
    if taken == count:
        assert (places == np.arange(count)).all()


def test_strata_prefer_no_level() -> None:
    settings = DiffusionNftSettings(levels="stratified", timestep_fraction=0.3)  # 3.33 levels wide
    places = np.concatenate(
        [Schedule(42, step, LEVELS).places(settings, 10, 8) for step in range(1, 501)]
    )
    _, counts = np.unique(places, return_counts=True)
    assert counts == pytest.approx(places.size / 10, rel=0.1)
    assert len({tuple(row) for row in places}) > 20  # each stratum's draw is its own


@pytest.mark.parametrize("kind", NOISED)
@pytest.mark.parametrize("levels", Levels)
def test_a_prompts_samples_share_levels_and_noise_if_asked(kind, levels) -> None:
    batch = laid_out(kind(levels=levels, share_noise=True, timestep_fraction=0.4))
    rows = whole(batch)
    of_group = np.array(batch.prompts(np.arange(len(batch.samples))))
    noises = []
    for place in (0, 3):
        noise, sigma = rows.noise[of_group == place], rows.sigma[of_group == place]
        sample = batch.samples[of_group == place]
        ours = [(sigma[sample == each], noise[sample == each]) for each in np.unique(sample)]
        assert len(ours) == 4
        for sigmas, shared in ours[1:]:
            assert torch.equal(sigmas, ours[0][0])
            assert torch.equal(shared, ours[0][1])
        noises += ours[0][1].flatten().tolist()
    assert len(set(noises)) == len(noises)  # of another level and of another prompt


@given(st.permutations(range(24)), st.integers(1, 24), st.booleans(), st.sampled_from(Levels))
def test_rows_are_the_same_however_they_are_split(order, size, share, levels) -> None:
    settings = DiffusionNftSettings(levels=levels, share_noise=share, timestep_fraction=0.6)
    batch = laid_out(settings)
    everything = whole(batch)
    parts = [np.array(order[start : start + size]) for start in range(0, 24, size)]
    for part in parts:
        rows = batch.take(part)
        for name in ("latents", "sigma", "noise", "clean", "advantages"):
            assert torch.equal(getattr(rows, name), getattr(everything, name)[part])


@given(st.permutations(range(3)), st.integers(1, 30), st.sampled_from(NOISED), st.booleans())
def test_a_micro_batch_has_rows_of_one_shape_each_as_it_is_alone(order, size, kind, share) -> None:
    shapes = [(1, 2, 3), (1, 3, 2), (1, 2, 3)]
    groups = [
        replace(group(row, [0.5, 0.9, 0.1, 0.2]), latents=torch.randn(4, *shapes[row]))
        for row in order
    ]
    settings = kind(share_noise=share, timestep_fraction=0.6)
    other = LEVELS**2
    schedule = Schedule(42, 1, LEVELS, {(1, 3, 2): other})
    batch = lay_out(settings, schedule, groups, CPU)
    parts = batch.micro_batches(batch.terms(), size)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(batch.samples)))
    for part in parts:
        rows = batch.take(part)
        of_each = [groups[sample // 4].latents[sample % 4] for sample in batch.samples[part]]
        assert torch.equal(rows.clean, torch.stack(of_each))
        levels = other if rows.clean.shape[1:] == (1, 3, 2) else LEVELS
        assert set(rows.sigma.tolist()) <= set(levels.tolist())
        assert [batch.prompts(part)[at] for at in range(len(part))] == [
            groups[sample // 4].row for sample in batch.samples[part]
        ]


@pytest.mark.parametrize("share", [False, True])
def test_a_group_is_one_term_at_each_level(share: bool) -> None:
    batch = laid_out(DgpoSettings(share_noise=share))  # four of the five highest levels
    assert isinstance(batch, GroupBatch)
    terms = batch.terms()
    assert terms.shape == (2 * 4, 4)
    rows = whole(batch)
    for term in terms:
        assert np.array_equal(np.unique(batch.samples[term]), batch.samples[term])
        assert len({batch.groups[sample // 4].row for sample in batch.samples[term]}) == 1
        assert len(set(batch.sigmas[term])) == 1
        assert batch.sigmas[term[0]] >= LEVELS[4]
        assert len(rows.noise[term].unique()) == (1 if share else 4)
    assert torch.equal(rows.term, torch.arange(8).repeat_interleave(4))
    levels = batch.sigmas[terms[:, 0]].reshape(2, 4)
    assert all(len(set(of_group)) == 4 for of_group in levels)


def test_advantages_of_a_group_are_its_own_and_weigh_both_sides_alike() -> None:
    batch = laid_out(DgpoSettings(advantage_clip=1.2))
    (values,) = advantages([GROUPS[0].rewards], 1.2, Deviation.GROUP)
    assert values.max() == 1.2  # clipped
    weights = batch.advantages[:4].double().numpy()
    np.testing.assert_allclose(weights, balanced(values), rtol=1e-6)
    sums = batch.advantages.view(-1, 4).sum(dim=1)
    torch.testing.assert_close(sums, torch.zeros(8), rtol=0, atol=1e-6)
    assert np.array_equal(np.sign(weights), np.sign(values))
    assert np.abs(weights).sum() == pytest.approx(np.abs(values).sum())
    assert not balanced(np.zeros(3)).any()
    assert not balanced(np.full(3, 1e-13)).any()  # alike, but for a rounding


@given(st.permutations(range(32)), st.integers(1, 40))
def test_a_split_group_has_the_margins_of_all_its_rows(order, size: int) -> None:
    batch = laid_out(DgpoSettings())
    assert isinstance(batch, GroupBatch)
    assert batch.splits(size) == (size < 4)
    parts = batch.micro_batches(batch.terms(), size)
    assert np.array_equal(np.concatenate(parts), np.arange(32))
    assert max(map(len, parts)) <= size
    shares = torch.tensor(order, dtype=torch.float32)
    margins = shares.view(8, 4).mean(dim=1).repeat_interleave(4)
    for part in parts:
        rows = batch.with_margins(shares).take(part)
        assert torch.equal(rows.margin, margins[part])
        assert batch.take(part).margin is None


def test_stochastic_steps_are_chosen_like_levels() -> None:
    groups = [drawn(0, [0.5, 0.9], 0), drawn(1, [3.0, 1.0], 0)]
    for levels, fraction, expected in (("high", 1.0, {1, 2}), ("stratified", 1.0, {1, 2, 3})):
        settings = FlowGrpoSettings(levels=levels, timestep_fraction=fraction)
        batch = lay_out(settings, Schedule(42, 1, LEVELS), groups, CPU)
        assert set(batch.sigmas) == set(LEVELS[sorted(expected)])
        assert len(batch.samples) == 4 * len(expected) == 2 * settings.rows(2, 4)

"""The estimators of a gradient's signal and noise, and what the benchmark makes of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heliostat.examples import example
from heliostat_trainer.errors import ConfigError, RunFolderError
from heliostat_trainer.rewards import RewardSum
from heliostat_trainer.types import GroupRequest
from tests.benchmarks.gradient_signal import (
    ROWS,
    Bench,
    Drawn,
    Job,
    Line,
    Shelf,
    append_lines,
    draw_rows,
    evaluate,
    gradient_file,
    gram_of,
    read_lines,
)
from tests.benchmarks.noise_scale import (
    common_noise_scale,
    cosine,
    cost_ratio,
    jackknife,
    noise_scale,
    power,
    signal,
)

DRAWS, PARAMETERS = 10, 200
seeds = st.integers(0, 2**32 - 1)


def noise_of(power: float, seed: int, draws: int = DRAWS) -> np.ndarray:
    """e[D, P] of so large a squared length, on average."""
    random = np.random.default_rng(seed)
    return random.normal(size=(draws, PARAMETERS)) * math.sqrt(power / PARAMETERS)


def draws_of(noise: float, seed: int, draws: int = DRAWS) -> np.ndarray:
    """g[D, P] whose signal has length 1, and whose noise has the squared length `noise`."""
    direction = np.random.default_rng(seed + 1).normal(size=PARAMETERS)
    return direction / np.linalg.norm(direction) + noise_of(noise, seed, draws)


def gram(gradients: np.ndarray) -> np.ndarray:
    return gradients @ gradients.T


@pytest.mark.parametrize(("true", "draws"), [(0.5, 10), (5.0, 10), (25.0, 40)])
def test_the_interval_of_the_noise_scale_covers_it(true: float, draws: int) -> None:
    found = [noise_scale(gram(draws_of(true, seed, draws))) for seed in range(200)]
    covered = np.mean([each.low <= true <= each.high for each in found])
    assert covered >= 0.92
    # An interval that is never wrong for being endless says nothing.
    ends = np.median([each.high for each in found]), np.median([each.low for each in found])
    assert true / 3 < ends[1] < true < ends[0] < 4 * true


def test_the_signal_is_unbiased_where_there_is_none() -> None:
    found = [signal(gram(noise_of(PARAMETERS, seed))) for seed in range(500)]
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error
    # Naive is the squared length of the mean gradient, which noise alone makes 20 here.
    assert error < PARAMETERS / DRAWS / 50


def test_without_a_signal_the_noise_scale_may_be_endless() -> None:
    found = [noise_scale(gram(noise_of(1.0, seed))) for seed in range(200)]
    assert np.mean([math.isinf(each.high) for each in found]) >= 0.95


def test_signal_and_noise_are_unbiased() -> None:
    grams = [gram(draws_of(8.0, seed)) for seed in range(500)]
    signals = np.array([signal(each) for each in grams])
    powers = np.array([power(each) for each in grams])
    assert np.mean(signals) == pytest.approx(1, abs=4 * np.std(signals) / math.sqrt(500))
    assert np.mean(powers) == pytest.approx(9, abs=4 * np.std(powers) / math.sqrt(500))


@given(seeds, st.floats(1e-3, 1e3), st.permutations(range(DRAWS)))
def test_neither_length_nor_order_matters(seed: int, scale: float, order: list[int]) -> None:
    gradients = draws_of(4.0, seed)
    for estimate in (noise_scale, cosine):
        found, other = estimate(gram(gradients)), estimate(gram(scale * gradients[order]))
        assert (other.value, other.low) == pytest.approx((found.value, found.low))


@given(seeds)
def test_equal_draws_have_no_noise(seed: int) -> None:
    gradients = np.repeat(draws_of(1.0, seed)[:1], DRAWS, axis=0)
    assert noise_scale(gram(gradients)).value == pytest.approx(0, abs=1e-9)
    assert cosine(gram(gradients)).value == pytest.approx(1)


@given(seeds)
def test_the_cosine_is_one_over_one_plus_the_noise_scale(seed: int) -> None:
    """Nearly: the lengths of draws differ little in many dimensions."""
    table = gram(draws_of(3.0, seed))
    assert cosine(table).value == pytest.approx(1 / (1 + noise_scale(table).value), rel=0.1)


def paired(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    both = np.concatenate([first, second])
    return gram(both).reshape(2, len(first), 2, len(first))


@given(seeds)
def test_a_row_against_itself_costs_what_it_costs(seed: int) -> None:
    gradients = draws_of(2.0, seed)
    found = cost_ratio(paired(gradients, gradients), (1, 0), (300.0, 100.0))
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))


def test_the_ratio_of_costs_covers_the_truth_and_pairing_narrows_it() -> None:
    """The second row has the first's noise, and half as much of its own."""
    covered, together, apart = [], [], []
    for seed in range(200):
        first = draws_of(4.0, seed)
        second = first + noise_of(2.0, seed + 1000)
        found = cost_ratio(paired(second, first), (0, 1), (1.0, 1.0))
        covered.append(found.low <= (1 + 4.0 + 2.0) / (1 + 4.0) <= found.high)
        together.append(found.high / found.low)
        apart.append(own_ratio(second, first))
    assert np.mean(covered) >= 0.92
    assert np.median(together) < 0.7 * np.median(apart)


def own_ratio(first: np.ndarray, second: np.ndarray) -> float:
    """How far apart the ends of the ratio of two rows' own 1 + B are, each with its interval."""
    one, other = noise_scale(gram(first)), noise_scale(gram(second))
    return (1 + one.high) / (1 + one.low) * (1 + other.high) / (1 + other.low)


def test_the_common_signal_is_covered_and_tells_more_than_a_rows_own_draws() -> None:
    """Three rows of one signal, whose noise is half in common."""
    covered, common, own = [], [], []
    for seed in range(200):
        shared = draws_of(4.0, seed)
        rows = [shared + noise_of(4.0, seed + 1000 * row) for row in (1, 2, 3)]
        table = gram(np.concatenate(rows)).reshape(3, DRAWS, 3, DRAWS)
        found = common_noise_scale(table, 0)
        covered.append(found.low <= 8.0 <= found.high)
        common.append(found.high - found.low)
        alone = noise_scale(gram(rows[0]))
        own.append(alone.high - alone.low)
    assert np.mean(covered) >= 0.92
    assert np.median(common) < 0.9 * np.median(own)


def test_noise_that_rows_share_is_no_common_signal() -> None:
    found = []
    for seed in range(200):
        noise = noise_of(1.0, seed)
        found.append(common_noise_scale(paired(noise, noise), 0).high)
    assert np.mean([math.isinf(high) for high in found]) >= 0.9


def test_a_ratio_of_no_signal_is_unbounded() -> None:
    against = draws_of(1.0, 0)
    found = cost_ratio(paired(-0.1 * against, against), (0, 1), (1.0, 1.0))
    assert (found.low, found.high) == (0, math.inf)


def test_two_draws_have_no_interval() -> None:
    with pytest.raises(ValueError, match="2 draws: an interval needs 3"):
        jackknife(len, 2)


def test_inner_products_of_files_are_those_of_the_gradients(tmp_path: Path) -> None:
    gradients = np.random.default_rng(0).normal(size=(2, 3, 70_000)).astype(np.float32)
    files = [[tmp_path / f"{row}-{draw}.npy" for draw in range(3)] for row in range(2)]
    for row, draw in np.ndindex(2, 3):
        np.save(files[row][draw], gradients[row, draw])
    flat = gradients.reshape(6, -1).astype(np.float64)
    np.testing.assert_allclose(gram_of(files).reshape(6, 6), flat @ flat.T, rtol=1e-9)


def bench(folder: Path) -> Bench:
    return Bench(example("demo_long.toml"), folder, None, 42, same_prompts=False, device="cpu")


def test_rows_are_settings(tmp_path: Path) -> None:
    config = bench(tmp_path).config("pairs=3,recipe.candidates=20,timestep_fraction=0.2,prompts=5")
    assert (config.recipe.keep_pairs, config.recipe.candidates) == (3, 20)
    assert (config.objective.timestep_fraction, config.prompts.per_step) == (0.2, 5)
    assert bench(tmp_path).config("").recipe.candidates == 96
    assert len({bench(tmp_path).digest(row) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("pool", "write key=value"),
        ("pol=24", "'pol' is no setting of a row: did you mean 'pool'?"),
        ("lr=1", "'lr' is no setting of a row"),
        ("optimiser.lr=1", "'optimiser.lr' is no setting of a row"),
        ("pool=2000", "at most 1024 candidates: lower pool"),
        ("pool=4", "keep_pairs = 12 keeps 24 of candidates = 4"),
        ("objective=nft", "choose from diffusion_nft"),
    ],
)
def test_a_mistaken_row_is_one_sentence(tmp_path: Path, row: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        bench(tmp_path).config(row)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot read"):
        replace(bench(tmp_path), run=tmp_path).config(ROWS[0])


def test_what_is_left_of_a_line_is_no_draw(tmp_path: Path) -> None:
    lines = [Line("a", draw, 0.5, 1.0, "float32") for draw in range(3)]
    append_lines(tmp_path, lines[:1])
    with (tmp_path / "draws.jsonl").open("a") as file:
        file.write(json.dumps({"digest": "a"})[:-4])
    append_lines(tmp_path, lines[1:])
    assert read_lines(tmp_path) == lines


def test_rows_share_what_they_draw() -> None:
    asked: list[tuple[int, ...]] = []

    def draw(requests: Sequence[GroupRequest]) -> list[Drawn]:
        asked.extend(request.seeds for request in requests)
        return [
            Drawn(np.array([[seed / 10] for seed in r.seeds]), torch.tensor(r.seeds), None)
            for r in requests
        ]

    shelf, reward = Shelf(), RewardSum.single("r")
    request = GroupRequest(0, "a cat", (3, 1, 2), 6, reward)
    fetch = partial(shelf.fetch, "drawn", draw=draw)
    fetch(requests=[request])
    (again,) = fetch(requests=[replace(request, seeds=(2, 4, 3))])
    assert again.parts[:, 0].tolist() == [0.2, 0.4, 0.3]
    assert again.latents is not None
    assert again.latents.tolist() == [2, 4, 3]
    fetch(requests=[replace(request, seeds=(3, 2))])
    fetch(requests=[replace(request, steps=4, seeds=(3,))])
    assert asked == [(3, 1, 2), (4,), (3,)]


@pytest.mark.slow
def test_rows_of_the_demo_are_measured_on_the_same_draws(tmp_path: Path) -> None:
    rows = ("pairs=1,pool=6,prompts=2", "recipe=diffusionnft,pairs=1,prompts=2")
    for draw in range(3):
        append_lines(tmp_path, draw_rows(Job(bench(tmp_path), draw, rows)))
    result = evaluate(bench(tmp_path), rows, decode_nfes=1.0)
    assert (result.draws, result.policy) == (3, "base")
    assert all(-1 <= row.cosine.value <= 1 for row in result.rows)
    before = np.load(gradient_file(tmp_path, bench(tmp_path).digest(rows[0]), 1))
    assert np.linalg.norm(before) > 0
    # By itself and with another row that explores more, it is the same draw.
    draw_rows(Job(bench(tmp_path), 1, (f"{rows[0]},pool=8", rows[0])))
    after = np.load(gradient_file(tmp_path, bench(tmp_path).digest(rows[0]), 1))
    assert before @ after > 0.98 * np.linalg.norm(before) * np.linalg.norm(after)
    with pytest.raises(ConfigError, match="0 draws of all of these rows"):
        evaluate(bench(tmp_path), (*rows, "pairs=1,pool=7"), decode_nfes=1.0)

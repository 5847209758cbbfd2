"""What is trained on and evaluated on: read once, and long enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat_trainer.errors import ConfigError
from heliostat_trainer.prompts.sets import hold_out, prompt_notes, read_prompt_sets
from heliostat_trainer.settings.load import load_config

if TYPE_CHECKING:
    from pathlib import Path

UNIQUE = st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=40, unique=True).map(tuple)


@given(UNIQUE, st.floats(0.01, 0.99), st.integers(0, 5))
def test_what_is_held_out_is_never_trained_on(
    prompts: tuple[str, ...], fraction: float, seed: int
) -> None:
    sets = hold_out(prompts, fraction, seed)
    assert not set(sets.train) & set(sets.heldout)
    assert sorted(sets.train + sets.heldout) == sorted(prompts)
    assert len(sets.heldout) == max(1, round(fraction * len(prompts)))
    assert sets == hold_out(prompts, fraction, seed)


def without_heldout(toml: Path) -> Path:
    toml.write_text(toml.read_text().replace('heldout = "heldout.txt"', "heldout_fraction = 0.5"))
    return toml


def test_a_run_without_a_heldout_source_splits_its_own_and_says_so(toml: Path) -> None:
    config = load_config(without_heldout(toml))
    sets = read_prompt_sets(config)
    assert (len(sets.train), len(sets.heldout)) == (3, 3)
    (sentence,) = prompt_notes(config, sets)
    assert "3 of the 6 prompts of" in sentence
    assert "prompts.heldout_fraction = 0.5" in sentence
    other = load_config(toml, ["--run.seed", "7", "--evaluation.seed", "7"])
    assert read_prompt_sets(other) == sets
    third = load_config(toml, ["--prompts.heldout_seed", "1"])
    assert read_prompt_sets(third) != sets


def test_a_split_that_is_too_small_is_named(toml: Path) -> None:
    words = ["--prompts.heldout_fraction", "0.1"]
    with pytest.raises(ConfigError, match=r"evaluation.prompts = 3, but prompts.heldout_fraction"):
        read_prompt_sets(load_config(without_heldout(toml), words))
    with pytest.raises(ConfigError, match=r"prompts.per_step = 4, but what prompts.heldout_fract"):
        read_prompt_sets(load_config(toml, ["--prompts.per_step", "4"]))


def test_an_empty_prompt_file_is_named(toml: Path) -> None:
    (toml.parent / "train.txt").write_text("# nothing but a comment\n\n")
    with pytest.raises(ConfigError, match=r"prompts.train: .*train.txt holds no prompt"):
        read_prompt_sets(load_config(toml))


def test_prompts_in_both_files_are_warned_of(toml: Path) -> None:
    config = load_config(toml)
    assert prompt_notes(config, read_prompt_sets(config)) == ()
    with (toml.parent / "heldout.txt").open("a") as file:
        file.write("\na red cat")
    (warning,) = prompt_notes(config, read_prompt_sets(config))
    assert "1 of 4 held-out prompts" in warning


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["--prompts.train", "missing.txt"],
            "prompts.train: cannot read missing.txt: No such file",
        ),
        (["--prompts.per_step", "7"], "prompts.per_step = 7, but"),
        (["--evaluation.prompts", "4"], "evaluation.prompts = 4, but"),
    ],
)
def test_prompts_that_do_not_suffice_are_one_sentence(
    toml: Path, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read_prompt_sets(load_config(toml, overrides))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)

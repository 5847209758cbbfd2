from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from heliostat_trainer.errors import ConfigError
from heliostat_trainer.prompts.sets import prompt_notes, read_prompt_sets
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.load import load_config
from tests.trainer.conftest import PROMPTS

Configure = Callable[..., TrainConfig]
FLUX = ("--model.family", "flux")


def jsonl(folder: Path, sizes: list[object]) -> tuple[str, str]:
    """The setting that names a file with a prompt for each of the sizes; None: without one."""
    lines = [
        {"prompt": prompt} | ({} if size is None else {"resolution": size})
        for prompt, size in zip([*PROMPTS, *PROMPTS], sizes, strict=False)
    ]
    path = folder / "sized.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return ("--prompts.train", str(path))


def test_some_prompts_have_a_size_of_their_own(configure: Configure, tmp_path: Path) -> None:
    config = configure(*FLUX, *jsonl(tmp_path, [[832, 1216], None, 768, "1216x832", None]))
    sets = read_prompt_sets(config)
    assert sets.train == PROMPTS[:5]
    assert sets.sizes == {PROMPTS[0]: (832, 1216), PROMPTS[2]: 768, PROMPTS[3]: (1216, 832)}
    assert prompt_notes(config, sets) == (
        "3 of 5 prompts are trained on at a size of their own, and 0 of 3 held-out ones evaluated, the others "
        "are drawn at 512 px: an image that is trained on has 2.39 times the pixels of that on average, one "
        "that is evaluated 1.00 times, and each NFE takes as much longer or less",
    )


def test_text_files_have_none(configure: Configure) -> None:
    config = configure()
    sets = read_prompt_sets(config)
    assert not sets.sizes
    assert not sets.heldout_sizes
    assert prompt_notes(config, sets) == ()


def test_held_out_prompts_have_sizes_of_their_own_too(configure: Configure, tmp_path: Path) -> None:
    own = ("--prompts.heldout", jsonl(tmp_path, [[832, 1216], None, 768, 1024])[1])
    sets = read_prompt_sets(configure(*FLUX, *own))
    assert not sets.sizes
    assert sets.heldout_sizes == {PROMPTS[0]: (832, 1216), PROMPTS[2]: 768, PROMPTS[3]: 1024}
    (note,) = prompt_notes(configure(*FLUX, *own), sets)[:1]  # evaluated are the first three
    assert "0 of 6 prompts are trained on" in note
    assert "2 of 3 held-out ones evaluated" in note
    assert "one that is evaluated 2.37 times" in note
    # They are not trained on: an objective of trajectories has nothing against them.
    grpo = ("--objective.name", "flow_grpo", "--recipe.name", "diffusionnft")
    assert read_prompt_sets(configure(*FLUX, *own, *grpo)).heldout_sizes == sets.heldout_sizes


def test_a_prompt_that_is_held_out_of_the_training_ones_keeps_its_size(
    toml: Path, tmp_path: Path
) -> None:
    setting = jsonl(tmp_path, [[832, 1216]] * 6)
    toml.write_text(toml.read_text().replace('heldout = "heldout.txt"\n', ""))
    some = ("--prompts.heldout_fraction", "0.5")
    sets = read_prompt_sets(load_config(toml, [*FLUX, *setting, *some]))
    assert sets.sizes == dict.fromkeys(sets.train, (832, 1216))
    assert sets.heldout_sizes == dict.fromkeys(sets.heldout, (832, 1216))
    assert len(sets.heldout) == 3


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ([768, "wide"], "line 2: resolution = 'wide': write the side of a square in pixels, or"),
        ([[1, 2, 3]], "line 1: resolution = [1, 2, 3]: write the side of a square"),
        ([None, None, [830, 1216]], "line 3: flux draws images of 256 to 2048 px in steps of 16, not 830x1216: set resolution to [832, 1216]"),
        ([768] + [None] * 5 + [[768, 1024]], "line 7: the prompt was to be of 768 px before, here of 768x1024"),
    ],
)  # fmt: skip
def test_what_is_no_size_is_named_by_file_and_line(
    configure: Configure, tmp_path: Path, sizes: list[object], sentence: str
) -> None:
    setting = jsonl(tmp_path, sizes + [None] * 2)
    with pytest.raises(ConfigError) as error:
        read_prompt_sets(configure(*FLUX, *setting))
    assert str(error.value).startswith(f"prompts.train: {setting[1]}, {sentence}")


def test_an_objective_of_trajectories_trains_on_images_of_one_size(
    configure: Configure, tmp_path: Path
) -> None:
    grpo = (*FLUX, "--objective.name", "flow_grpo", "--recipe.name", "diffusionnft")
    own = configure(*grpo, *jsonl(tmp_path, [512, None]))
    assert read_prompt_sets(own).sizes == {PROMPTS[0]: 512}
    other = configure(*grpo, *jsonl(tmp_path, [768, None]))
    with pytest.raises(
        ConfigError, match=r"line 1: objective.name = 'flow_grpo' trains on images of one"
    ):
        read_prompt_sets(other)

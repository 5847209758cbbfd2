from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from heliostat_trainer.errors import ConfigError
from heliostat_trainer.prompts.sets import prompt_notes, read_prompt_sets
from heliostat_trainer.settings.config import TrainConfig
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
        "3 of 5 prompts are trained on at a size of their own, the others, and all that are held out, are "
        "drawn at 512 px: an image that is trained on has 2.39 times the pixels of that on average, and an "
        "evaluation of it takes as much longer or less",
    )


def test_text_files_have_none(configure: Configure) -> None:
    config = configure()
    sets = read_prompt_sets(config)
    assert not sets.sizes
    assert prompt_notes(config, sets) == ()


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

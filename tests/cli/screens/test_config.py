"""`heliostat config`: what it says of every setting, and that it says it at once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat_engines.settings.places import section_kinds
from heliostat_engines.settings.reference import look_up
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.recipe import RecipeName, RecipeSection

FIELDS = [
    (section, key, field)
    for section in TrainConfig.model_fields
    for kind in section_kinds(TrainConfig, section)
    for key, field in kind.model_fields.items()
]


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["config", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def words(text: str) -> str:
    return " ".join(text.split())


def test_every_field_of_every_section_is_documented_and_printed() -> None:
    everything = words(printed("--explain"))
    assert len(FIELDS) > 60
    for section, key, field in FIELDS:
        assert field.description, f"{section}.{key} has no documentation"
        assert f"[{section}]" in everything
        assert words(field.description) in everything, f"{section}.{key}"


def test_a_section_or_a_key_is_printed_alone() -> None:
    recipe = printed("--explain", "recipe")
    assert "candidates = 96  integer >= 1" in recipe
    assert (
        'name = "sol_rl"  sol_rl | diffusionnft | heliostat | bf16_explore | naive_scaling | naive_quant'
        in recipe
    )
    assert "[run]" not in recipe
    assert printed("recipe.candidates").count("\n") == 2
    assert "train required  path" in printed("prompts.train")
    assert "betas = [0.9, 0.999]  [number >= 0 and < 1, number >= 0 and < 1]" in printed(
        "optimiser"
    )


def only(place: str) -> str:
    ((setting,),) = [section.settings for section in look_up(TrainConfig, place)]
    return setting.meaning


@pytest.mark.parametrize(
    ("key", "value", "decides"),
    [
        ("explore_steps", 7, "pool_steps"),
        ("score_after", 1, "pool_evaluations"),
        ("explore_ahead", 2, "depth"),
    ],
)
def test_the_recipes_that_use_a_setting_are_those_for_which_it_decides_something(
    key: str, value: int, decides: str
) -> None:
    users = [
        name
        for name in RecipeName
        if getattr(RecipeSection.model_validate({"name": name, key: value}), decides)
        != getattr(RecipeSection(name=name), decides)
    ]
    assert users
    assert only(f"recipe.{key}").endswith(f" Used by {', '.join(users)}.")


def test_recipes_are_named_only_where_not_all_use_it() -> None:
    assert "Used by" not in only("recipe.steps")
    assert only("recipe.tune").endswith(" Used by sol_rl, heliostat.")
    (watch,) = look_up(TrainConfig, "watch")
    assert watch.meaning.endswith("? Used by sol_rl, heliostat, bf16_explore.")
    assert words(watch.meaning) in words(printed("--explain", "watch"))


def test_meanings_are_left_out_unless_asked_for() -> None:
    assert "Seeds explored" in printed("--explain", "recipe.candidates")
    assert "Seeds explored" not in printed("recipe.candidates")


def test_a_key_that_several_objectives_have_is_printed_for_each() -> None:
    assert [section.variant for section in look_up(TrainConfig, "objective.beta")] == [
        "diffusion_nft",
        "diffusion_dpo",
        "dgpo",
    ]


@pytest.mark.parametrize(
    ("place", "nearest"),
    [
        ("recpie", "did you mean recipe?"),
        ("recpie.candidates", "did you mean recipe?"),
        ("recipe.candidate", "did you mean recipe.candidates?"),
        ("objective.pwer", "did you mean objective.power?"),
        ("optimiser.learning_rate", "the nearest is optimiser.lr"),
    ],
)
def test_an_unknown_place_names_the_nearest(place: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as error:
        look_up(TrainConfig, place)
    assert nearest in str(error.value)


def test_it_imports_no_torch() -> None:
    """Its speed rests on this; a timed test would be noise."""
    probe = (
        "import sys, heliostat.cli\n"
        "from typer.testing import CliRunner\n"
        "result = CliRunner().invoke(heliostat.cli.app, ['config', '--explain'])\n"
        "assert result.exit_code == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", probe], check=False, timeout=60).returncode == 0

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from heliostat_engines.settings import Settings
from heliostat_engines.settings.places import section_kinds
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.load import load_config
from heliostat_trainer.settings.objectives import OBJECTIVES, DiffusionNftSettings, Levels
from heliostat_trainer.settings.recipe import RecipeName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic import BaseModel


def test_every_setting_says_what_it_means() -> None:
    sections = [
        field.annotation
        for field in TrainConfig.model_fields.values()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    ]
    undocumented = [
        f"{section.__name__}.{key}"
        for section in (*sections, *OBJECTIVES.values())
        for key, field in section.model_fields.items()
        if not field.description
    ]
    assert len(sections) > 8
    assert not undocumented


def test_the_objective_is_the_one_named_and_diffusion_nft_without_a_name(
    configure: Callable[..., TrainConfig],
) -> None:
    assert configure().objective == DiffusionNftSettings()
    assert configure("--objective.beta", "0.1").objective == DiffusionNftSettings(beta=0.1)
    for name, kind in OBJECTIVES.items():
        config = configure("--objective.name", name, "--recipe.keep_pairs", "4")
        assert config.objective == kind()
        assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_grpo_is_on_policy_unless_told_otherwise(configure: Callable[..., TrainConfig]) -> None:
    assert configure().old_policy.decay_max == 0.5
    grpo = ("--objective.name", "flow_grpo")
    assert configure(*grpo).old_policy.decay_max == 0.0
    assert configure(*grpo, "--old_policy.decay_slope", "0.1").old_policy.decay(9) == 0.0
    assert configure(*grpo, "--old_policy.decay_max", "0.3").old_policy.decay_max == 0.3


def test_every_objective_can_be_trained_on_redrawn_samples(
    configure: Callable[..., TrainConfig],
) -> None:
    needs = frozenset().union(*(kind.needs for kind in OBJECTIVES.values()))
    assert needs <= configure().recipe.gives


def test_our_own_recipe_skips_groups_of_equal_rewards(
    configure: Callable[..., TrainConfig],
) -> None:
    for name in RecipeName:
        expected = 1e-6 if name is RecipeName.HELIOSTAT else 0.0
        assert configure("--recipe.name", name).prompts.min_spread == expected
    chosen = configure("--recipe.name", "heliostat", "--prompts.min_spread", "0")
    assert chosen.prompts.min_spread == 0.0


def test_our_own_recipe_trains_at_high_levels(configure: Callable[..., TrainConfig]) -> None:
    assert configure().objective.levels is Levels.ALL
    own = ("--recipe.name", "heliostat")
    assert configure(*own).objective.levels is Levels.HIGH
    assert configure(*own, "--objective.name", "awm").objective.levels is Levels.HIGH
    assert configure(*own, "--objective.levels", "all").objective.levels is Levels.ALL
    on_trajectories = configure(*own, "--objective.name", "flow_grpo", "--recipe.tune", "false")
    assert on_trajectories.objective.levels is Levels.ALL


def floats(section: str, kind: type[BaseModel]) -> Iterator[str]:
    """section.key of every plain number with a fraction."""
    for key, field in kind.model_fields.items():
        if field.annotation in {float, float | None}:
            yield f"{section}.{key}"


def float_settings() -> Iterator[tuple[tuple[str, ...], str]]:
    """What chooses the objective, and the setting."""
    for section in TrainConfig.model_fields:
        for kind in section_kinds(TrainConfig, section):
            chosen = ()
            if section == "objective":
                chosen = ("--objective.name", str(kind.model_fields["name"].default))
            yield from ((chosen, setting) for setting in floats(section, kind))


MAY_BE_INFINITE = {"optimiser.max_grad_norm"}


ROOM = ("--objective.subset_pairs", "2")


@pytest.mark.parametrize("number", ["inf", "nan", "-inf", "1e300"])
def test_every_number_is_finite(toml: Path, number: str) -> None:
    settings = list(float_settings())
    assert len(settings) > 30
    for chosen, setting in settings:
        if setting in MAY_BE_INFINITE and number == "inf":
            load_config(toml, [f"--{setting}", number])
            continue
        room = ROOM if chosen[1:] == ("dance_grpo",) else ()
        with pytest.raises(ConfigError, match=rf"{setting} = (-?inf|nan|1e\+300): "):
            load_config(toml, [*chosen, *room, f"--{setting}", number])

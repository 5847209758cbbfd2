from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.settings.load import load_config

ROOT = Path(__file__).parents[1]
TOMLS = [
    path
    for path in ROOT.rglob("*.toml")
    if not any(p.startswith(".") for p in path.parts[len(ROOT.parts) :])
]
RUNS = [path for path in TOMLS if path.is_relative_to(ROOT / "examples")]


@pytest.mark.parametrize("path", TOMLS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_toml_parses(path: Path) -> None:
    assert tomllib.loads(path.read_text())


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_every_example_is_a_valid_run(path: Path) -> None:
    config = load_config(path)
    assert config.run.name
    assert read_prompt_sets(config).train


def test_there_are_examples() -> None:
    families = {"sana.toml", "flux.toml", "sd3.toml"}
    assert {path.name for path in RUNS} >= {"demo.toml", "demo_long.toml"} | families


@pytest.mark.parametrize("name", ["sana.toml", "flux.toml", "sd3.toml"])
def test_examples_of_real_models_are_the_published_recipe(name: str) -> None:
    config = load_config(ROOT / "examples" / name)
    recipe = config.recipe
    assert (recipe.candidates, recipe.kept, recipe.explore_steps, recipe.steps) == (96, 24, 6, 10)
    assert (config.prompts.per_step, config.lora.rank, config.lora.alpha) == (48, 32, 64)
    assert config.objective.name == "diffusion_nft"
    assert config.old_policy.decay(10**6) == 0.5

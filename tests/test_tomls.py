from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from heliostat.examples import SERVER
from heliostat_engines.families import get_family
from heliostat_server.rewards.registry import offered_rewards
from heliostat_server.server_toml import load_settings
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.settings.load import load_config

ROOT = Path(__file__).parents[1]
TOMLS = [
    path
    for path in ROOT.rglob("*.toml")
    if not any(p.startswith(".") for p in path.parts[len(ROOT.parts) :])
]
EXAMPLES = ROOT / "examples"
RUNS = [path for path in TOMLS if path.is_relative_to(EXAMPLES) and path.name != SERVER]


@pytest.mark.parametrize("path", TOMLS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_toml_parses(path: Path) -> None:
    assert tomllib.loads(path.read_text())


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_every_example_is_a_valid_run(path: Path) -> None:
    config = load_config(path)
    assert config.run.name
    assert read_prompt_sets(config).train


def test_the_example_of_a_server_is_one() -> None:
    settings = load_settings(EXAMPLES / SERVER)
    assert get_family(settings.family)
    assert set(settings.rewards) <= {entry.name for entry in offered_rewards(settings)}


def test_what_the_servers_example_has_in_comments_is_right_too(tmp_path: Path) -> None:
    text = (EXAMPLES / SERVER).read_text()
    path = tmp_path / SERVER
    path.write_text(re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE))
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    shown, full = tomllib.loads(text), load_settings(path)
    assert len(full.model_fields_set) > len(shown)
    assert full.limits.batch == get_family("flux").explore_batch


def test_there_are_examples() -> None:
    families = {"sana.toml", "flux.toml", "sd3.toml"}
    assert {path.name for path in RUNS} >= {"demo.toml", "demo_long.toml"} | families


@pytest.mark.parametrize("name", ["sana.toml", "flux.toml", "sd3.toml"])
def test_examples_of_real_models_are_the_published_recipe(name: str) -> None:
    config = load_config(EXAMPLES / name)
    recipe = config.recipe
    assert (recipe.candidates, recipe.kept, recipe.explore_steps, recipe.steps) == (96, 24, 6, 10)
    assert (config.prompts.per_step, config.lora.rank, config.lora.alpha) == (48, 32, 64)
    assert config.objective.name == "diffusion_nft"
    assert config.old_policy.decay(10**6) == 0.5

"""The loop in one file trains what the trainer trains."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from heliostat.examples import example
from heliostat.in_process import demo_service
from heliostat_engines.families import get_family
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.export import export_run
from heliostat_trainer.settings.load import load_config
from tests.benchmarks.in_process import train_in_process

if TYPE_CHECKING:
    from types import ModuleType

SMALL = """
run.steps 2, run.device cpu, prompts.per_step 2, recipe.explore_steps 2, recipe.keep_pairs 1, recipe.steps 3,
lora.rank 4, watch.every 0, evaluation.prompts 2, evaluation.seeds_per_prompt 1, evaluation.steps 1,
evaluation.images 0, evaluation.guidances [1.0]
"""


def settings(folder: Path, name: str) -> list[str]:
    """Two steps of two prompts, as the command line has it."""
    pairs = [setting.split() for setting in SMALL.split(",")]
    given = [word for key, value in pairs for word in (f"--{key}", value)]
    return [*given, "--run.folder", str(folder), "--run.name", name]


@pytest.fixture(scope="module")
def minimal_loop() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minimal_loop", example("minimal_loop.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_two_steps_are_those_of_the_trainer(minimal_loop: ModuleType, tmp_path: Path) -> None:
    lora = minimal_loop.main(settings(tmp_path, "minimal"))
    config = load_config(example("demo.toml"), settings(tmp_path, "whole"))
    train_in_process(config)
    exported = export_run(config.run.path, out=tmp_path / "exported").path
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (lora / name).read_bytes() == (exported / name).read_bytes(), name


@pytest.mark.parametrize("name", ["diffusionnft", "naive_quant"])
def test_a_recipe_that_it_does_not_know_is_refused(
    minimal_loop: ModuleType, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match=r"set recipe\.name = sol_rl"):
        minimal_loop.main([*settings(tmp_path, "minimal"), "--recipe.name", name])


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("--recipe.replay=1", r"leave recipe\.replay out"),
        ("--recipe.tune=true", r"recipe\.tune = false"),
        ("--prompts.min_spread=0.1", r"set prompts\.min_spread .* to 0"),
        ("--prompts.by_spread=0.5", r"set .*prompts\.by_spread to 0"),
    ],
)
def test_a_setting_that_it_does_not_know_is_refused(
    minimal_loop: ModuleType, tmp_path: Path, setting: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        minimal_loop.main([*settings(tmp_path, "minimal"), setting])


@pytest.mark.slow
def test_images_are_made_without_rewards() -> None:
    service = demo_service("cpu")
    latents = torch.zeros(2, *get_family("demo").latent_shape(64))
    scores = service.score(latents, ["a cat", "a dog"], (), return_images=True)
    assert scores.rewards.shape == (2, 0)
    assert scores.images is not None
    assert scores.images.shape == (2, 64, 64, 3)

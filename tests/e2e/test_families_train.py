"""Every real family trains a step as its example says: explore, redraw, train, publish.

The models are tiny and of random weights; the server, the wire and the settings are the real ones.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from heliostat_engines.families import get_family
from heliostat_server.launcher.background import background_server
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.settings import LimitSettings, ServeSettings
from heliostat_trainer.evaluation.results import read_evaluations
from heliostat_trainer.folder.metrics import read_metrics
from heliostat_trainer.run import train
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.load import load_config

EXAMPLES = Path(__file__).parents[2] / "examples"
BATCH = 4
SIZES = {
    "run.steps": "1",
    "run.device": "cpu",
    "run.threads": "1",
    "prompts.per_step": "2",
    "recipe.candidates": "8",
    "recipe.keep_pairs": "1",
    "recipe.explore_steps": "1",
    "recipe.steps": "3",
    "reward.name": "colourfulness",
    "reward.heldout": '["jpeg_compressibility"]',
    "lora.rank": "4",
    "evaluation.prompts": "1",
    "evaluation.seeds_per_prompt": "2",
    "evaluation.steps": "2",
}
"""All that is changed of an example, besides the places of things: sizes, and rewards without weights."""


def tiny_run(example: str, family: str, folder: Path) -> TrainConfig:
    """An example's settings at test sizes, on a checkpoint that has a transformer and nothing else."""
    get_family(family).write_tiny_checkpoint(folder / "whole")
    bare = folder / "bare"
    bare.mkdir()
    (bare / "transformer").symlink_to(folder / "whole" / "transformer")
    places = {
        "run.folder": str(folder / "runs"),
        "model.family": family,
        "model.checkpoint": str(bare),
        "model.resolution_px": str(get_family(family).resolutions.smallest_px),
    }
    words = [f"--{key}={value}" for key, value in (SIZES | places).items()]
    return load_config(EXAMPLES / example, words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "family"),
    [
        ("sana.toml", "sana"),
        ("flux.toml", "flux"),
        ("sd3.toml", "sd3.5-large"),
        ("sd3.toml", "sd3.5-medium"),
    ],
)
def test_a_family_trains_a_step_as_its_example_says(
    tmp_path: Path, example: str, family: str
) -> None:
    config = tiny_run(example, family, tmp_path)
    settings = ServeSettings(
        family=family,
        checkpoint=str(tmp_path / "whole"),
        resolution_px=config.model.resolution_px,
        state=tmp_path / "state",
        limits=LimitSettings(batch=BATCH),
        max_rank=config.lora.rank,
        threads=1,
        port=0,
        http_port=0,
    )
    console = Console(file=io.StringIO(), width=200)
    with background_server(settings) as record:
        # The trainer's checkpoint has no text encoder: prompts can only be encoded by the server.
        train(
            config,
            server_url=record.control,
            known_token=StateFolder(settings.state).read_admin_token,
            console=console,
        )
    (line,) = read_metrics(config.run.path / "metrics.jsonl")
    lora = load_file(config.run.path / "lora" / "adapter_model.safetensors")
    ups = [value for key, value in lora.items() if "lora_B" in key]
    assert len(ups) == line["bound_modules"]
    assert all(torch.isfinite(value).all() for value in ups)
    assert sum(bool(value.any()) for value in ups) > 0.8 * len(ups)
    assert line["explored"] == 16
    assert line["reward_std"] > 0
    assert {result.step for result in read_evaluations(config.run.path / "evaluation")} == {0, 1}

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.load import load_config

# What needs torch is imported where it is used: pytest reads this file once more than there are
# processes that test.
if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.trainer.fake_server import FakeServer

PROMPTS = ("a red cat", "a blue dog", "a green bird", "a yellow fish", "two owls", "a small tree")
HELDOUT = ("a purple fox", "a white bear", "three bees")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def write_checkpoint(folder: Path) -> Path:
    """A demo-family transformer of one block with random weights, in diffusers' layout."""
    import torch
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=384,
        caption_projection_dim=32,
        pooled_projection_dim=384,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    for parameter in transformer.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.1)
    transformer.save_pretrained(folder / "transformer")
    return folder


@pytest.fixture
def toml(tmp_path: Path, checkpoint: Path) -> Path:
    """A tiny run's settings."""
    return write_toml(tmp_path, checkpoint)


def write_toml(folder: Path, checkpoint: Path) -> Path:
    """A tiny run's settings and prompts; its run folders lie in `runs` beside them."""
    (folder / "train.txt").write_text("\n".join(PROMPTS))
    (folder / "heldout.txt").write_text("\n".join(HELDOUT))
    path = folder / "run.toml"
    path.write_text(
        f"""
[run]
name = "tiny"
folder = "{folder / "runs"}"
steps = 3
device = "cpu"

[model]
checkpoint = "{checkpoint}"

[prompts]
train = "train.txt"
heldout = "heldout.txt"
per_step = 2

[recipe]
candidates = 8
keep_pairs = 2
explore_steps = 2
steps = 4

[reward]
name = "warmth"
heldout = ["contrast"]

[lora]
rank = 4
alpha = 8

[optimiser]
lr = 1e-2
micro_batch = 8

[evaluation]
every = 0
prompts = 3
seeds_per_prompt = 2
steps = 3
images = 2

[checkpoint]
every = 1
"""
    )
    return path


@pytest.fixture
def configure(toml: Path) -> Callable[..., TrainConfig]:
    """configure("--section.key", "value", ...) -> the tiny run's settings."""
    return lambda *overrides: load_config(toml, overrides)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Callable[[int], Path]:
    """trained(steps) -> the tiny run's folder once it has made so many steps; to read only."""
    from tests.trainer.fake_server import FakeServer
    from tests.trainer.test_loop import run

    @cache
    def train(steps: int) -> Path:
        toml = write_toml(tmp_path_factory.mktemp(f"trained-{steps}"), checkpoint)
        config = load_config(toml, ["--run.steps", str(steps)])
        run(config, FakeServer(checkpoint))
        return config.run.path

    return train


@pytest.fixture
def finished(
    configure: Callable[..., TrainConfig], trained: Callable[[int], Path]
) -> Callable[..., TrainConfig]:
    """finished(steps, "name") -> the settings of a tiny run that has made so many steps.

    Its folder is a copy: whatever needs such a run to begin with has no need to train it.
    """

    def copy(steps: int, name: str = "tiny") -> TrainConfig:
        config = configure("--run.steps", str(steps), "--run.name", name)
        shutil.copytree(trained(steps), config.run.path)
        return config

    return copy


@pytest.fixture
def server(checkpoint: Path) -> FakeServer:
    from tests.trainer.fake_server import FakeServer

    return FakeServer(checkpoint)

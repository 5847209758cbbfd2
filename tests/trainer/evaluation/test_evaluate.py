"""Held-out prompts are drawn a block at a time: as many as fit, and the same results as all at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.torch import load_file

from heliostat_engines.families.demo.family import DemoFamily
from heliostat_engines.families.family import Resolutions
from heliostat_engines.resolution import width_height, written
from heliostat_trainer.evaluation import evaluate
from heliostat_trainer.evaluation.results import read_pictures
from heliostat_trainer.policy.policy import PolicyName
from tests.trainer.conftest import HELDOUT
from tests.trainer.fake_server import FakeServer
from tests.trainer.test_loop import make_trainer, run, same, write_sized

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.resolution import Resolution
    from heliostat_trainer.evaluation.results import Evaluation
    from heliostat_trainer.settings.config import TrainConfig


class CountingServer(FakeServer):
    """Notes how many prompts it is asked to encode at once."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self.encoded: list[int] = []

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        self.encoded.append(len(prompts))
        return super().encode(prompts)


@pytest.mark.slow
def test_blocks_of_prompts_make_the_evaluation_of_all_at_once(
    configure: Callable[..., TrainConfig], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (
        "--run.steps", "1", "--model.sample_batch", "2", "--evaluation.guidances", "[1.0, 2.0]",
    )  # fmt: skip
    kept = {}
    for name, at_once, most in (("whole", 64, 3), ("parts", 1, 2)):
        monkeypatch.setattr(evaluate, "PROMPTS_AT_ONCE", at_once)
        server = CountingServer(checkpoint)
        config = configure(*settings, "--run.name", name)
        run(config, server)
        assert max(server.encoded) == most  # of a step: 2
        folder = config.run.path / "evaluation" / "step-000001"
        results = json.loads((folder / "results.json").read_text())
        kept[name] = (
            [{**each, "seconds": 0} for each in results],
            load_file(folder / "images.safetensors"),
        )
    assert kept["parts"][0] == kept["whole"][0]
    assert same(kept["parts"][1], kept["whole"][1])
    assert [len(images) for images in kept["parts"][1].values()] == [2, 2]  # evaluation.images


def test_each_prompt_is_evaluated_at_its_own_size_as_if_all_had_it(
    configure: Callable[..., TrainConfig],
    server: FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DemoFamily, "resolutions", Resolutions(32, 64, 8))
    sizes: tuple[Resolution, ...] = ((48, 64), 64, (64, 32))
    server.sizes = (64, (48, 64), (64, 32))

    def evaluated(name: str, *settings: str) -> tuple[Evaluation, Sequence[NDArray[np.uint8]]]:
        config = configure("--run.name", name, "--evaluation.images", "3", *settings)
        evaluator = make_trainer(config, server).parts.evaluator
        (result,) = evaluator.run(0, PolicyName.BASE, (1.0,))
        assert evaluator.is_done(0, (1.0,))
        return result, read_pictures(evaluator.path(0), result)

    own = write_sized(tmp_path, {HELDOUT[0]: (48, 64), HELDOUT[1]: None, HELDOUT[2]: (64, 32)})
    mixed, pictures = evaluated("mixed", "--prompts.heldout", own)
    assert mixed.sizes == sizes
    for row, size in enumerate(sizes):
        alike, theirs = evaluated(f"all-{row}", "--model.resolution_px", written(size))
        assert alike.sizes == ()
        width, height = width_height(size)
        assert pictures[row].shape == theirs[row].shape == (2, height // 8, width // 8, 3)
        # In a batch of other rows BF16 rounds otherwise.
        assert np.abs(pictures[row].astype(int) - theirs[row]).mean() < 2
        for name, rewards in mixed.rewards.items():
            assert rewards[row] == pytest.approx(alike.rewards[name][row], abs=0.01)

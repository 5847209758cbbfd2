"""Held-out prompts are drawn a block at a time: as many as fit, and the same results as all at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

from heliostat_trainer.evaluation import evaluate
from tests.trainer.fake_server import FakeServer
from tests.trainer.test_loop import run, same

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from heliostat_engines.conditioning import Conditioning
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

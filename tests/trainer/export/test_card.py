from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import ModelCard

from heliostat_trainer.evaluation.results import read_evaluations
from heliostat_trainer.export import Format, export_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_trainer.settings.config import TrainConfig


@pytest.fixture
def run(finished: Callable[..., TrainConfig]) -> Path:
    return finished(1).run.path


def test_a_finished_runs_card_states_recipe_rewards_and_evaluation(run: Path) -> None:
    card = ModelCard.load(run / "lora" / "README.md")
    assert card.data.library_name == "diffusers"
    assert "lora" in card.data.tags
    assert card.data.base_model is None  # a local folder is nobody else's business
    _, trained = read_evaluations(run / "evaluation")
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results["warmth"] == pytest.approx(trained.means["warmth"].mean, abs=1e-5)
    assert "| warmth (trained on) | " in card.text
    assert f"{trained.means['contrast'].mean:.4f}" in card.text
    assert "| Recipe | sol_rl |" in card.text
    assert "| `objective.advantage_clip` | 5.0 |" in card.text
    assert "2 best and 2 worst" in card.text
    assert "no trigger" in card.text
    assert str(run.parent) not in card.content


def test_every_format_says_how_it_is_used(run: Path) -> None:
    texts = {kind: _card(run, kind) for kind in Format}
    assert "load_lora_adapter(" in texts[Format.DIFFUSERS]
    assert "`tiny.safetensors` into ComfyUI's `models/loras`" in texts[Format.COMFYUI]
    assert 'from_pretrained("path/to/this/folder", subfolder="transformer")' in texts[Format.FUSED]


def _card(run: Path, kind: Format) -> str:
    path = export_run(run, kind).path
    folder = path.parent if kind is Format.COMFYUI else path
    return (folder / "README.md").read_text()

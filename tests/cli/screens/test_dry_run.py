"""`heliostat train --dry-run`: the plan on paper, without a server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat_engines.errors import HeliostatError
from heliostat_trainer.errors import RunFolderError
from heliostat_trainer.forecast.pace import measured_pace
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.load import load_config

DEMO = Path(__file__).parents[3] / "examples" / "demo.toml"
SOL_RL = ["--recipe.name", "sol_rl"]
"""A shape that is counted by hand."""


def planned(runs: Path, *overrides: str) -> str:
    words = ["train", str(DEMO), "--dry-run", "--run.folder", str(runs), *overrides]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def row(text: str, name: str) -> list[str]:
    """Numbers of the last table's row of that name."""
    return re.findall(rf"^ *{name} +(.*?) *$", text, re.MULTILINE)[-1].split()


def leave_a_run(config: TrainConfig) -> None:
    config.run.path.mkdir(parents=True)
    run = {"config": config.model_dump(mode="json"), "server": {}}
    (config.run.path / "run.json").write_text(json.dumps(run))
    lines = [{"step": step, "elapsed_s": 12.0 * step} for step in (1, 2, 3, 4)]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (config.run.path / "metrics.jsonl").write_text(text)


def test_the_plan_is_printed_and_nothing_is_written(tmp_path: Path) -> None:
    text = planned(tmp_path / "runs", "--run.steps", "10", *SOL_RL)
    assert "sol_rl, diffusion_nft, 10 steps, unless run.minutes = 8 ends it first" in text
    assert "24, of which 4 are trained on" in text
    assert "128 samples at a noise level, each evaluated by: trained, old" in text
    assert row(text, "explore") == ["1,920", "7,680", "0", "0", "3,200", "5,774"]
    assert row(text, "draw") == ["320", "0", "3,200", "0", "3,200", "3,200"]
    # 10 steps of 128 rows, each by two policies; in the first one the old policy is the trained one.
    assert row(text, "train") == ["0", "0", "2,432", "1,280", "4,992", "4,992"]
    assert row(text, "evaluate") == ["512", "0", "15,360", "0", "15,360", "15,360"]
    assert "the first step tells" in text
    assert "The trainer's memory, and a server's" in text
    for part in ("transformer", "or redrawing", "LoRA slots", "rewards", "all on one card"):
        assert part in text
    assert not (tmp_path / "runs").exists()


def test_several_ranks_share_the_work_and_a_sharded_transformer(tmp_path: Path) -> None:
    text = planned(tmp_path / "runs", "--ranks", "4", "--model.shard", "true")
    assert "4, each of which evaluates 1/4 of the NFEs in BF16" in text
    assert "A rank's memory, and a server's" in text
    refused = CliRunner().invoke(app, ["train", str(DEMO), "--ranks", "4"])
    assert refused.exit_code == 2


def test_the_time_is_that_of_the_run_if_it_has_begun(tmp_path: Path) -> None:
    words = ["--run.folder", str(tmp_path), "--run.steps", "100", "--run.minutes", "60"]
    config = load_config(DEMO, words)
    assert measured_pace(config) is None
    leave_a_run(config)
    pace = measured_pace(config)
    assert pace is not None
    assert (pace.step_s, pace.change) == (12.0, None)
    assert pace.outlook.remaining_s == 96 * 12
    assert "12.00 s a step, measured over 4 of" in " ".join(planned(tmp_path, *words[2:]).split())


def test_a_pace_with_other_settings_is_not_taken(tmp_path: Path) -> None:
    folder = ["--run.folder", str(tmp_path)]
    leave_a_run(load_config(DEMO, folder))
    text = planned(tmp_path, "--recipe.candidates", "48")
    assert "the first step tells" in text
    assert "recipe.candidates was 24 and is now 48" in " ".join(text.split())


def test_a_run_folder_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    config = load_config(DEMO, ["--run.folder", str(tmp_path)])
    leave_a_run(config)
    (config.run.path / "run.json").unlink()
    with pytest.raises(RunFolderError, match="cannot read"):
        measured_pace(config)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["--model.family", "fluxx"], "did you mean 'flux'?"),
        (["--model.resolution_px", "100"], "set resolution_px ="),
        (["--prompts.train", "/nowhere.txt"], "prompts.train: cannot read /nowhere.txt"),
        (["--prompts.per_step", "100000"], "prompts.per_step = 100000, but"),
        (["--recipe.keep_pairs", "99"], "lower recipe.keep_pairs"),
    ],
)
def test_what_a_run_would_be_refused_for_is_found(overrides: list[str], sentence: str) -> None:
    with pytest.raises(HeliostatError) as error:
        CliRunner().invoke(
            app, ["train", str(DEMO), "--dry-run", *overrides], catch_exceptions=False
        )
    assert sentence in str(error.value)


def test_warnings_are_shown(tmp_path: Path) -> None:
    prompts = str(DEMO.parent / "prompts" / "hard_heldout.txt")
    text = planned(tmp_path, "--prompts.train", prompts)
    assert "held-out prompts are also trained on" in text

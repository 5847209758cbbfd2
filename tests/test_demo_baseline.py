"""The recorded baseline of the demo's report: how it is made, and when it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heliostat.demo.baseline import NAME, beside_baseline
from heliostat.examples import FOLDERS
from heliostat_trainer.compare.beside import RECORDING
from heliostat_trainer.errors import RunFolderError
from heliostat_trainer.folder.run_file import read_settings
from heliostat_trainer.record import read_run
from heliostat_trainer.report import write_report
from heliostat_trainer.settings.compare import flatten, kept_config
from heliostat_trainer.settings.load import load_config
from tests.benchmarks.demo_baseline import BASELINE, FOLLOWING, PATHS, configured, record_run
from tests.trainer.compare.runs import DEMO, SERVER, leave_run
from tests.trainer.compare.test_beside import LINES, PLAIN

SHIPPED = FOLDERS[1] / NAME
LARGEST_BYTES = 100_000


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of examples with a recorded baseline of its own."""
    run = leave_run(tmp_path / "runs" / "demo-baseline", {20: 1 / 7}, *PLAIN, lines=LINES)
    record_run(run, tmp_path / "examples" / NAME)
    monkeypatch.setattr("heliostat.examples.FOLDERS", (tmp_path / "examples",))
    return tmp_path / "examples"


def test_the_baseline_is_the_published_one_in_the_demos_minutes(tmp_path: Path) -> None:
    own, demo = flatten(configured(tmp_path)), flatten(load_config(DEMO))
    changed = {key for key, value in own.items() if value != demo[key]}
    assert changed == {*BASELINE, *FOLLOWING, "run.folder"}
    recipe = configured(tmp_path).recipe
    assert (recipe.kept, recipe.pool) == (24, 24)


def test_a_record_holds_what_compares_and_nothing_of_this_machine(
    examples: Path, tmp_path: Path
) -> None:
    files = {str(path.relative_to(examples / NAME)) for path in examples.rglob("*.json*")}
    assert files == {
        "run.json",
        RECORDING,
        "metrics.jsonl",
        "evaluation/step-000000/results.json",
        "evaluation/step-000020/results.json",
    }
    text = "".join((examples / NAME / name).read_text() for name in files)
    assert str(tmp_path) not in text
    assert str(DEMO.parent) not in text
    assert "0.24286," in text  # 0.1 + 1/7
    record = read_run(examples / NAME)
    assert (record.problems, record.server) == ((), SERVER)
    recording = json.loads((examples / NAME / RECORDING).read_text())
    assert recording["command"] == "python -m tests.benchmarks.demo_baseline"
    assert " cores" in recording["machine"]


def test_a_run_that_has_not_finished_is_not_recorded(tmp_path: Path) -> None:
    run = leave_run(tmp_path / "run", {20: 0.2})
    (run / "evaluation" / "step-000020" / "results.json").unlink()
    with pytest.raises(RunFolderError, match="has not finished"):
        record_run(run, tmp_path / NAME)
    assert not (tmp_path / NAME).exists()


def test_the_demos_report_is_beside_the_baseline(examples: Path, tmp_path: Path) -> None:
    run = leave_run(tmp_path / "demo", {20: 0.4}, lines=LINES)
    said: list[str] = []
    beside = beside_baseline(run, said.append)
    assert said == []
    assert "<h2>Beside baseline</h2>" in write_report(run, beside=beside).read_text()


def test_a_baseline_that_does_not_compare_is_left_out_and_said(
    examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {
        "other denoising steps": leave_run(tmp_path / "a", {20: 0.4}, denoising_steps=40),
        "other weights": leave_run(
            tmp_path / "b", {20: 1}, server=SERVER | {"weights_digest": "x"}
        ),
        "another model": leave_run(tmp_path / "c", {20: 0.4}, "--model.family", "flux"),
    }
    said: list[str] = []
    for reason, run in runs.items():
        assert beside_baseline(run, said.append) is None
        assert said[-1].startswith("The report is without the recorded baseline: baseline ")
        assert reason in said[-1]
    monkeypatch.setattr("heliostat.examples.FOLDERS", (tmp_path / "nothing",))
    assert beside_baseline(runs["other weights"], said.append) is None
    assert len(said) == len(runs)  # where none is recorded there is nothing to say


def test_the_shipped_record_is_of_the_demo_as_it_is_now() -> None:
    own = flatten(kept_config(read_settings(SHIPPED)))
    demo = flatten(load_config(DEMO))
    changed = {key for key, value in own.items() if value != demo[key]}
    assert changed <= {*BASELINE, *FOLLOWING, *PATHS, "run.folder"}
    assert {key: own[key] for key in BASELINE if key.startswith("recipe.")} == {
        key: value for key, value in BASELINE.items() if key.startswith("recipe.")
    }
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.json*")) < LARGEST_BYTES

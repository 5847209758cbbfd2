"""A run folder has one process, and what others keep in it or beside it stays."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from heliostat_engines.errors import FilesError, FolderBusyError
from heliostat_trainer.errors import RunFolderError
from heliostat_trainer.evaluation.results import read_evaluations
from heliostat_trainer.folder.layout import RunEntry, RunFolder
from heliostat_trainer.report import write_report
from heliostat_trainer.run import working_in_run
from tests.trainer.test_loop import make_trainer, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from heliostat_trainer.folder.checkpoint import Checkpoints
    from heliostat_trainer.settings.config import TrainConfig
    from tests.trainer.fake_server import FakeServer

    Configure = Callable[..., TrainConfig]


def working_in(config: TrainConfig, *, resume: bool = False) -> AbstractContextManager[Checkpoints]:
    return working_in_run(config, pytest.fail, resume=resume)


def test_a_run_has_one_process(configure: Configure, finished: Configure) -> None:
    config = configure()
    who = rf"tiny is in use by process {os.getpid()} on .*`heliostat train`.*set another run.name"
    with (
        working_in(config),
        pytest.raises(FolderBusyError, match=who),
        working_in(config),
    ):
        pass
    config = finished(3)
    with working_in(config, resume=True):
        for resume in (False, True):
            with pytest.raises(FolderBusyError, match=who), working_in(config, resume=resume):
                pass
    with pytest.raises(RunFolderError, match="continue it with --resume"), working_in(config):
        pass


def test_a_mistyped_name_makes_no_folder(configure: Configure) -> None:
    config = configure("--run.name", "mistyped")
    with pytest.raises(RunFolderError, match="no checkpoint"), working_in(config, resume=True):
        pass
    assert not config.run.path.exists()


@pytest.mark.parametrize("entry", RunEntry)
def test_a_folder_with_others_files_of_our_names_is_no_run(
    configure: Configure, entry: RunEntry
) -> None:
    config = configure()
    file = config.run.path / (f"{entry}file" if entry.endswith("/") else entry)
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(FilesError, match=r"set another run\.name"), working_in(config):
        pass
    assert file.read_text() == "{}"
    assert [path.name for path in config.run.path.iterdir()] == [entry.rstrip("/")]


def test_what_others_keep_beside_a_run_is_left(configure: Configure, server: FakeServer) -> None:
    config = configure("--run.steps", "1")
    for name in ("run.toml", "evaluation.bak/step-9/notes", "checkpoints.txt"):
        (config.run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (config.run.path / name).write_text(name)
    with working_in(config):
        run(config, server)
    evaluations = config.run.path / "evaluation"
    shutil.copytree(evaluations / "step-000001", evaluations / "step-9")
    shutil.copytree(evaluations / "step-000001", evaluations / "step-000001.bak")
    longer = configure("--run.steps", "2")
    with working_in(longer, resume=True):
        run(longer, server, resume=True)
    assert (evaluations / "step-9" / "results.json").exists()
    assert (evaluations / "step-000001.bak" / "results.json").exists()
    steps = {evaluation.step for evaluation in read_evaluations(evaluations)}
    assert steps == {0, *(int(path.name[5:]) for path in evaluations.glob("step-??????"))}
    for name in ("run.toml", "evaluation.bak/step-9/notes", "checkpoints.txt"):
        assert (config.run.path / name).read_text() == name


def test_an_evaluation_that_holds_notes_stops_the_start(
    finished: Configure, server: FakeServer
) -> None:
    config = finished(3)
    notes = config.run.path / "evaluation" / "step-000003" / "notes"
    notes.write_text("x")
    shutil.rmtree(config.run.path / "checkpoints")
    with pytest.raises(FilesError, match=r"step-000003 holds notes, .*: move it out"):
        make_trainer(config, server)
    assert notes.read_text() == "x"


def test_a_run_that_never_began_leaves_no_folder(configure: Configure) -> None:
    config = configure()
    with working_in(config):
        assert config.run.path.exists()
    assert not config.run.path.exists()
    config.run.path.mkdir(parents=True)
    (config.run.path / "notes.txt").write_text("mine")
    with working_in(config):
        pass
    assert (config.run.path / "notes.txt").read_text() == "mine"


def test_all_that_a_run_leaves_is_on_the_map(configure: Configure, finished: Configure) -> None:
    config = finished(2)
    with working_in(config, resume=True):
        write_report(config.run.path)
    files = RunFolder(config.run.path)
    left = {path.name for path in files.path.iterdir()} - {".made-by-heliostat", "lock"}
    assert left == {
        "run.json", "metrics.jsonl", "checkpoints", "evaluation", "lora", "showcase", "report.html",
    }  # fmt: skip
    assert {path.name for path in files.checkpoints.iterdir()} == {"step-000001", "step-000002"}
    for path in (files.run_file, files.metrics, files.evaluations, files.lora, files.showcase):
        assert path.exists()
    assert files.report.exists()

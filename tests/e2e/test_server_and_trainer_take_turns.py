"""One command, one device: a run with a server of its own is the run with a separate one, to the bit."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from rich.console import Console

from heliostat.credentials import PATH_ENVIRONMENT
from heliostat.own_server import run_settings, running_server
from heliostat_engines.progress import Stages
from heliostat_server.processes.state_folder import ServerRecord, StateFolder
from heliostat_trainer.folder.layout import RunFolder
from heliostat_trainer.folder.metrics import read_metrics
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.run import train
from heliostat_trainer.settings.load import load_config
from tests.e2e.training import Address, Run, assert_same, wait_for, write_toml

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

OPTIONS = ("--run.steps", "2", "--recipe.explore_ahead", "0", "--run.threads", "1")
START_S = 500
MEGABYTES = {"explore": 8, "text_encoder": 50}
"""That models of the demo's family hold at least, in float32 or BF16; the decoder's two are too few to be told."""


@pytest.fixture(autouse=True)
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the user's own."""
    monkeypatch.setenv(PATH_ENVIRONMENT, str(tmp_path / "credentials.json"))


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory, demo_checkpoint: Path) -> Path:
    return write_toml(tmp_path_factory.mktemp("turns"), demo_checkpoint)


def served(toml: Path, name: str, *options: str) -> subprocess.Popen[str]:
    """`heliostat train --serve` in a process of its own."""
    command = [sys.executable, "-m", "heliostat.cli", "train", str(toml), "--serve"]
    return subprocess.Popen(
        [*command, "--run.name", name, *OPTIONS, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def parts(record: ServerRecord) -> list[psutil.Process]:
    """The processes of a server."""
    launcher = psutil.Process(record.launcher.pid)
    return [launcher, *launcher.children(recursive=True)]


def test_a_killed_run_with_its_own_server_leaves_none_and_resumes_to_the_lora_of_a_separate_one(
    toml: Path, tmp_path: Path
) -> None:
    run = Run(toml, Address("", ""), "turns")
    state = StateFolder(RunFolder(run.folder).server)
    trainer = served(toml, "turns")
    wait_for(lambda: run.saved(1) or trainer.poll() is not None, START_S)
    assert trainer.poll() is None, trainer.communicate()[0]
    record = state.read_record()
    assert record is not None
    processes = parts(record)
    assert len(processes) >= 6  # launcher, store, Triton, three models
    trainer.kill()
    trainer.wait()
    wait_for(lambda: not any(process.is_running() for process in processes))

    said, _ = served(toml, "turns", "--resume").communicate()

    assert "LoRA and metrics are in" in said
    assert re.search(r"taking turns on one device: the server gives [\d.]+ MB back in", said)
    assert [line["step"] for line in read_metrics(run.folder / "metrics.jsonl")] == [1, 2]
    log = state.triton_log.read_text()
    for model, least in MEGABYTES.items():
        given = [
            int(number) for number in re.findall(rf"asleep .*megabytes=(\d+) model={model}", log)
        ]
        assert max(given) >= least, (model, given)

    config = load_config(toml, [*OPTIONS, "--run.name", "apart"])
    settings = run_settings(config, read_prompt_sets(config)).model_copy(
        update={"sleep": False, "state": tmp_path / "server"}
    )
    with running_server(settings, Stages()) as server:
        console = Console(file=io.StringIO())
        train(config, server_url=server.url, known_token=lambda: server.token, console=console)
    assert_same(run.lora(), Run(toml, Address("", ""), "apart").lora())


def test_a_server_that_cannot_start_is_one_sentence(toml: Path) -> None:
    said, _ = served(toml, "nowhere", "--model.checkpoint", "/nowhere/at/all").communicate()
    assert "Traceback" not in said
    assert "/nowhere/at/all" in said.splitlines()[-1]

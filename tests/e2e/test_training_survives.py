"""Whoever is killed, the run ends with the very LoRA of the uninterrupted one."""

from __future__ import annotations

import shutil
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

from heliostat_engines.errors import HeliostatError
from heliostat_server.settings import LimitSettings, ServeSettings
from heliostat_trainer.evaluation.results import read_evaluations
from heliostat_trainer.folder.metrics import read_metrics
from tests.e2e.conftest import BATCH, ServerHarness
from tests.e2e.training import Address, Run, assert_same, wait_for, write_toml

if TYPE_CHECKING:
    from pathlib import Path

    import torch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory, demo_checkpoint: Path) -> Path:
    return write_toml(tmp_path_factory.mktemp("training"), demo_checkpoint)


@pytest.fixture(scope="module")
def whole(toml: Path, server: ServerHarness) -> dict[str, torch.Tensor]:
    """The LoRA of a run that nothing befalls."""
    run = Run(toml, server, "whole")
    run.complete()
    lines = list(read_metrics(run.folder / "metrics.jsonl"))
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["adapter_version"] for line in lines] == [1, 1, 2]  # explored a step ahead
    assert all(line["bound_modules"] == 31 for line in lines)
    assert [each.policy for each in read_evaluations(run.folder / "evaluation")] == ["base", "ema"]
    assert any(value.any() for key, value in run.lora().items() if "lora_B" in key)
    return run.lora()


def test_the_trainer_killed_in_a_step_resumes_identically(
    toml: Path, server: ServerHarness, whole: dict[str, torch.Tensor]
) -> None:
    run = Run(toml, server, "killed")
    process = run.start()
    wait_for(lambda: run.saved(1))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not run.saved(3)
    run.complete(resume=True)
    assert_same(run.lora(), whole)
    steps = [line["step"] for line in read_metrics(run.folder / "metrics.jsonl")]
    assert steps == [1, 2, 3]


def test_a_run_killed_after_it_tuned_itself_goes_by_what_it_decided(
    toml: Path, server: ServerHarness
) -> None:
    many = ("--recipe.candidates", "24", "--recipe.keep_pairs", "6")  # far from the best here
    settings = (*many, "--recipe.tune", "true", "--run.steps", "8", "--checkpoint.every", "99")
    run = Run(toml, server, "tuned", *settings)
    process = run.start()
    wait_for(lambda: run.saved(4))  # which only the decision after that step brings about
    process.send_signal(signal.SIGKILL)
    process.wait()
    twin = Run(toml, server, "twin", *settings)
    shutil.copytree(run.folder, twin.folder)
    for each in (run, twin):
        each.complete(resume=True)
    assert_same(run.lora(), twin.lora())
    lines, others = (list(read_metrics(each.folder / "metrics.jsonl")) for each in (run, twin))
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [bool(line["tuned"]) for line in lines] == [step == 4 for step in range(1, 9)]
    for key in ("tuned", "explored", "prompts", "keep_pairs", "score_after", "reward_mean"):
        assert [line[key] for line in lines] == [line[key] for line in others]
    assert {line["keep_pairs"] for line in lines[6:]} != {6}


def test_ctrl_c_saves_and_says_how_to_go_on(
    toml: Path, server: ServerHarness, whole: dict[str, torch.Tensor]
) -> None:
    run = Run(toml, server, "interrupted", "--checkpoint.every", "100")
    process = run.start()
    assert process.stdout is not None
    while not process.stdout.readline().startswith("step 1 of 3"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "is saved in" in output.splitlines()[-1]
    assert "continue with --resume" in output.splitlines()[-1]
    run.complete(resume=True)
    assert_same(run.lora(), whole)


@pytest.mark.parametrize("victim", ["triton", "explore"])
def test_a_server_process_killed_in_a_step_does_not_change_the_result(
    toml: Path, whole: dict[str, torch.Tensor], server: ServerHarness, victim: str
) -> None:
    run = Run(toml, server, f"outlives-{victim}")
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(run.complete)
        wait_for(lambda: run.saved(1))
        server.kill(victim)
        training.result()
    assert_same(run.lora(), whole)


def test_a_whole_server_killed_and_started_anew_without_its_state(
    toml: Path, whole: dict[str, torch.Tensor], demo_checkpoint: Path, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    admin = tmp_path / "admin"
    admin.write_text("the one who starts both servers")

    def server(state: str) -> ServerHarness:
        return ServerHarness(
            ServeSettings(
                checkpoint=str(demo_checkpoint),
                state=tmp_path / state,
                limits=LimitSettings(batch=BATCH),
                max_rank=8,
                threads=1,
                port=port,
                http_port=0,
                admin_token_file=admin,
            )
        )

    first, second = server("first"), server("second")
    first.start()
    run = Run(toml, Address(f"127.0.0.1:{port}", admin.read_text()), "outlives-server")
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(run.complete)
        try:
            wait_for(lambda: run.saved(1))
            first.stop()
            second.start()
            assert "server.patience_s" in training.result()
        finally:
            second.stop()
    assert_same(run.lora(), whole)


def test_the_baseline_is_one_setting_away(toml: Path, server: ServerHarness) -> None:
    run = Run(toml, server, "baseline", "--recipe.name", "diffusionnft", "--run.steps", "1")
    run.complete()
    (line,) = read_metrics(run.folder / "metrics.jsonl")
    assert (line["explored"], line["adapter_version"]) == (8, 0)
    assert load_file(run.folder / "lora" / "pytorch_lora_weights.safetensors")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["--recipe.candidates", "18"], "in multiples of 4 (its --batch)"),
        (["--reward.name", "colorfulness"], "did you mean 'colourfulness'?"),
        (["--lora.rank", "9"], "the server takes up to 8"),
        (["--recipe.explore_steps", "201"], "up to 200 steps"),
        (["--run.name", "whole"], "continue it with --resume"),
        (["--server.url", "http://127.0.0.1:8000"], "grpc://host:port"),
    ],
)
def test_bad_settings_are_one_sentence(
    toml: Path, server: ServerHarness, whole: object, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(HeliostatError) as error:
        Run(toml, server, "bad", *overrides).complete()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_no_server_is_one_sentence(toml: Path) -> None:
    run = Run(toml, Address("127.0.0.1:9", "secret"), "nobody", "--server.patience_s", "0.5")
    with pytest.raises(HeliostatError, match="start it with `heliostat serve`"):
        run.complete()
    assert not run.folder.exists()

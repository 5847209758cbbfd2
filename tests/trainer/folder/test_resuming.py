"""What a resumed run keeps, what it compares, and what it refuses."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from heliostat_trainer.display.progress import LineProgress
from heliostat_trainer.errors import ConfigError, PatienceEndedError, RunFolderError
from heliostat_trainer.evaluation.results import read_evaluations
from heliostat_trainer.export import export_run
from heliostat_trainer.folder.metrics import read_metrics
from heliostat_trainer.forecast.pace import measured_pace
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.record import read_run
from heliostat_trainer.report import write_report
from heliostat_trainer.run import build_trainer, open_run, run_trainer
from heliostat_trainer.settings.load import load_config
from tests.trainer.fake_server import REWARDS, FakeServer
from tests.trainer.test_loop import lora_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_trainer.loop import Trainer
    from heliostat_trainer.settings.config import TrainConfig

COSINE = ("--optimiser.lr_schedule", "cosine")


def begin(
    config: TrainConfig, server: FakeServer, *, resume: bool = False
) -> tuple[Trainer, io.StringIO]:
    """A trainer, and what it says."""
    said = io.StringIO()
    progress = LineProgress(Console(file=said, width=10_000))
    checkpoints = open_run(config, resume=resume)
    return build_trainer(
        config, read_prompt_sets(config), server, checkpoints, progress, Interrupts(), resume=resume
    ), said


def run(config: TrainConfig, server: FakeServer, *, resume: bool = False) -> str:
    """A whole run; returns what it said."""
    trainer, said = begin(config, server, resume=resume)
    run_trainer(config, trainer)
    return said.getvalue()


def newest(config: TrainConfig) -> dict[str, torch.Tensor]:
    """The moving average of the newest checkpoint."""
    (step,) = sorted((config.run.path / "checkpoints").iterdir())[-1:]
    tensors = load_file(step / "tensors.safetensors")
    return {key: value for key, value in tensors.items() if key.startswith("ema/")}


def rates(config: TrainConfig) -> list[float]:
    return [float(str(line["lr"])) for line in read_metrics(config.run.path / "metrics.jsonl")]


@pytest.mark.parametrize(
    "other",
    [
        ("--evaluation.prompts", "2"),
        ("--evaluation.seed", "7"),
        ("--evaluation.seeds_per_prompt", "3"),
        ("--evaluation.steps", "5"),
        ("--evaluation.guidances", "[3.0]"),
    ],
)
@pytest.mark.slow
def test_the_base_is_evaluated_anew_where_evaluation_changes(
    configure: Callable[..., TrainConfig],
    finished: Callable[..., TrainConfig],
    server: FakeServer,
    other: tuple[str, str],
) -> None:
    finished(1)
    # Any difference between unlike images would alarm.
    guards = [w for name in ("brightness", "edge_density") for w in (f"--guards.{name}", "0.0")]
    config = configure("--run.steps", "2", "--optimiser.lr", "1e-2", *guards, *other)
    said = run(config, server, resume=True)
    assert "the base model has not been evaluated with these settings" in said
    evaluations = read_evaluations(config.run.path / "evaluation")
    assert [(each.step, str(each.policy)) for each in evaluations] == [
        (0, "base"), (1, "ema"), (2, "ema"),
    ]  # fmt: skip
    base, old, new = evaluations
    assert base.conditions == new.conditions != old.conditions
    record = read_run(config.run.path)
    assert record.progress == (base, new)
    assert {alarm.step for alarm in record.alarms} <= {2}
    page = write_report(config.run.path).read_text()
    assert "1 evaluation was made with other [evaluation]" in page
    card = (config.run.path / "lora" / "README.md").read_text()
    assert f"{new.means['warmth'].mean:.4f}" in card
    lora = lora_of(config)
    assert len(lora) == len(newest(config))
    assert all(any(torch.equal(a, b) for b in lora.values()) for a in newest(config).values())


def test_a_finished_run_can_be_evaluated_otherwise_without_training(
    configure: Callable[..., TrainConfig],
    finished: Callable[..., TrainConfig],
    server: FakeServer,
    checkpoint: Path,
) -> None:
    same = finished(1)
    lora = lora_of(same)
    run(same, server, resume=True)
    assert server.scored == 2 * 8  # the showcase alone
    config = configure("--run.steps", "1", "--evaluation.guidances", "[1.0, 3.0]")
    run(config, FakeServer(checkpoint), resume=True)
    record = read_run(config.run.path)
    assert [e.guidance for e in record.base] == [e.guidance for e in record.trained] == [1.0, 3.0]
    assert record.unpaired == 0
    assert all(torch.equal(lora[key], value) for key, value in lora_of(config).items())


def test_a_damaged_run_file_is_written_anew(
    configure: Callable[..., TrainConfig], server: FakeServer, checkpoint: Path
) -> None:
    run(configure("--run.steps", "1"), server)
    file = configure().run.path / "run.json"
    whole = json.loads(file.read_text())
    for damage in (lambda: file.write_text("{"), file.unlink):
        damage()
        run(configure("--run.steps", "1"), FakeServer(checkpoint), resume=True)
        assert json.loads(file.read_text())["config"] == whole["config"]


def test_an_evaluation_that_cannot_be_read_is_made_anew(
    configure: Callable[..., TrainConfig],
    finished: Callable[..., TrainConfig],
    server: FakeServer,
) -> None:
    results = finished(1).run.path / "evaluation" / "step-000000" / "results.json"
    whole = results.read_text()
    results.write_text(whole[:100])
    run(configure("--run.steps", "2"), server, resume=True)

    def timeless(text: str) -> list[dict[str, object]]:
        return [{**each, "seconds": 0} for each in json.loads(text)]

    assert timeless(results.read_text()) == timeless(whole)


def test_the_best_is_chosen_among_evaluations_made_alike(
    configure: Callable[..., TrainConfig],
    server: FakeServer,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        warmth = REWARDS["warmth"]
        patch.setitem(REWARDS, "warmth", lambda latents: warmth(latents) + 10)
        run(configure("--run.steps", "1"), server)
    config = configure("--run.steps", "2", "--evaluation.seed", "7")
    run(config, FakeServer(checkpoint), resume=True)
    trainer, _ = begin(config, FakeServer(checkpoint), resume=True)
    assert trainer.state.best_step == 2
    assert trainer.state.best_reward is not None
    assert trainer.state.best_reward < 5
    assert export_run(config.run.path, step="best").step == 2


def test_the_lora_is_written_whatever_happens_to_the_evaluation(
    configure: Callable[..., TrainConfig], server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure("--run.steps", "2")
    trainer, _ = begin(config, server)
    evaluate = trainer.parts.evaluator.run

    def gone_at_the_end(step, *arguments):  # type: ignore[no-untyped-def]
        if step:
            raise PatienceEndedError("gone")
        return evaluate(step, *arguments)

    monkeypatch.setattr(trainer.parts.evaluator, "run", gone_at_the_end)
    with pytest.raises(PatienceEndedError):
        run_trainer(config, trainer)
    assert open_run(config, resume=True).latest() == 2
    assert any(value.any() for key, value in lora_of(config).items() if "lora_B" in key)
    assert "Not evaluated." in (config.run.path / "lora" / "README.md").read_text()


@pytest.mark.slow
def test_a_schedule_goes_on_as_it_began(
    configure: Callable[..., TrainConfig], server: FakeServer, checkpoint: Path
) -> None:
    whole = configure("--run.name", "whole", "--run.steps", "4", *COSINE)
    run(whole, server)
    run(configure("--run.steps", "2", "--optimiser.lr_steps", "4", *COSINE), FakeServer(checkpoint))
    config = configure("--run.steps", "3", *COSINE)
    said = run(config, FakeServer(checkpoint), resume=True)
    assert "goes on as it began, to step 4: set optimiser.lr_steps = 3" in said
    config = configure("--run.steps", "4", *COSINE)
    run(config, FakeServer(checkpoint), resume=True)
    assert rates(config) == rates(whole)
    assert all(torch.equal(newest(whole)[key], each) for key, each in newest(config).items())


@pytest.mark.slow
def test_more_steps_than_the_schedule_has_are_refused_unless_it_is_stretched(
    configure: Callable[..., TrainConfig], server: FakeServer, checkpoint: Path
) -> None:
    config = configure("--run.steps", "2", *COSINE)
    run(config, server)
    path = config.run.path / "checkpoints" / "step-000002" / "state.json"
    for old in (False, True):
        if old:  # a checkpoint of before the schedule's end was kept
            content = json.loads(path.read_text())
            assert content["settings"].pop("optimiser.lr_steps") == 2
            path.write_text(json.dumps(content))
        with pytest.raises(RunFolderError, match=r"ends at step 2.*optimiser\.lr_steps = 4 to str"):
            open_run(configure("--run.steps", "4", *COSINE), resume=True)
    config = configure("--run.steps", "4", "--optimiser.lr_steps", "4", *COSINE)
    said = run(config, FakeServer(checkpoint), resume=True)
    assert "now ends at step 4 (optimiser.lr_steps), not 2" in said
    lr = config.optimiser.lr
    assert rates(config)[2:] == [config.optimiser.lr_at(step, 4) for step in (3, 4)]
    assert rates(config)[:2] == pytest.approx([lr, lr / 2])


def test_a_schedule_that_ends_before_the_run_is_refused(
    configure: Callable[..., TrainConfig],
) -> None:
    with pytest.raises(ConfigError, match=r"optimiser.lr_steps = 2, but run.steps = 3"):
        configure("--optimiser.lr_steps", "2", *COSINE)
    assert configure("--optimiser.lr_steps", "2").lr_steps == 2  # nothing depends on it


@pytest.fixture
def project(toml: Path, checkpoint: Path, tmp_path: Path) -> Path:
    """A folder that has settings, prompts and weights of a run in it."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copytree(checkpoint, folder / "weights")
    for name in ("train.txt", "heldout.txt"):
        shutil.copy(tmp_path / name, folder)
    text = re.sub(r"(?m)^(folder|checkpoint) = .*$", "", toml.read_text())
    text = text.replace("[model]", '[model]\ncheckpoint = "weights"')
    (folder / "run.toml").write_text(text)
    return folder


def settings_in(folder: Path, steps: int) -> TrainConfig:
    place = ["--run.folder", str(folder / "runs"), "--run.steps", str(steps)]
    return load_config(folder / "run.toml", place)


def served_from(folder: Path) -> FakeServer:
    return FakeServer(folder / "weights")


@pytest.mark.slow
def test_a_project_that_was_moved_resumes(project: Path, tmp_path: Path) -> None:
    run(settings_in(project, 2), served_from(project))
    whole = newest(settings_in(project, 2))
    shutil.rmtree(project / "runs")
    run(settings_in(project, 1), served_from(project))
    moved = tmp_path / "moved"
    project.rename(moved)
    prompts = moved / "train.txt"
    prompts.write_text(f"# a comment changes nothing\n\n{prompts.read_text()}")
    config = settings_in(moved, 2)
    pace = measured_pace(config)
    assert pace is not None
    assert pace.change is None
    server = served_from(moved)
    server.checkpoint = "/elsewhere/weights"  # as a server of another installation says
    said = run(config, server, resume=True)
    assert "weights" not in said
    assert all(torch.equal(whole[key], value) for key, value in newest(config).items())


def test_contents_that_changed_are_refused_by_name(project: Path) -> None:
    run(settings_in(project, 1), served_from(project))
    config = settings_in(project, 2)
    prompts, weights = (
        project / "train.txt",
        next(project.glob("weights/transformer/*.safetensors")),
    )
    before = prompts.read_text()
    prompts.write_text(before.replace("a red cat", "a red car"))
    with pytest.raises(RunFolderError, match=r"prompts\.train names other prompts"):
        begin(config, served_from(project), resume=True)
    prompts.write_text(before)
    tensors = load_file(weights)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, weights)
    with pytest.raises(RunFolderError, match=r"model\.checkpoint names other weights"):
        begin(config, served_from(project), resume=True)


def test_other_heldout_prompts_are_said_and_evaluated_anew(project: Path) -> None:
    run(settings_in(project, 1), served_from(project))
    heldout = project / "heldout.txt"
    heldout.write_text(heldout.read_text().replace("a purple fox", "a purple box"))
    config = settings_in(project, 2)
    said = run(config, served_from(project), resume=True)
    assert "prompts.heldout names other held-out prompts than before" in said
    assert "the base model has not been evaluated with these settings" in said
    assert read_run(config.run.path).first.prompts[0] == "a purple box"


def test_a_checkpoint_of_before_contents_were_kept_is_compared_by_path(
    project: Path, tmp_path: Path
) -> None:
    config = settings_in(project, 1)
    run(config, served_from(project))
    for path in config.run.path.glob("checkpoints/*/state.json"):
        content = json.loads(path.read_text())
        assert set(content["state"].pop("contents")) == {
            "prompts.train", "prompts.heldout", "model.checkpoint",
        }  # fmt: skip
        path.write_text(json.dumps(content))
    begin(settings_in(project, 2), served_from(project), resume=True)
    moved = tmp_path / "moved"
    project.rename(moved)
    with pytest.raises(RunFolderError, match=r"model\.checkpoint was .*set it back to resume"):
        begin(settings_in(moved, 2), served_from(moved), resume=True)


@pytest.mark.parametrize(
    "small",
    [
        ("--evaluation.seeds_per_prompt", "1"),
        ("--evaluation.images", "0"),
        ("--evaluation.guidances", "[3.0]"),
        ("--evaluation.guidances", "[3.0, 1.0]"),
        ("--evaluation.prompts", "1"),
        (
            "--evaluation.seeds_per_prompt", "1", "--evaluation.images", "0",
            "--evaluation.guidances", "[3.0]", "--evaluation.prompts", "1",
        ),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_what_cannot_be_said_of_a_small_evaluation_is_left_out(
    configure: Callable[..., TrainConfig], server: FakeServer, small: tuple[str, ...]
) -> None:
    limits = [w for name in ("brightness", "diversity") for w in (f"--guards.{name}", "0.0")]
    config = configure("--run.steps", "2", "--evaluation.every", "1", *limits, *small)
    said = run(config, server)
    page = write_report(config.run.path).read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<(svg|pre).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL))
    card = (config.run.path / "lora" / "README.md").read_text()
    for told in (said, text, card):
        assert not re.search(r"\bnan\b", told)
    assert "Not evaluated" not in card
    settings = config.evaluation
    guidance = "no guidance" if settings.guidances[0] == 1.0 else "guidance 3"
    assert f"Statistics of the held-out images, 3 steps, {guidance}" in text
    assert f"3 steps, {guidance}," in card
    assert ("no guidance" in text) == (1.0 in settings.guidances)
    assert ("Pictures: the same" in text) == (settings.images > 0)
    assert ("diversity within a prompt" in text) == (settings.seeds_per_prompt > 1)
    assert ("Standard deviation of warmth" in text) == (settings.seeds_per_prompt > 1)
    for told in (text, card):
        assert ("±" in told) == (settings.prompts > 1)
    assert (" to " in said.partition("warmth ")[2].partition(",")[0]) == (settings.prompts > 1)
    if settings.prompts == 1:
        assert "No guard has raised an alarm" in text
        assert "held-out images went from" not in said
    assert "diversity" not in said or settings.seeds_per_prompt > 1
    assert len(read_run(config.run.path).progress) == 3

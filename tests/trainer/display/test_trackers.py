"""TensorBoard and Weights & Biases, the real packages: what they hold is what metrics.jsonl holds."""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from heliostat_trainer.display.trackers import Tracker, Trackers, numbers_of
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.evaluation.results import read_evaluations
from heliostat_trainer.folder.metrics import read_metrics
from heliostat_trainer.run import run_trainer, train
from heliostat_trainer.settings.run import LoggingSection, TrackerName
from tests.trainer.fake_server import FakeServer
from tests.trainer.test_loop import make_trainer, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from heliostat_trainer.settings.config import TrainConfig


def test_nested_numbers_are_named_by_their_path() -> None:
    nested = {"step": 2, "kl": None, "seconds": {"watch": 0.5}, "rewards": {"a": {"b": 1}}}
    assert dict(numbers_of(nested)) == {"step": 2.0, "seconds/watch": 0.5, "rewards/a/b": 1.0}


@pytest.mark.slow
def test_tensorboard_has_the_numbers_and_pictures_of_a_resumed_run(
    configure: Callable[..., TrainConfig], server: FakeServer, checkpoint: Path
) -> None:
    accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = ("--logging.to", '["tensorboard"]', "--checkpoint.every", "2")
    run(configure(*settings, "--run.steps", "2"), server)
    config = configure(*settings, "--run.steps", "4")
    run(config, FakeServer(checkpoint), resume=True)
    events = accumulator.EventAccumulator(str(config.run.path / "tensorboard"))
    events.Reload()
    lines = list(read_metrics(config.run.path / "metrics.jsonl"))
    for name in ("reward_mean", "loss", "seconds/optimise", "rewards/warmth"):
        logged = events.Scalars(name)
        assert [event.step for event in logged] == [1, 2, 3, 4]
        expected = [dict(numbers_of(line))[name] for line in lines]
        assert [event.value for event in logged] == pytest.approx(expected, rel=1e-6)
    rewards = events.Scalars("evaluation/guidance_1/warmth")
    evaluations = read_evaluations(config.run.path / "evaluation")
    assert [event.value for event in rewards] == pytest.approx(
        [evaluation.means["warmth"].mean for evaluation in evaluations], rel=1e-6
    )
    assert events.Tags()["images"] == [
        f"evaluation/guidance_1/{row}: {prompt}"
        for row, prompt in enumerate(["a purple fox", "a white bear"])
    ]


@pytest.mark.slow
def test_wandb_keeps_a_run_offline_and_goes_on_in_the_same_one(
    configure: Callable[..., TrainConfig],
    server: FakeServer,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_DISABLE_GIT", "true")
    settings = ("--logging.to", '["wandb"]', "--logging.mode", "offline")
    run(configure(*settings, "--run.steps", "1"), server)
    wandb.teardown()  # as at the end of a process: only then is a run's file sure to be complete
    config = configure(*settings, "--run.steps", "2")
    run(config, FakeServer(checkpoint), resume=True)
    wandb.teardown()
    files = sorted((config.run.path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 1
    logged = [row for file in files for row in history(file)]
    steps = [row for row in logged if "reward_mean" in row]
    lines = list(read_metrics(config.run.path / "metrics.jsonl"))
    assert [row["training_step"] for row in steps] == [1, 2]
    assert [row["reward_mean"] for row in steps] == [line["reward_mean"] for line in lines]
    captions = [row.get("evaluation/guidance_1/images/captions") for row in logged]
    assert captions.count(["a purple fox", "a white bear"]) == 3  # before, at step 1, at step 2
    assert list(files[0].parent.glob("files/media/images/**/*.png"))


def history(file: Path) -> list[dict[str, Any]]:
    """The rows that an offline run was given, of its own file."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for content in records(file.read_bytes()):
        record = Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def records(log: bytes) -> Iterator[bytes]:
    """Of a log in LevelDB's format, behind W&B's header of 7 bytes: blocks of 32 KiB, no record
    header (CRC, length, whether it begins and ends the record) across two of them."""
    place, parts = 7, b""
    while place < len(log):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", log[place : place + 7])
        parts += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in {1, 4}:  # a whole record, or the last part of one
            yield parts
            parts = b""


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")]
)
def test_a_missing_package_is_one_sentence_before_anything_begins(
    configure: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    config = configure("--logging.to", f'["{name}"]', "--server.url", "127.0.0.1:1")
    with pytest.raises(ConfigError, match=rf"pip install 'heliostat\[{name}\]'") as error:
        train(config)
    assert "\n" not in str(error.value)
    assert not config.run.path.exists()


def test_wandb_without_a_key_is_one_sentence_before_anything_begins(
    configure: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    config = configure("--logging.to", '["wandb"]', "--server.url", "127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"set WANDB_API_KEY or run `wandb login`") as error:
        train(config)
    assert "\n" not in str(error.value)
    assert not config.run.path.exists()


class Failing(Tracker):
    """Raises in one of its methods, and counts what it is asked."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.asked: list[str] = []

    def numbers(self, *_: object) -> None:
        self._ask("numbers")

    def pictures(self, *_: object) -> None:
        self._ask("pictures")

    def close(self) -> None:
        self._ask("close")

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what == self.where:
            raise ConnectionResetError("the disk is full\nand more")


@pytest.mark.parametrize("where", ["numbers", "pictures", "close"])
def test_a_tracker_that_fails_is_told_once_and_costs_nothing(
    configure: Callable[..., TrainConfig], server: FakeServer, where: str
) -> None:
    config = configure("--run.steps", "1")
    said: list[str] = []
    failing = Failing(where)
    trainer = make_trainer(config, server)
    openers = {TrackerName.WANDB: lambda: failing}
    trackers = Trackers(config.logging, openers, said.append)
    trainer.parts = replace(trainer.parts, trackers=trackers)
    run_trainer(config, trainer)
    assert failing.asked.count(where) == 1
    assert failing.asked[-1] == where
    (sentence,) = said
    assert sentence.startswith("wandb has failed (the disk is full): nothing more is logged there")
    assert (config.run.path / "lora" / "adapter_model.safetensors").exists()


def test_a_tracker_that_cannot_begin_is_left_out(
    configure: Callable[..., TrainConfig], server: FakeServer
) -> None:
    pytest.importorskip("tensorboard")
    config = configure("--run.steps", "1", "--logging.to", '["tensorboard"]')
    config.run.path.mkdir(parents=True)
    (config.run.path / "tensorboard").write_text("in the way")
    run(config, server)
    assert (config.run.path / "lora" / "adapter_model.safetensors").exists()


def test_nothing_is_logged_elsewhere_by_default(finished: Callable[..., TrainConfig]) -> None:
    assert LoggingSection().to == ()
    assert set(TrackerName) == {"tensorboard", "wandb"}
    config = finished(1)
    assert not (config.run.path / "tensorboard").exists()
    assert not (config.run.path / "wandb").exists()

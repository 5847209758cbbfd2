"""Runs of two processes that torchrun starts, against those of one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from heliostat_engines.families import get_family
from heliostat_engines.families.demo.family import DemoFamily
from heliostat_engines.families.family import Resolutions
from heliostat_trainer.display.trackers import numbers_of
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.evaluation.results import Evaluation, read_evaluations
from heliostat_trainer.folder.metrics import read_metrics
from heliostat_trainer.ranks.ranks import Ranks, open_ranks
from heliostat_trainer.settings.load import load_config
from heliostat_trainer.workshop import choose_device
from tests.trainer import test_loop
from tests.trainer.conftest import HELDOUT, PROMPTS
from tests.trainer.fake_server import FakeServer
from tests.trainer.ranks.ranked_run import SIZES

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_trainer.settings.config import TrainConfig

ROOT = Path(__file__).parents[3]
RUN, FAMILIES = "ranked_run.py", "ranked_families.py"
WITHIN = 2e-5
"""Of a LoRA weight after two steps of about 1e-2 each: float32 sums in another order."""
TIMED = {"seconds", "elapsed_s", "server_busy", "trainer_busy", "adapter_version"}

slow = pytest.mark.slow


@pytest.fixture
def ranked(toml: Path) -> Path:
    """Batches that are composed alike on one rank and on two; micro-batches that do not share out.

    5 rows of 32: of the 7 micro-batches one rank has 4, the other 3 and one that nobody wants.
    """
    content = toml.read_text().replace("[model]", "[model]\nsample_batch = 4")
    toml.write_text(content.replace("micro_batch = 8", "micro_batch = 5"))
    return toml


def alone(toml: Path, *sets: str, resume: bool = False) -> TrainConfig:
    config = load_config(toml, ["--run.steps", "2", *sets])
    test_loop.run(config, FakeServer(Path(str(config.model.checkpoint))), resume=resume)
    return config


def launch(program: str, *arguments: str, trouble: str = "") -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    program = str(Path(__file__).with_name(program))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*torchrun, "--nproc-per-node", "2", program, *arguments],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TROUBLE": trouble},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def together(toml: Path, *sets: str) -> tuple[TrainConfig, str]:
    """A run of two ranks, and what it printed."""
    process = launch(RUN, str(toml), "--run.steps", "2", *sets)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return load_config(toml, [word for word in sets if word != "--resume"]), output


def lora(config: TrainConfig) -> dict[str, torch.Tensor]:
    return load_file(config.run.path / "lora" / "adapter_model.safetensors")


def assert_alike(left: TrainConfig, right: TrainConfig) -> None:
    ours, theirs = lora(left), lora(right)
    assert ours.keys() == theirs.keys()
    assert max(value.abs().max() for key, value in ours.items() if "lora_B" in key) > 100 * WITHIN
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=WITHIN)
    lines = [list(read_metrics(each.run.path / "metrics.jsonl")) for each in (left, right)]
    assert [line["step"] for line in lines[0]] == [1, 2]
    for one, other in zip(*lines, strict=True):
        ours, theirs = (dict(numbers_of(each)) for each in (one, other))
        assert ours.keys() == theirs.keys()
        for key in filter(lambda key: key.split("/")[0] not in TIMED, ours):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-6), key
    results = [evaluations(each) for each in (left, right)]
    assert {0, 2} <= results[0].keys() & results[1].keys()
    for step in (0, 2):
        one, other = (each[step] for each in results)
        assert one.seeds == other.seeds
        for name, rewards in one.rewards.items():
            assert torch.tensor(rewards).allclose(torch.tensor(other.rewards[name]), atol=1e-3)


def evaluations(config: TrainConfig) -> dict[int, Evaluation]:
    return {each.step: each for each in read_evaluations(config.run.path / "evaluation")}


@slow
def test_two_ranks_train_as_one_does_with_trajectories_too(ranked: Path) -> None:
    sets = ("--objective.name", "flow_grpo")
    one = alone(ranked, *sets)
    two, output = together(ranked, "--run.name", "two", *sets)
    assert_alike(two, one)
    assert output.count("step 1 of 2:") == 1


@slow
def test_two_ranks_share_levels_and_noise_and_replay_as_one_does(ranked: Path) -> None:
    sets = [f"--objective.{key}={value}" for key, value in test_loop.TEACHING.items()]
    sets += ["--recipe.replay", "1"]
    one = alone(ranked, *sets)
    two, _ = together(ranked, "--run.name", "two", *sets)
    assert_alike(two, one)


@slow
def test_two_ranks_weigh_groups_that_they_split_as_one_does(ranked: Path) -> None:
    sets = ("--objective.name", "dgpo", "--optimiser.micro_batch", "3")  # of 4 samples
    one = alone(ranked, *sets)
    two, _ = together(ranked, "--run.name", "two", *sets)
    assert_alike(two, one)


@slow
def test_two_ranks_train_and_evaluate_prompts_of_their_own_sizes_as_one_does(
    ranked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DemoFamily, "resolutions", Resolutions(32, 64, 8))
    monkeypatch.setenv("SIZED", "1")
    small, wide, high = SIZES
    own = dict(zip(PROMPTS, (wide, None, high, wide, small, high), strict=True))
    held = dict(zip(HELDOUT, (high, None, wide), strict=True))
    sets = [
        "--prompts.train", test_loop.write_sized(tmp_path, own),
        "--prompts.heldout", test_loop.write_sized(tmp_path, held, "held.jsonl"),
        "--prompts.per_step", "3",
    ]  # fmt: skip
    one = load_config(ranked, ["--run.steps", "2", *sets])
    server = FakeServer(Path(str(one.model.checkpoint)))
    server.sizes = SIZES
    test_loop.run(one, server)
    assert {request.resolution_px for request in server.explored} == set(SIZES)
    two, _ = together(ranked, "--run.name", "two", *sets)
    assert_alike(two, one)


@slow
def test_a_sharded_transformer_trains_as_a_whole_one_does(ranked: Path) -> None:
    one = alone(ranked)
    saving = ("--model.shard", "true", "--model.gradient_checkpointing", "true")
    sharded, output = together(ranked, "--run.name", "sharded", *saving)
    assert_alike(sharded, one)
    whole = test_loop.make_trainer(
        load_config(ranked, ["--run.name", "size"]),
        FakeServer(Path(str(one.model.checkpoint))),
    ).parts.policy
    held = int(re.findall(r"holds (\d+) weights", output)[0])
    frozen = sum(p.numel() for n, p in whole._transformer.named_parameters() if "lora_" not in n)
    assert held < 0.52 * frozen


@slow
def test_every_family_can_be_sharded(tmp_path: Path) -> None:
    families = ("flux", "sana", "sd3.5-large", "sd3.5-medium")
    for name in families:
        get_family(name).write_tiny_checkpoint(tmp_path / name)
    process = launch(FAMILIES, str(tmp_path))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    for name in families:
        assert f"{name} agrees on rank 0" in output
        assert f"{name} agrees on rank 1" in output


@slow
def test_a_run_of_one_rank_goes_on_with_two(ranked: Path) -> None:
    one = alone(ranked)
    alone(ranked, "--run.name", "more", "--run.steps", "1")
    more, _ = together(ranked, "--run.name", "more", "--resume")
    assert_alike(more, one)


@slow
@pytest.mark.parametrize(
    ("trouble", "sharded", "sentence"),
    [
        ("term", "true", r"error: stopped; step 1 is saved in .*: continue with --resume"),
        ("kill", "false", "error: another rank is gone|error: stopped; step 1 is saved"),
        ("raise", "true", "error: rank 1: RuntimeError: out of memory, say"),
    ],
)
def test_trouble_on_one_rank_ends_all_after_saving(
    ranked: Path, trouble: str, sharded: str, sentence: str
) -> None:
    sets = ("--checkpoint.every", "100", "--model.shard", sharded)
    process = launch(RUN, str(ranked), *sets, trouble=trouble)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert re.search(sentence, output), output
    assert output.count("error: ") == 1
    assert (ranked.parent / "runs" / "tiny" / "checkpoints" / "step-000001").exists()


@slow
def test_ctrl_c_saves_once_and_ends_all(ranked: Path) -> None:
    process = launch(RUN, str(ranked), "--checkpoint.every", "100", "--run.steps", "500")
    assert process.stdout is not None
    while not process.stdout.readline().startswith("step 2 of 500"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert "is saved in" in output
    assert output.count("error: ") == 1
    steps = {path.name for path in (ranked.parent / "runs" / "tiny" / "checkpoints").iterdir()}
    assert len(steps) == 2


def test_a_process_by_itself_has_all_the_work() -> None:
    assert Ranks().shares(3) == [0, 1, 2]


def test_work_is_shared_out_in_rounds_of_all_ranks() -> None:
    def shares(rank: int) -> list[int | None]:
        ranks = Ranks()
        ranks.rank, ranks.size = rank, 3
        return ranks.shares(5)

    assert [shares(rank) for rank in range(3)] == [[0, 3], [1, 4], [2, None]]


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A machine of two cards; cards(RANK) says which of three ranks we are."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    return lambda rank: monkeypatch.setenv("LOCAL_RANK", rank)


def test_each_rank_has_a_card_of_its_own(cards: Callable[[str], None]) -> None:
    cards("1")
    assert [str(choose_device(name)) for name in ("auto", "cuda", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cpu",
    ]
    with pytest.raises(ConfigError, match="set it to cuda"):
        choose_device("cuda:1")
    cards("2")
    with pytest.raises(ConfigError, match="--nproc-per-node 2"):
        choose_device("auto")


def test_sharding_over_one_rank_is_refused(toml: Path) -> None:
    with pytest.raises(ConfigError, match="start with torchrun --nproc-per-node"):
        alone(toml, "--model.shard", "true")


def test_ranks_that_cannot_find_one_another_say_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "RANK": "0",
        "MASTER_ADDR": "nowhere.invalid",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ConfigError, match=r"MASTER_ADDR, and 'nowhere\.invalid' does not"),
        open_ranks(),
    ):
        pass

"""The loop against an in-process server: recipes, resuming, and what must not change results."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from heliostat_engines.errors import HeliostatError
from heliostat_engines.families.demo.family import DemoFamily
from heliostat_engines.families.family import Resolutions
from heliostat_engines.sampling.solvers import Solver
from heliostat_trainer.display.progress import LineProgress
from heliostat_trainer.errors import (
    ConfigError,
    DivergedError,
    OutOfMemoryError,
    PatienceEndedError,
    RunFolderError,
)
from heliostat_trainer.evaluation.results import paired_difference, read_evaluations
from heliostat_trainer.folder.metrics import read_metrics
from heliostat_trainer.learning.learner import Learner
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.report import write_report
from heliostat_trainer.run import build_trainer, open_run, run_trainer, train
from heliostat_trainer.settings.config import TrainConfig
from tests.trainer.conftest import HELDOUT, PROMPTS
from tests.trainer.fake_server import FakeServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from heliostat_engines.resolution import Resolution
    from heliostat_trainer.loop import Trainer
    from heliostat_trainer.types import Samples

Configure = "Callable[..., TrainConfig]"


def make_trainer(config: TrainConfig, server: FakeServer, *, resume: bool = False) -> Trainer:
    return build_trainer(
        config,
        read_prompt_sets(config),
        server,
        open_run(config, resume=resume),
        LineProgress(Console(quiet=True)),
        Interrupts(),
        resume=resume,
    )


def run(
    config: TrainConfig, server: FakeServer, *, resume: bool = False
) -> dict[str, torch.Tensor]:
    """A whole run; returns the exported LoRA."""
    run_trainer(config, make_trainer(config, server, resume=resume))
    return lora_of(config)


def lora_of(config: TrainConfig) -> dict[str, torch.Tensor]:
    """The LoRA that a finished run has exported."""
    return load_file(config.run.path / "lora" / "adapter_model.safetensors")


def _before(first, then):
    def both(*arguments):
        first(*arguments)
        return then(*arguments)

    return both


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_a_run_leaves_metrics_evaluations_checkpoints_and_a_lora(finished: Configure) -> None:
    config = finished(3)
    lora = lora_of(config)
    assert any(value.any() for key, value in lora.items() if "lora_B" in key)
    lines = list(read_metrics(config.run.path / "metrics.jsonl"))
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["adapter_version"] for line in lines] == [1, 1, 2]
    assert all(line["bound_modules"] == 15 for line in lines)
    assert all(line["explored"] == 16 for line in lines)
    assert lines[0]["policy_drift"] == 0.0
    assert lines[0]["kl"] == 0.0
    assert lines[2]["policy_drift"] > 0
    evaluations = read_evaluations(config.run.path / "evaluation")
    assert [(result.step, result.policy) for result in evaluations] == [(0, "base"), (3, "ema")]
    gain = paired_difference(evaluations[1], evaluations[0], "warmth")
    assert gain.low <= gain.mean <= gain.high
    settings = json.loads((config.run.path / "run.json").read_text())
    assert settings["config"]["recipe"]["name"] == "sol_rl"


def test_prompts_are_read_once_a_run(configure: Configure, server: FakeServer, toml: Path) -> None:
    config = configure("--run.steps", "1")
    trainer = make_trainer(config, server)
    for name in ("train.txt", "heldout.txt"):
        (toml.parent / name).unlink()
    run_trainer(config, trainer)
    assert list((config.run.path / "showcase").iterdir())


def test_prompts_that_are_missing_end_a_run_before_anything_begins(configure: Configure) -> None:
    config = configure("--prompts.train", "missing.txt", "--server.url", "127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"prompts.train: cannot read missing.txt"):
        train(config)
    assert not config.run.path.exists()


@pytest.mark.slow
def test_training_raises_the_reward(configure: Configure, server: FakeServer) -> None:
    config = configure("--run.steps", "12", "--optimiser.lr", "3e-2", "--lora.rank", "8")
    run(config, server)
    base, trained = read_evaluations(config.run.path / "evaluation")
    assert trained.means["warmth"].mean > base.means["warmth"].mean + 0.005


def test_prompts_are_explored_redrawn_and_trained_on_at_a_size_of_their_own(
    configure: Configure, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tiny transformer knows the places of 8 x 8 latents: all that is smaller fits.
    monkeypatch.setattr(DemoFamily, "resolutions", Resolutions(32, 64, 8))
    server.sizes = (64, (48, 64), (64, 32))
    own = dict(zip(PROMPTS, (None, (48, 64), (64, 32), 64, (48, 64), (64, 32)), strict=True))
    path = write_sized(tmp_path, own)
    held = ("--prompts.heldout", write_sized(tmp_path, {HELDOUT[0]: (48, 64)}, "held.jsonl"))
    sizes = ("--prompts.train", path, *held, "--evaluation.prompts", "1", "--recipe.replay", "1")
    config = configure(*sizes, "--run.steps", "3")
    trained: dict[str, set[tuple[int, ...]]] = {}
    update = Learner.train

    def watched(learner: Learner, samples: list[Samples], *others: Any) -> Any:
        for group in samples:
            trained.setdefault(group.prompt, set()).add(tuple(group.latents.shape))
        return update(learner, samples, *others)

    monkeypatch.setattr(Learner, "train", watched)
    whole = run(config, server)
    asked = {request.prompt: request.resolution_px for request in server.explored}
    shown = {HELDOUT[0]: (48, 64)}  # the showcase's
    assert asked == {prompt: size or 64 for prompt, size in own.items()} | shown
    assert trained == {
        prompt: {(4, *server.family.latent_shape(size or 64))} for prompt, size in own.items()
    }
    other = FakeServer(Path(server.checkpoint), reverse=True)
    other.sizes = server.sizes
    again = configure(*sizes, "--run.name", "again")
    assert same(whole, run(again, other))
    shapes = [Image.open(picture).size for picture in pictures_of(write_report(again.run.path))]
    # Of latents of 6 x 8: rows of eight with margins, and the showcase's, enlarged twelve times.
    assert shapes == [(64, 10)] * 2 + [(72, 96)] * 16


def test_a_size_that_is_the_runs_own_changes_no_bit(
    configure: Configure, server: FakeServer, tmp_path: Path
) -> None:
    plain = run(configure("--run.steps", "2"), server)
    path = write_sized(tmp_path, dict.fromkeys(PROMPTS, 64))
    other = FakeServer(Path(server.checkpoint))
    sized = configure("--run.steps", "2", "--run.name", "sized", "--prompts.train", path)
    assert same(plain, run(sized, other))


def test_a_size_that_the_server_does_not_draw_is_named_by_file_and_line(
    configure: Configure, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DemoFamily, "resolutions", Resolutions(32, 64, 8))
    own = dict.fromkeys(PROMPTS, None) | {PROMPTS[1]: (48, 64)}
    path = write_sized(tmp_path, own)
    for setting in ("prompts.train", "prompts.heldout"):
        with pytest.raises(ConfigError) as error:
            run(configure(f"--{setting}", path), server)
        assert str(error.value) == (
            f"{setting}: {path}, line 2: resolution = [48, 64], but the server draws 64 px images alone: "
            "change it, or start the server with --resolutions-px 48x64"
        )


def pictures_of(page: Path) -> list[io.BytesIO]:
    """The PNG files that a page carries."""
    uris = re.findall(r'src="data:image/png;base64,([^"]+)"', page.read_text())
    return [io.BytesIO(base64.b64decode(uri)) for uri in uris]


def write_sized(
    folder: Path, sizes: Mapping[str, Resolution | None], name: str = "sized.jsonl"
) -> str:
    """A JSONL file of prompts, some with a size of their own."""
    lines = [
        {"prompt": prompt} | ({"resolution": size} if size else {})
        for prompt, size in sizes.items()
    ]
    path = folder / name
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def test_the_optimiser_follows_the_schedule(configure: Configure, server: FakeServer) -> None:
    config = configure("--run.steps", "3", "--optimiser.lr_schedule", "cosine")
    trainer = make_trainer(config, server)
    run_trainer(config, trainer)
    rates = [line["lr"] for line in read_metrics(config.run.path / "metrics.jsonl")]
    assert rates == pytest.approx([config.optimiser.lr * share for share in (1, 0.75, 0.25)])
    assert trainer.parts.learner.optimiser.param_groups[0]["lr"] == rates[-1]


@pytest.mark.parametrize(
    "name", ["awm", "diffusion_dpo", "dgpo", "flow_grpo", "flow_grpo_fast", "dance_grpo"]
)
@pytest.mark.slow
def test_every_objective_runs_and_resumes_to_the_bit(
    configure: Configure, server: FakeServer, checkpoint: Path, name: str
) -> None:
    settings = ["--objective.name", name]
    settings += ["--objective.window", "2"] if name == "flow_grpo_fast" else []
    settings += ["--objective.subset_pairs", "1"] if name == "dance_grpo" else []
    config = configure("--run.steps", "2", *settings)
    whole = run(config, server)
    assert any(value.any() for key, value in whole.items() if "lora_B" in key)
    halves = configure("--run.name", "halves", "--run.steps", "1", *settings)
    run(halves, FakeServer(checkpoint))
    halves = configure("--run.name", "halves", "--run.steps", "2", *settings)
    assert same(whole, run(halves, FakeServer(checkpoint, reverse=True), resume=True))
    lines = list(read_metrics(config.run.path / "metrics.jsonl"))
    for line in lines:  # on-policy: what is left is BF16 in batches of another size
        assert ("grpo" in name) == (line["ratio_error"] is not None)
        assert line["ratio_error"] is None or line["ratio_error"] < 1e-5


TEACHING = {
    "levels": "stratified",
    "share_noise": "true",
    "norm_weight": "10",
    "diversity_weight": "2",
    "kl_weight": "0",
}
"""Settings of [objective] that are off by default."""


@pytest.mark.slow
def test_a_run_with_all_that_is_off_by_default_resumes_to_the_bit(
    configure: Configure, server: FakeServer, checkpoint: Path
) -> None:
    settings = [f"--objective.{key}={value}" for key, value in TEACHING.items()]
    config = configure("--run.steps", "3", *settings)
    whole = run(config, server)
    run(configure("--run.name", "halves", "--run.steps", "2", *settings), FakeServer(checkpoint))
    halves = configure("--run.name", "halves", "--run.steps", "3", *settings)
    assert same(whole, run(halves, FakeServer(checkpoint, reverse=True), resume=True))
    first, *later = read_metrics(config.run.path / "metrics.jsonl")
    assert first["velocity_norm"] == 1.0  # the base model itself
    assert all(line["velocity_norm"] != 1.0 for line in later)
    assert all(line["latent_diversity"] > 0 for line in (first, *later))
    assert not same(whole, run(configure("--run.name", "plain"), FakeServer(checkpoint)))


@pytest.mark.parametrize("recipe", ["diffusionnft", "naive_scaling"])
def test_trajectories_come_with_every_recipe_that_draws_in_bf16(
    configure: Configure, server: FakeServer, recipe: str
) -> None:
    config = configure("--recipe.name", recipe, "--run.steps", "1", "--objective.name", "flow_grpo")
    run(config, server)
    (line,) = read_metrics(config.run.path / "metrics.jsonl")
    assert line["ratio_error"] < 1e-5
    assert line["policy_drift"] is None


def test_the_order_in_which_groups_finish_changes_nothing(
    configure: Configure, finished: Configure, checkpoint: Path
) -> None:
    forwards = lora_of(finished(3))
    backwards = run(configure("--run.name", "other"), FakeServer(checkpoint, reverse=True))
    assert same(forwards, backwards)


def test_a_resumed_run_equals_an_uninterrupted_one(
    configure: Configure, finished: Configure, server: FakeServer
) -> None:
    whole = lora_of(finished(3))
    finished(2, "parts")  # whose next step is explored with a policy that has been trained
    parts = configure("--run.name", "parts", "--run.steps", "3")
    assert same(whole, run(parts, server, resume=True))
    assert [line["step"] for line in read_metrics(parts.run.path / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize("arithmetic", ["bfloat16", "float32"])
def test_a_run_trains_in_either_arithmetic_and_a_resumed_one_says_that_it_changed(
    configure: Configure,
    checkpoint: Path,
    computing: Callable[[str], None],
    arithmetic: str,
) -> None:
    computing(arithmetic)
    config = configure("--run.steps", "2")
    lora = run(config, FakeServer(checkpoint))
    assert any(value.any() for key, value in lora.items() if "lora_B" in key)
    assert json.loads((config.run.path / "run.json").read_text())["compute_dtype"] == arithmetic
    said: list[str] = []
    other = {"bfloat16": "float32", "float32": "bfloat16"}[arithmetic]
    for name in (arithmetic, other):
        computing(name)
        progress = LineProgress(Console(quiet=True))
        progress.say = said.append  # type: ignore[method-assign]
        checkpoints = open_run(config, resume=True)
        build_trainer(
            config,
            read_prompt_sets(config),
            FakeServer(checkpoint),
            checkpoints,
            progress,
            Interrupts(),
            resume=True,
        )
        changes = [] if name == arithmetic else [arithmetic, other]
        for side in (
            "this run was trained in {} and goes on in {}",
            "explored in {} until now, and explores in {}",
        ):
            assert any(side.format(*changes) in text for text in said) if changes else not said


@pytest.mark.slow
def test_an_8_bit_run_resumes_to_the_bit(
    configure: Configure, server: FakeServer, checkpoint: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    settings = ("--optimiser.name", "adamw_8bit", "--run.name")
    whole = run(configure("--run.steps", "2", *settings, "whole"), server)
    run(configure("--run.steps", "1", *settings, "halves"), FakeServer(checkpoint))
    halves = configure("--run.steps", "2", *settings, "halves")
    assert same(whole, run(halves, FakeServer(checkpoint), resume=True))


def test_checkpointing_changes_no_bit_and_may_be_switched_on_resume(
    configure: Configure, finished: Configure, server: FakeServer
) -> None:
    plain = lora_of(finished(3, "plain"))
    finished(1, "saving")
    saving = configure("--run.name", "saving", "--model.gradient_checkpointing", "true")
    assert same(plain, run(saving, server, resume=True))


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.slow
def test_a_step_is_explored_by_the_policy_of_so_many_steps_ago(
    configure: Configure, server: FakeServer, depth: int
) -> None:
    config = configure("--recipe.explore_ahead", str(depth), "--run.steps", "5")
    published = []
    publish = server.publish

    def note(files, told):
        published.append(files.sha256)
        return publish(files, told)

    server.publish = note
    run(config, server)
    assert len(set(published)) == 6
    explorers = [max(0, step - 1 - depth) for step in range(1, 6)]
    last = published[5]  # draws the showcase
    assert server.drawn_with == [published[at] for at in explorers for _ in range(2)] + [last]
    lines = list(read_metrics(config.run.path / "metrics.jsonl"))
    assert [line["adapter_version"] for line in lines] == [at + 1 for at in explorers]
    assert [line["version_lag"] for line in lines] == [min(depth, step) for step in range(5)]
    assert all(0 < line["server_busy"] <= 1 and 0 <= line["trainer_busy"] < 1 for line in lines)


def test_the_server_is_told_of_each_step_with_the_adapter_that_it_made(
    configure: Configure, server: FakeServer
) -> None:
    config = configure("--run.steps", "2", "--watch.every", "2", "--recipe.score_after", "1")
    run(config, server)
    lines = list(read_metrics(config.run.path / "metrics.jsonl"))
    first, *reports = [told.step for told in server.told]
    assert first is None  # the base model's adapter comes from no step
    for line, report in zip(lines, reports, strict=True):
        assert (report.step, report.version) == (line["step"], line["adapter_version"])
        assert report.seconds == line["seconds"]
        assert report.shape.candidates * report.shape.prompts == line["explored"]
        assert report.shape.score_after == line["score_after"] < report.explore_steps
        assert report.kept_spread == line["kept_spread"]
        assert (report.fidelity and asdict(report.fidelity)) == line["fidelity"]
    assert [report.fidelity is None for report in reports] == [False, True]


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.slow
def test_a_run_killed_while_the_server_explores_ahead_resumes_identically(
    configure: Configure,
    server: FakeServer,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    depth: int,
) -> None:
    ahead = ("--recipe.explore_ahead", str(depth), "--run.steps", "5", "--optimiser.lr", "0.3")
    whole = run(configure(*ahead), server)
    in_turn = configure(*ahead, "--run.name", "in-turn", "--recipe.explore_ahead", "0")
    assert not same(whole, run(in_turn, FakeServer(checkpoint)))
    config = configure("--run.name", "killed", *ahead)
    trainer = make_trainer(config, FakeServer(checkpoint))

    def dies(*_):
        if trainer.state.step == 3:
            raise KeyboardInterrupt  # nothing is saved on the way out

    monkeypatch.setattr(trainer, "_optimise", _before(dies, trainer._optimise))
    with pytest.raises(KeyboardInterrupt):
        run_trainer(config, trainer)
    assert open_run(config, resume=True).latest() == 3
    fresh = FakeServer(checkpoint)
    assert same(whole, run(config, fresh, resume=True))
    assert fresh.version == depth + 1 + 2  # the older explorers and the latest, then a step each


def test_what_goes_wrong_while_exploring_ahead_is_raised_in_its_own_step(
    configure: Configure, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure("--recipe.explore_ahead", "2")
    explore = server.explore

    def fails_at_step_two(requests, adapter):
        if len(server.explored) == 2:
            raise PatienceEndedError("gone")
        return explore(requests, adapter)

    monkeypatch.setattr(server, "explore", fails_at_step_two)
    with pytest.raises(PatienceEndedError):
        run(config, server)
    assert open_run(config, resume=True).latest() == 1


def test_training_on_what_was_explored_never_explores_ahead(configure: Configure) -> None:
    config = configure("--recipe.name", "naive_quant", "--recipe.explore_ahead", "2")
    assert config.recipe.depth == 0
    with pytest.raises(HeliostatError, match=r"recipe.explore_ahead = 3: .*less than or equal"):
        configure("--recipe.explore_ahead", "3")


@pytest.mark.parametrize(
    ("recipe", "explored", "scored"),
    [
        # 2 prompts x 2 steps: the server explores, the trainer's own samples are scored.
        ("sol_rl", 4, 2 * 2 * 4),
        ("heliostat", 4, 2 * 2 * 4),
        ("bf16_explore", 0, 2 * 2 * (8 + 4)),
        ("naive_quant", 4, 0),
        ("naive_scaling", 0, 2 * 2 * 8),
        ("diffusionnft", 0, 2 * 2 * 4),
    ],
)
def test_recipes_differ_in_one_setting(
    configure: Configure, server: FakeServer, recipe: str, explored: int, scored: int
) -> None:
    config = configure("--recipe.name", recipe, "--run.steps", "2")
    run(config, server)
    evaluated = 2 * 3 * 2
    redraws, tunes = config.recipe.redraws, config.recipe.tune
    shows = config.recipe.explores_and_redraws
    showcase = shows * 2 * 8  # one more group, scored as explored and as redrawn
    watched = redraws * 8  # of the first step
    early = 2 * tunes  # the watched group, scored after each of its steps
    assert len(server.explored) == explored + shows + early
    assert server.scored == scored + evaluated + showcase + watched
    steps = {request.steps for request in server.explored}
    assert steps <= ({2} if redraws else {4})


def test_micro_batches_are_a_matter_of_memory_only(
    configure: Configure, finished: Configure, server: FakeServer
) -> None:
    one = lora_of(finished(1))
    other = configure("--run.steps", "1", "--run.name", "b", "--optimiser.micro_batch", "5")
    two = run(other, server)
    # Adam's first step has the sign of the gradient: compare directions, not bits.
    signs = [
        (one[key].sign() == two[key].sign()).float().mean().item() for key in one if "lora_B" in key
    ]
    assert sum(signs) / len(signs) > 0.95


def test_several_updates_a_step_move_the_policy_further(
    configure: Configure, finished: Configure, server: FakeServer
) -> None:
    one = lora_of(finished(1))
    more = configure("--run.steps", "1", "--run.name", "b", "--optimiser.updates_per_step", "3")
    assert not same(one, run(more, server))


def test_a_nan_loss_stops_with_the_sample_and_keeps_the_last_step(
    configure: Configure, server: FakeServer
) -> None:
    config = configure()
    trainer = make_trainer(config, server)
    trainer.train_to = 1
    server.poison = float("nan")
    with pytest.raises(
        DivergedError, match=r"step 1: the loss of seed \d+ of 'a .*lower optimiser.lr"
    ):
        run_trainer(config, trainer)
    assert open_run(config, resume=True).latest() == 0


def test_weights_that_overflow_are_neither_saved_nor_published(
    configure: Configure, finished: Configure, server: FakeServer
) -> None:
    """A finite gradient, and an update that is not, of moments that have overflowed."""
    finished(1)
    config = configure("--run.steps", "3")
    trainer = make_trainer(config, server, resume=True)
    for moments in trainer.parts.learner.optimiser.state.values():
        moments["exp_avg"].fill_(torch.inf)
    with pytest.raises(
        DivergedError,
        match=r"step 2: the update makes weights NaN or infinite; .*lower optimiser.lr",
    ):
        run_trainer(config, trainer)
    assert open_run(config, resume=True).latest() == 1
    resumed = make_trainer(config, server, resume=True)
    assert resumed.state.step == 1
    assert all(weights.finite for weights in resumed.parts.policy.weights.values())


@pytest.mark.parametrize(
    ("error", "raised", "match"),
    [
        (
            torch.OutOfMemoryError("tried to allocate 2 GiB\nmore"),
            OutOfMemoryError,
            r"step 2 is saved .*model.sample_batch.*--resume \(tried to allocate 2 GiB\)",
        ),
        (ZeroDivisionError("a bug"), ZeroDivisionError, "a bug"),
    ],
)
def test_whatever_stops_a_step_the_last_one_is_saved(
    configure: Configure,
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    raised: type[Exception],
    match: str,
) -> None:
    config = configure("--checkpoint.every", "100")
    trainer = make_trainer(config, server)
    update = trainer.parts.learner.update

    def fails_in_the_third_step(samples, conditioning, step, replayed):
        if step == 3:
            raise error
        return update(samples, conditioning, step, replayed)

    monkeypatch.setattr(trainer.parts.learner, "update", fails_in_the_third_step)
    with pytest.raises(raised, match=match):
        run_trainer(config, trainer)
    assert open_run(config, resume=True).latest() == 2


def test_an_unreachable_server_leaves_the_last_complete_step(
    configure: Configure, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure("--checkpoint.every", "100", "--recipe.explore_ahead", "0")
    explore = server.explore

    def leaves_in_the_third_step(requests, adapter):
        if server.version == 3:
            raise PatienceEndedError("gone")
        return explore(requests, adapter)

    monkeypatch.setattr(server, "explore", leaves_in_the_third_step)
    with pytest.raises(PatienceEndedError):
        run(config, server)
    assert open_run(config, resume=True).latest() == 2


def test_a_run_folder_is_not_started_into_twice(
    configure: Configure, finished: Configure, server: FakeServer
) -> None:
    config = finished(1)
    with pytest.raises(RunFolderError, match="--resume"):
        run(config, server)
    other = configure("--run.name", "none")
    with pytest.raises(RunFolderError, match="start without --resume"):
        run(other, server, resume=True)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        (("--run.seed", "1"), "run.seed was 42 and is now 1"),
        (("--optimiser.lr", "0.5"), r"optimiser.lr was 0.01 and is now 0.5"),
        (("--lora.rank", "2"), "lora.rank was 4 and is now 2"),
        (("--recipe.solver", "dpm2m"), 'recipe.solver was "euler" and is now "dpm2m"'),
        (("--recipe.score_after", "1"), "recipe.score_after was null and is now 1"),
        (("--recipe.replay", "1"), "recipe.replay was 0 and is now 1"),
    ],
)
def test_resuming_with_another_setting_names_it(
    configure: Configure,
    finished: Configure,
    server: FakeServer,
    override: tuple[str, ...],
    key: str,
) -> None:
    finished(1)
    with pytest.raises(RunFolderError, match=key):
        run(configure("--run.steps", "2", *override), server, resume=True)


def test_a_spent_time_budget_ends_the_run_after_the_step(
    configure: Configure, server: FakeServer
) -> None:
    config = configure("--run.minutes", "0.001")
    run(config, server)
    assert len(list(read_metrics(config.run.path / "metrics.jsonl"))) == 1


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ("--recipe.candidates", "10"),
            "recipe.candidates = 10, but the server draws a prompt's in multiples of 4",
        ),
        (
            ("--reward.name", "warmht"),
            "reward.name: the server has no reward 'warmht': did you mean",
        ),
        (("--reward.heldout", '["x"]'), "reward.heldout: the server has no reward 'x'"),
        (("--lora.rank", "64"), "lora.rank = 64, but the server takes up to 16"),
        (("--recipe.explore_steps", "60"), "recipe.explore_steps = 60"),
        (
            ("--recipe.score_after", "1"),
            "recipe.score_after = 1, but the server (version 0) scores after all steps only",
        ),
        (
            ("--recipe.solver", "dpm2m"),
            "recipe.solver = 'dpm2m', but the server (version 0) draws with euler alone: set it to that",
        ),
        (("--model.family", "demoo"), "did you mean 'demo'"),
        (("--model.resolution_px", "128"), "set model.resolution_px = 64"),
        (("--model.resolution_px", "64x128"), "set model.resolution_px = 64, not [64, 128]"),
        (("--model.checkpoint", "nowhere"), "nowhere has no transformer/config.json"),
        (("--run.device", "cuda"), "set it to cpu"),
    ],
)
def test_settings_that_do_not_fit_the_server_are_one_sentence(
    configure: Configure, server: FakeServer, overrides: tuple[str, ...], sentence: str
) -> None:
    if "cuda" in overrides and torch.cuda.is_available():
        pytest.skip("there is a card")
    server.scores_early, server.solvers = False, (Solver.EULER,)
    with pytest.raises(HeliostatError) as error:
        run(configure(*overrides), server)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)

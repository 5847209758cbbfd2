"""Which runs are one setting, which compare, and what is said of those that do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heliostat_engines.errors import HeliostatError
from heliostat_trainer.compare import Comparison, Counting, compare_runs
from heliostat_trainer.errors import CompareError, RunFolderError
from heliostat_trainer.forecast.work import Made, spent
from heliostat_trainer.settings.load import load_config
from heliostat_trainer.tuning import configured
from tests.trainer.compare.runs import DEMO, SERVER, leave_run

GAINS = {10: 0.1, 20: 0.2}


def compared(*runs: Path, **counting: object) -> Comparison:
    return compare_runs(runs, Counting(**counting))  # type: ignore[arg-type]


def refused(*runs: Path) -> str:
    with pytest.raises(HeliostatError) as error:
        compared(*runs)
    return str(error.value)


def test_runs_that_differ_in_their_seed_alone_are_one_setting(tmp_path: Path) -> None:
    runs = [
        leave_run(tmp_path / "base-0", GAINS),
        leave_run(tmp_path / "mine-0", GAINS, "--lora.rank", "8"),
        leave_run(tmp_path / "base-1", GAINS, "--server.url", "grpc://10.0.0.9:8600", seed=1),
        leave_run(tmp_path / "elsewhere" / "mine-1", GAINS, "--lora.rank", "8", seed=1),
        leave_run(tmp_path / "base-2", {10: 0.1}, "--logging.to", '["tensorboard"]', seed=2),
    ]
    comparison = compared(*runs)
    assert [(group.label, group.seeds) for group in comparison.groups] == [
        ("base", (0, 1, 2)),
        ("mine", (0, 1)),
    ]
    assert comparison.groups[0].steps == [0, 10]  # as far as all of them are
    assert comparison.groups[1].steps == [0, 10, 20]
    assert comparison.differences == {"lora.rank": (32, 8)}
    assert comparison.warnings == ()


def test_what_the_server_was_is_a_difference_too(tmp_path: Path) -> None:
    runs = [
        leave_run(tmp_path / "a", GAINS),
        leave_run(tmp_path / "b", GAINS, server=SERVER | {"precision": "bf16"}),
    ]
    comparison = compared(*runs, nvfp4_speedups=(2.0,), image_nfes=0.0)
    assert comparison.differences == {"server's precision": ("nvfp4", "bf16")}
    (unit,) = (unit for unit in comparison.units if "evaluations" in unit.name)
    quantised, plain = (comparison.costs(group, unit)[1] for group in comparison.groups)
    config = load_config(DEMO)
    cost = spent(config, [Made(configured(config))] * 10)[-1]
    assert quantised == cost.bf16_equivalents(2.0)
    assert plain == cost.bf16_equivalents(1.0)


def test_settings_of_another_version_have_its_defaults(tmp_path: Path) -> None:
    old, new = leave_run(tmp_path / "old", GAINS), leave_run(tmp_path / "new", GAINS, seed=1)
    content = json.loads((old / "run.json").read_text())
    del content["config"]["prompts"]["flat_after"]
    (old / "run.json").write_text(json.dumps(content))
    assert len(compared(old, new).groups) == 1
    content["config"]["lora"]["colour"] = "red"
    (old / "run.json").write_text(json.dumps(content))
    said = refused(old, new)
    assert said.startswith(f"{old / 'run.json'} holds settings of another version: ")
    assert "lora.colour" in said


def test_labels_tell_runs_apart(tmp_path: Path) -> None:
    runs = [
        leave_run(tmp_path / "a-0", GAINS),
        leave_run(tmp_path / "b-0", GAINS, seed=1),
        leave_run(tmp_path / "x" / "same", GAINS, "--lora.rank", "8"),
        leave_run(tmp_path / "y" / "same", GAINS, "--lora.rank", "4"),
    ]
    labels = [group.label for group in compared(*runs).groups]
    assert labels == ["a-0", str(runs[2]), str(runs[3])]


def test_the_same_draw_twice_is_one(tmp_path: Path) -> None:
    runs = [
        leave_run(tmp_path / "a", GAINS),
        leave_run(tmp_path / "copy", GAINS),
        leave_run(tmp_path / "b", GAINS, "--lora.rank", "8"),
    ]
    comparison = compared(*runs)
    assert [len(group.runs) for group in comparison.groups] == [1, 1]
    assert comparison.warnings == (
        "copy has the settings and the run.seed of a: it is no draw of its own, and left out",
    )


def test_one_run_is_nothing_to_compare(tmp_path: Path) -> None:
    run = leave_run(tmp_path / "a", GAINS)
    assert refused(run) == f"{run} is one run: name another one to compare it with"
    assert "is one run" in refused(run, tmp_path / "." / "a")


def test_seeds_of_one_setting_alone_can_be_looked_at(tmp_path: Path) -> None:
    comparison = compared(
        leave_run(tmp_path / "run-0", GAINS), leave_run(tmp_path / "run-1", GAINS, seed=1)
    )
    assert len(comparison.groups) == 1
    assert comparison.warnings == (
        "all runs have the same settings: their mean has nothing to be compared with",
    )


@pytest.mark.parametrize(
    ("made_with", "what"),
    [
        ({"denoising_steps": 30}, "denoising steps (30, not 20)"),
        ({"guidance": 3.0}, "guidance (3.0, not 1.0)"),
        ({"prompts": ("a cow", "two bees")}, "prompts"),
        ({"guidance": 2.0, "prompts": ("x", "y")}, "guidance (2.0, not 1.0), prompts"),
    ],
)
def test_evaluations_that_do_not_pair_are_refused_by_name(
    tmp_path: Path, made_with: dict[str, object], what: str
) -> None:
    first = leave_run(tmp_path / "a", GAINS)
    other = leave_run(tmp_path / "b", GAINS, **made_with)  # type: ignore[arg-type]
    assert refused(first, other) == (
        f"b was evaluated with other {what} than a: leave it out, or resume it with the same "
        "[evaluation]"
    )


def test_other_models_are_refused_and_other_weights_said(tmp_path: Path) -> None:
    first = leave_run(tmp_path / "a", GAINS)
    flux = leave_run(tmp_path / "flux", GAINS, "--model.family", "flux")
    assert refused(first, flux) == (
        "flux trains another model (model.family = flux) than a (demo): leave it out"
    )
    other = leave_run(tmp_path / "b", GAINS, server=SERVER | {"weights_digest": "def"})
    assert compared(first, other).warnings[0] == (
        "b trains other weights (model.checkpoint) than a: each gain is over the run's own base model"
    )
    moved = leave_run(tmp_path / "c", GAINS, "--model.checkpoint", "/moved")
    assert compared(first, moved).warnings == ()


def test_folders_that_are_no_runs_or_have_only_begun_are_one_sentence(tmp_path: Path) -> None:
    run, nothing = leave_run(tmp_path / "a", GAINS), tmp_path / "nothing"
    assert refused(run, nothing) == f"{nothing} is no run folder: it has no run.json"
    new = leave_run(tmp_path / "new", {})
    (new / "evaluation" / "step-000000" / "results.json").unlink()
    assert refused(run, new) == f"{new} has no evaluation yet: nothing to compare"


def test_costs_that_settings_do_not_tell_are_said(tmp_path: Path) -> None:
    runs = [
        leave_run(tmp_path / "a", GAINS),
        leave_run(tmp_path / "c", GAINS, "--lora.rank", "4", lines={"explore_steps": 5}),
        leave_run(tmp_path / "d", GAINS, "--lora.rank", "2", lines={"explore_steps": "many"}),
    ]
    assert compared(*runs).warnings == (
        "c came to explore in more than 4 steps: its evaluations do not count these",
    )


def test_damaged_parts_are_said_and_left_out(tmp_path: Path) -> None:
    runs = leave_run(tmp_path / "a", GAINS), leave_run(tmp_path / "b", GAINS, "--lora.rank", "8")
    results = [runs[1] / "evaluation" / f"step-0000{step}0" / "results.json" for step in (1, 2)]
    (entry,) = json.loads(results[0].read_text())
    entry["rewards"]["heldout"][0].append(0.5)
    results[0].write_text(json.dumps([entry]))
    (entry,) = json.loads(results[1].read_text())
    entry["rewards"]["heldout"][0][0] = float("nan")
    results[1].write_text(json.dumps([entry]))
    comparison = compared(*runs)
    assert comparison.groups[1].steps == [0]
    assert [str(path) in said for path, said in zip(results, comparison.warnings, strict=True)] == [
        True,
        True,
    ]


def test_an_evaluation_at_another_guidance_is_found_among_several(tmp_path: Path) -> None:
    first = leave_run(tmp_path / "a", GAINS)
    other = leave_run(tmp_path / "b", GAINS, "--evaluation.guidances", "[3.0, 1.0]", guidance=3.0)
    for step in ("step-000000", "step-000020"):
        here, there = (run / "evaluation" / step / "results.json" for run in (other, first))
        here.write_text(json.dumps(json.loads(here.read_text()) + json.loads(there.read_text())))
    comparison = compared(first, other)
    assert comparison.groups[1].steps == [0, 20]


def test_costs_are_by_step_by_plan_by_clock_and_by_price(tmp_path: Path) -> None:
    first = leave_run(tmp_path / "a", {10: 0.05, 20: 0.2}, step_s=10)
    own = leave_run(tmp_path / "b", {5: 0.1, 20: 0.4}, "--lora.rank", "8", step_s=20)
    comparison = compared(first, own, nvfp4_speedups=(2.4,), price_per_hour=36.0)
    steps, evaluations, seconds, money = comparison.units
    assert [unit.name for unit in comparison.units] == [
        "training steps",
        "evaluations, NVFP4 1/2.4",
        "seconds of training",
        "money at 36 an hour",
    ]
    group = comparison.groups[1]
    config = load_config(DEMO)
    for unit, whole in (
        (steps, 5.0),
        (evaluations, spent(config, [Made(configured(config))] * 5)[-1].bf16_equivalents(2.4, 1.0)),
        (seconds, 100.0),
        (money, 1.0),
    ):
        cost = comparison.cost(group, "demo_judge", unit, 0.25).cost  # 0.05 of 0.2
        assert cost is not None
        assert cost.mean == pytest.approx(whole / 2)
    ratio = comparison.cost(group, "heldout", seconds, 1.0).ratio
    assert ratio is not None
    assert ratio.mean == pytest.approx((5 + 15 / 3) * 20 / 200)


def test_time_that_was_not_kept_is_not_known(tmp_path: Path) -> None:
    first = leave_run(tmp_path / "a", GAINS)
    own = leave_run(tmp_path / "b", GAINS, "--lora.rank", "8")
    lines = (own / "metrics.jsonl").read_text().splitlines(keepends=True)
    (own / "metrics.jsonl").write_text("".join(lines[:12:2]))
    comparison = compared(first, own)
    group = comparison.groups[1]
    steps, *_, seconds = comparison.units
    assert comparison.minutes(group) is None
    assert comparison.costs(group, seconds) == [0, 100, None]  # step 10: between 9 and 11
    assert comparison.cost(group, "demo_judge", seconds, 0.5).cost is not None
    assert comparison.cost(group, "demo_judge", seconds, 1.0).cost is None
    assert comparison.cost(group, "demo_judge", steps, 1.0).cost is not None


def test_without_exploring_nvfp4_makes_no_difference(tmp_path: Path) -> None:
    words = ("--recipe.name", "diffusionnft")
    first = leave_run(tmp_path / "a", GAINS, *words)
    own = leave_run(tmp_path / "b", GAINS, *words, "--lora.rank", "8")
    names = [unit.name for unit in compared(first, own).units]
    assert names == ["training steps", "evaluations", "seconds of training"]


def test_one_reward_can_be_looked_at_alone(tmp_path: Path) -> None:
    runs = leave_run(tmp_path / "a", GAINS), leave_run(tmp_path / "b", GAINS, "--lora.rank", "8")
    assert compared(*runs).rewards == ("demo_judge", "heldout")
    assert compare_runs(runs, Counting(), "heldout").rewards == ("heldout",)
    with pytest.raises(CompareError, match="choose from demo_judge, heldout"):
        compare_runs(runs, Counting(), "beauty")


def test_a_first_run_that_gains_nothing_tells_no_costs(tmp_path: Path) -> None:
    first = leave_run(tmp_path / "a", {20: -0.1})
    comparison = compared(first, leave_run(tmp_path / "b", GAINS, "--lora.rank", "8"))
    assert not comparison.gains("demo_judge")
    cost = comparison.cost(comparison.groups[1], "demo_judge", comparison.units[0], 0.5)
    assert (cost.cost, cost.ratio) == (None, None)


def test_gains_are_over_seeds_or_of_one_run_over_prompts(tmp_path: Path) -> None:
    runs = [
        leave_run(tmp_path / "a-0", {20: 0.1}),
        leave_run(tmp_path / "a-1", {20: 0.3}, seed=1),
        leave_run(tmp_path / "b", {20: 0.2}, "--lora.rank", "8"),
    ]
    several, one = (compared(*runs).result(group, "demo_judge") for group in compared(*runs).groups)
    assert several.base == pytest.approx(0.375)
    assert several.mean == pytest.approx(0.575)
    assert several.gain.mean == pytest.approx(0.2)
    assert several.gain.half_width == pytest.approx(12.7062 * 0.1, rel=1e-3)
    assert one.gain.mean == pytest.approx(0.2)
    assert one.gain.half_width == pytest.approx(0, abs=1e-9)


def test_settings_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    run = leave_run(tmp_path / "a", GAINS)
    other = leave_run(tmp_path / "b", GAINS)
    (other / "run.json").write_text("{")
    with pytest.raises(RunFolderError, match="this is not JSON"):
        compared(run, other)

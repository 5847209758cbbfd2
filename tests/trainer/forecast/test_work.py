"""What a run will take: by hand, and as counted in a run."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import torch

from heliostat_engines.families import get_family
from heliostat_trainer.forecast.memory import memory_of
from heliostat_trainer.forecast.work import (
    NVFP4_SPEEDUPS,
    POLICIES,
    Activity,
    Cost,
    Made,
    TrainerMemory,
    plan_run,
    spent,
    total,
)
from heliostat_trainer.policy.policy import ADAPTERS, LoraWeights
from heliostat_trainer.run import run_trainer
from heliostat_trainer.settings.recipe import RecipeName
from heliostat_trainer.tuning import configured
from tests.trainer.fake_server import FakeServer
from tests.trainer.test_loop import make_trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from heliostat_trainer.loop import Trainer
    from heliostat_trainer.settings.config import TrainConfig

# The tiny run: 3 steps of 2 prompts; 8 candidates in 2 steps, 4 of them redrawn in 4 steps; trained
# at 0.6 of 4 noise levels, 2 of them; one group
# watched in the first step; evaluated before and after on 3 prompts x 2 seeds in 3 steps.
EVALUATED = Cost(2 * 6, bf16=2 * 6 * 3)


def test_counting_imports_no_torch() -> None:
    code = "import sys, heliostat_trainer.forecast.work; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_of_sol_rl_is_counted(configure: Callable[..., TrainConfig]) -> None:
    plan = plan_run(configure())
    assert (plan.steps, plan.prompts, plan.candidates, plan.kept) == (3, 2, 8, 4)
    assert (plan.rows, plan.evaluations_a_row, plan.evaluations) == (2 * 4 * 2, 3, 2)
    assert plan.a_step == {
        Activity.EXPLORE: Cost(16, fp4=16 * 2),
        Activity.DRAW: Cost(8, bf16=8 * 4),
        Activity.TRAIN: Cost(bf16=16 * 3, backward=16),
    }
    assert plan.in_all == {
        Activity.EXPLORE: Cost(48, fp4=96),
        Activity.DRAW: Cost(24, bf16=96),
        Activity.TRAIN: Cost(
            bf16=144 - 16, backward=48
        ),  # at first the old policy is the trained one
        Activity.WATCH: Cost(8, bf16=32),
        Activity.EVALUATE: EVALUATED,
        Activity.SHOWCASE: Cost(16, fp4=16, bf16=32),
    }
    assert total(plan.in_all.values()) == Cost(108, fp4=112, bf16=324, backward=48)


def test_what_training_took_until_a_step_leaves_out_what_is_only_looked_at(
    configure: Callable[..., TrainConfig],
) -> None:
    config = configure("--watch.every", "2")
    shape = configured(config)
    first, a_step = Cost(24, fp4=32, bf16=64, backward=16), Cost(24, fp4=32, bf16=80, backward=16)
    watched = Cost(8, bf16=32)
    costs = spent(config, [Made(shape)] * 9)
    assert costs[0] == Cost()
    assert costs[1] == first + watched  # the old policy is the trained one
    assert costs[2] == first + a_step + watched
    assert costs[9] == first + a_step * 8 + watched * 5
    smaller = replace(shape, prompts=1, candidates=4, keep_pairs=1, score_after=1)
    *_, before, after = spent(config, [Made(shape), Made(smaller)])
    assert after == before + Cost(4 + 2, fp4=4, bf16=2 * 4 + 2 * 2 * 3, backward=2 * 2)


def test_groups_that_were_skipped_were_explored_alone(
    configure: Callable[..., TrainConfig],
) -> None:
    config = configure("--recipe.replay", "1")
    shape = configured(config)
    whole = spent(config, [Made(shape)] * 2)
    costs = spent(config, [Made(shape), Made(shape, skipped=1)])
    assert whole[2].images - costs[2].images == 4  # redrawn of one of two groups
    assert whole[2].fp4 == costs[2].fp4
    assert whole[2].backward - costs[2].backward == 8
    none = spent(config, [Made(shape, skipped=shape.prompts)])
    assert none == spent(config, [Made(shape, skipped=shape.prompts - 1)])  # one is trained on


def test_replay_trains_again_on_what_was_drawn_once(configure: Callable[..., TrainConfig]) -> None:
    plain = plan_run(configure("--run.steps", "4"))
    plan = plan_run(configure("--run.steps", "4", "--recipe.replay", "2"))
    assert (plan.rows, plan.replayed_rows) == (16, 32)
    assert plan.a_step == {**plain.a_step, Activity.TRAIN: Cost(bf16=48 * 3, backward=48)}
    rows = 16 + 32 + 48 + 48
    assert plan.in_all == {**plain.in_all, Activity.TRAIN: Cost(bf16=rows * 3 - 16, backward=rows)}
    short = plan_run(configure("--run.steps", "1", "--recipe.replay", "2"))
    assert short.in_all[Activity.TRAIN] == Cost(bf16=16 * 2, backward=16)


def test_what_training_took_counts_what_each_step_replayed(
    configure: Callable[..., TrainConfig],
) -> None:
    config = configure("--recipe.replay", "1")
    shape = configured(config)
    smaller = replace(shape, prompts=1, keep_pairs=1)
    costs = spent(config, [Made(shape), Made(smaller), Made(smaller)])
    assert [after.backward - before.backward for before, after in pairwise(costs)] == [16, 20, 8]
    images = [after.images - before.images for before, after in pairwise(costs)]
    assert images == [16 + 8 + 8, 8 + 2, 8 + 2]  # the first step is watched, too


@pytest.mark.slow
def test_a_real_run_replays_as_often_as_planned(
    configure: Callable[..., TrainConfig], server: FakeServer
) -> None:
    config = configure("--recipe.replay", "1", "--optimiser.updates_per_step", "2")
    trainer = make_trainer(config, server)
    with counted(trainer, server) as counts:
        run_trainer(config, trainer)
    planned, trained = plan_run(config).in_all[Activity.TRAIN], counts[Activity.TRAIN]
    assert planned == Cost(bf16=5 * 16 * 3 - 8, backward=5 * 16)
    assert (trained["bf16"], trained["backward"]) == (planned.bf16, planned.backward)


@pytest.mark.parametrize(
    ("recipe", "explored", "drawn"),
    [
        ("sol_rl", Cost(16, fp4=32), Cost(8, bf16=32)),
        ("heliostat", Cost(16, fp4=32), Cost(8, bf16=32)),
        ("bf16_explore", Cost(16, bf16=32), Cost(8, bf16=32)),
        ("naive_quant", Cost(16, fp4=64), Cost()),
        ("naive_scaling", Cost(), Cost(16, bf16=64)),
        ("diffusionnft", Cost(), Cost(8, bf16=32)),
    ],
)
def test_recipes_differ_in_what_draws_the_candidates(
    configure: Callable[..., TrainConfig], recipe: str, explored: Cost, drawn: Cost
) -> None:
    plan = plan_run(configure("--recipe.name", recipe))
    assert plan.a_step[Activity.EXPLORE] == explored
    assert plan.a_step[Activity.DRAW] == drawn
    half = recipe == RecipeName.HELIOSTAT  # of the noise levels
    rows = 8 if half else 16
    assert plan.a_step[Activity.TRAIN] == Cost(bf16=3 * rows, backward=rows)


def test_what_is_scored_early_costs_the_steps_that_are_evaluated(
    configure: Callable[..., TrainConfig],
) -> None:
    plan = plan_run(configure("--recipe.score_after", "1"))
    assert plan.a_step[Activity.EXPLORE] == Cost(16, fp4=16)
    assert plan.a_step[Activity.DRAW] == Cost(8, bf16=8 * 4)
    assert plan.in_all[Activity.SHOWCASE] == Cost(16, fp4=8, bf16=32)


@pytest.mark.parametrize(
    ("settings", "rows", "evaluations"),
    [
        ({"name": "diffusion_nft", "kl_weight": 0}, 16, 2),
        ({"name": "diffusion_nft", "timestep_fraction": 1}, 32, 3),
        ({"name": "awm"}, 16, 3),
        ({"name": "awm", "old_weight": 0, "kl_weight": 0}, 16, 1),
        ({"name": "diffusion_dpo"}, 16, 2),
        ({"name": "dgpo"}, 8, 2),
        ({"name": "flow_grpo"}, 24, 2),
        ({"name": "flow_grpo_fast", "window": 2}, 16, 1),
        ({"name": "dance_grpo", "subset_pairs": 1}, 4, 1),
    ],
    ids=lambda value: str(value.get("name")) if isinstance(value, dict) else None,
)
def test_objectives_differ_in_rows_and_in_evaluations_of_each(
    configure: Callable[..., TrainConfig],
    settings: dict[str, object],
    rows: int,
    evaluations: int,
) -> None:
    words = [f"--objective.{key}={value}" for key, value in settings.items()]
    plan = plan_run(configure(*words))
    assert (plan.rows, plan.evaluations_a_row) == (rows, evaluations)
    assert plan.a_step[Activity.TRAIN] == Cost(bf16=rows * evaluations, backward=rows)


@pytest.mark.parametrize(
    ("settings", "a_step", "in_all"),
    [
        ((), 48, 3 * 48 - 16),
        (("--old_policy.decay_max", "0"), 32, 3 * 32),
        (("--old_policy.decay_slope", "0", "--optimiser.updates_per_step", "3"), 42, 3 * 42),
        (("--old_policy.decay_max", "0", "--model.compile", "true"), 48, 3 * 48),
        (("--old_policy.decay_max", "0", "--objective.name", "diffusion_dpo"), 32, 3 * 32),
    ],
)
def test_an_old_policy_that_is_the_trained_one_is_not_evaluated(
    configure: Callable[..., TrainConfig], settings: tuple[str, ...], a_step: int, in_all: int
) -> None:
    plan = plan_run(configure(*settings))
    assert plan.a_step[Activity.TRAIN] == Cost(bf16=a_step, backward=16)
    assert plan.in_all[Activity.TRAIN] == Cost(bf16=in_all, backward=48)


def test_a_real_run_on_policy_evaluates_as_often_as_planned_and_trains_to_the_same_bits(
    configure: Callable[..., TrainConfig],
    server: FakeServer,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = ("--old_policy.decay_max", "0", "--optimiser.updates_per_step", "2", "--run.name")
    config = configure(*settings, "on-policy")
    trainer = make_trainer(config, server)
    with counted(trainer, server) as counts:
        run_trainer(config, trainer)
    planned, trained = plan_run(config).in_all[Activity.TRAIN], counts[Activity.TRAIN]
    assert (trained["bf16"], trained["backward"]) == (planned.bf16, planned.backward)
    monkeypatch.setattr(LoraWeights, "equals", lambda *_: False)
    asked = configure(*settings, "asked")
    other = make_trainer(asked, FakeServer(checkpoint))
    with counted(other, server) as counts:
        run_trainer(asked, other)
    assert counts[Activity.TRAIN]["bf16"] == planned.bf16 + 3 * 8
    for name, weights in trainer.parts.policy.weights.items():
        for key, value in weights.tensors.items():
            assert torch.equal(value, other.parts.policy.weights[name].tensors[key])


def test_guidance_counts_twice_and_all_scales_only_first_and_last(
    configure: Callable[..., TrainConfig],
) -> None:
    config = configure(
        *("--run.steps", "5", "--evaluation.every", "2", "--evaluation.guidances", "[1.0, 3.0]")
    )
    plan = plan_run(config)
    assert plan.evaluations == 4  # before, after 2 and 4, and at the end
    assert plan.in_all[Activity.EVALUATE] == Cost(2 * 12 + 2 * 6, bf16=2 * (18 + 36) + 2 * 18)
    last_is_due = replace_steps(config, 4)
    assert plan_run(last_is_due).evaluations == 3


def replace_steps(config: TrainConfig, steps: int) -> TrainConfig:
    return config.model_copy(update={"run": config.run.model_copy(update={"steps": steps})})


def test_several_updates_a_step_cost_no_more_evaluations(
    configure: Callable[..., TrainConfig],
) -> None:
    one, four = plan_run(configure()), plan_run(configure("--optimiser.updates_per_step", "4"))
    assert (one.optimiser_steps, four.optimiser_steps) == (3, 12)
    assert four.a_step == one.a_step
    later = {**four.in_all, Activity.TRAIN: four.in_all[Activity.TRAIN] + Cost(bf16=-(16 - 4))}
    assert replace(four, optimiser_steps=3, in_all=later) == one  # of the first update alone


def test_equivalents_discount_nvfp4_and_count_a_backward_pass_twice() -> None:
    cost = Cost(images=1, fp4=240, bf16=10, backward=5)
    assert cost.bf16_equivalents(NVFP4_SPEEDUPS["eager"]) == pytest.approx(100 + 10 + 10)
    assert cost.bf16_equivalents(NVFP4_SPEEDUPS["compiled"]) == pytest.approx(200.4511)
    assert cost.bf16_equivalents(2.4, image_nfes=3.0) == pytest.approx(100 + 10 + 10 + 3)


def test_what_the_tiny_decoder_decodes_costs_a_share_of_an_image() -> None:
    cost = Cost(images=10, bf16=5, tiny=4)
    assert cost.bf16_equivalents(2.4, image_nfes=3.0, tiny_share=0.25) == pytest.approx(5 + 18 + 3)
    assert cost.bf16_equivalents(2.4) == 5
    assert (cost * 2 + Cost(tiny=1)).tiny == 9


def test_explored_images_alone_are_decoded_by_the_tiny_decoder(
    configure: Callable[..., TrainConfig],
) -> None:
    settings = ("--recipe.explore_decoder", "tiny", "--watch.every", "1")
    plan, full = plan_run(configure(*settings)), plan_run(configure(*settings[2:]))
    assert plan.a_step[Activity.EXPLORE].tiny == plan.a_step[Activity.EXPLORE].images > 0
    assert plan.in_all[Activity.SHOWCASE].tiny == plan.candidates
    for activity in (Activity.DRAW, Activity.TRAIN, Activity.WATCH, Activity.EVALUATE):
        assert plan.in_all[activity] == full.in_all[activity]
        assert not plan.in_all[activity].tiny
    assert not any(cost.tiny for cost in full.in_all.values())
    for recipe in RecipeName:
        a_step = plan_run(configure(*settings, "--recipe.name", recipe)).a_step
        redraws = recipe in {RecipeName.SOL_RL, RecipeName.HELIOSTAT, RecipeName.BF16_EXPLORE}
        assert bool(a_step[Activity.EXPLORE].tiny) == redraws


def test_memory_is_what_the_trainer_holds(
    configure: Callable[..., TrainConfig], server: FakeServer
) -> None:
    config = configure()
    trainer = make_trainer(config, server)
    policy, family = trainer.parts.policy, get_family("demo")
    base = family.load_transformer(server.checkpoint, torch.bfloat16)
    memory = memory_of(config, family, base, 64)
    lora = sum(value.numel() for value in policy.trained.tensors.values())
    assert len(ADAPTERS) == POLICIES
    assert memory.lora_parameters == lora
    with_copies = sum(2 * value.numel() for value in policy._transformer.state_dict().values())
    assert memory.transformer + 3 * 2 * lora == with_copies
    held = with_copies + 3 * 4 * lora + (2 + 1) * 4 * lora
    assert memory.total == held + max(memory.activations, memory.redrawing)


def test_memory_follows_what_saves_it(
    configure: Callable[..., TrainConfig], checkpoint: Path
) -> None:
    def memory(*overrides: str) -> TrainerMemory:
        family = get_family("demo")
        base = family.load_transformer(str(checkpoint), torch.bfloat16)
        return memory_of(configure(*overrides), family, base, 64)

    plain, half = memory(), memory("--optimiser.micro_batch", "4")
    # But for the LoRA's gradients, which do not grow with the rows.
    assert plain.activations == pytest.approx(2 * half.activations, rel=0.2)
    checkpointed = memory("--model.gradient_checkpointing", "true")
    assert 0 < checkpointed.activations < plain.activations
    assert replace(checkpointed, activations=plain.activations) == plain
    small = memory("--optimiser.name", "adamw_8bit")
    assert small.optimiser == round((2 * (1 + 4 / 256) + 4) * small.lora_parameters)


def test_a_sharded_transformer_is_divided_by_the_ranks(
    configure: Callable[..., TrainConfig], checkpoint: Path
) -> None:
    def memory(*overrides: str, ranks: int) -> TrainerMemory:
        family = get_family("demo")
        base = family.load_transformer(str(checkpoint), torch.bfloat16)
        return memory_of(configure(*overrides), family, base, 64, ranks)

    whole = memory(ranks=2)
    sharded = memory("--model.shard", "true", ranks=1000)
    base = get_family("demo").load_transformer(str(checkpoint), torch.bfloat16)
    block = sum(value.numel() for value in base.transformer_blocks[0].parameters())
    assert sharded.transformer == whole.transformer // 1000 + 2 * 2 * block
    assert replace(sharded, transformer=whole.transformer) == whole


def test_memory_of_a_large_model_by_hand() -> None:
    memory = TrainerMemory(
        transformer=16_000_000_000,
        lora_parameters=50_000_000,
        moment_bytes=4,
        activations=1_000_000_000,
    )
    assert (memory.lora, memory.optimiser) == (900_000_000, 600_000_000)
    assert memory.total == 18_500_000_000


@contextmanager
def counted(trainer: Trainer, server: FakeServer) -> Iterator[dict[Activity, Counter[str]]]:
    """Evaluations of the transformer by what asks for them, while the block runs."""
    counts = {activity: Counter[str]() for activity in Activity}
    now = [Activity.DRAW]
    patch = pytest.MonkeyPatch()

    def during(owner: object, name: str, activity: Activity) -> None:
        call = getattr(owner, name)

        def wrapped(*arguments, **named):
            before, now[0] = now[0], activity
            try:
                return call(*arguments, **named)
            finally:
                now[0] = before

        patch.setattr(owner, name, wrapped)

    def in_nvfp4(latents, *rest):
        counts[Activity.EXPLORE]["fp4"] += len(latents)
        return nvfp4(latents, *rest)

    def in_bf16(name, latents, *rest):
        velocity = bf16(name, latents, *rest)
        counts[now[0]]["bf16"] += len(latents)
        counts[now[0]]["backward"] += len(latents) * velocity.requires_grad
        return velocity

    parts = trainer.parts
    nvfp4, bf16 = server.engine.velocity, parts.policy.velocity
    during(parts.learner, "update", Activity.TRAIN)
    during(parts.evaluator, "run", Activity.EVALUATE)
    during(trainer._watcher, "watch", Activity.WATCH)
    during(trainer._redrawing, "_candidates", Activity.EXPLORE)
    patch.setattr(server.engine, "velocity", in_nvfp4)
    patch.setattr(parts.policy, "velocity", in_bf16)
    try:
        yield counts
    finally:
        patch.undo()


@pytest.mark.parametrize("recipe", list(RecipeName))
def test_a_real_run_evaluates_the_transformer_as_often_as_planned(
    configure: Callable[..., TrainConfig], server: FakeServer, recipe: RecipeName
) -> None:
    config = configure(
        *("--recipe.name", recipe, "--run.steps", "2", "--evaluation.every", "1"),
        *("--recipe.explore_steps", "3", "--recipe.score_after", "1"),
        *("--evaluation.guidances", "[1.0, 3.0]", "--optimiser.updates_per_step", "2"),
    )
    trainer = make_trainer(config, server)
    with counted(trainer, server) as counts:
        run_trainer(config, trainer)
    in_all = dict(plan_run(config).in_all)
    shown = in_all.pop(Activity.SHOWCASE)  # the counters take it for exploring and drawing
    watched = in_all[Activity.WATCH]  # of which the server's part, too
    in_all[Activity.WATCH] = Cost(bf16=watched.bf16)
    in_all[Activity.EXPLORE] += Cost(fp4=shown.fp4 + watched.fp4)
    in_all[Activity.DRAW] += Cost(bf16=shown.bf16)
    assert {
        activity: (counts[activity]["fp4"], counts[activity]["bf16"], counts[activity]["backward"])
        for activity in in_all
    } == {activity: (cost.fp4, cost.bf16, cost.backward) for activity, cost in in_all.items()}


@pytest.mark.parametrize(
    "name", ["awm", "diffusion_dpo", "dgpo", "flow_grpo", "flow_grpo_fast", "dance_grpo"]
)
def test_a_real_step_of_every_objective_trains_at_as_many_rows_as_planned(
    configure: Callable[..., TrainConfig], server: FakeServer, name: str
) -> None:
    settings = {"flow_grpo_fast": ("window", "2"), "dance_grpo": ("subset_pairs", "1")}.get(name)
    extra = (f"--objective.{settings[0]}", settings[1]) if settings else ()
    config = configure("--objective.name", name, "--run.steps", "1", *extra)
    trainer = make_trainer(config, server)
    with counted(trainer, server) as counts:
        run_trainer(config, trainer)
    planned = plan_run(config).in_all[Activity.TRAIN]
    trained = counts[Activity.TRAIN]
    assert (trained["bf16"], trained["backward"]) == (planned.bf16, planned.backward)


def test_a_group_larger_than_a_micro_batch_is_evaluated_twice(
    configure: Callable[..., TrainConfig], server: FakeServer
) -> None:
    settings = ("--objective.name", "dgpo", "--run.steps", "1", "--optimiser.micro_batch", "3")
    config = configure(*settings)
    plan = plan_run(config)
    assert plan.a_step[Activity.TRAIN] == Cost(bf16=8 * 2 * 2, backward=8)
    trainer = make_trainer(config, server)
    with counted(trainer, server) as counts:
        run_trainer(config, trainer)
    assert counts[Activity.TRAIN] == {"bf16": 8 * 2 * 2, "backward": 8}

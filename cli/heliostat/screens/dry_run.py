"""`heliostat train --dry-run`: what a run would take, before anything is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from heliostat.screens.console import table_console
from heliostat_engines.progress import duration, shown
from heliostat_trainer.forecast.pace import measured_pace
from heliostat_trainer.forecast.work import BACKWARD_NFES, NVFP4_SPEEDUPS, plan_run, total
from heliostat_trainer.prompts.sets import prompt_notes, read_prompt_sets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import RenderableType

    from heliostat_trainer.forecast.work import Activity, Cost, Plan
    from heliostat_trainer.prompts.sets import PromptSets
    from heliostat_trainer.settings.config import TrainConfig

LEGEND = (
    "NFE: the transformer evaluated once for one image. As BF16: an NFE in FP4 counts as "
    f"1/{NVFP4_SPEEDUPS['eager']:g} of one in BF16 (published, against eager BF16) or as "
    f"1/{NVFP4_SPEEDUPS['compiled']:g} (against compiled), a backward pass as {BACKWARD_NFES}."
)


def show(config: TrainConfig, ranks: int = 1) -> None:
    """Print the plan of a run on so many ranks.

    Raises:
        HeliostatError: the run could not be started; says what to do.
    """
    console = table_console()
    prompts = read_prompt_sets(config)
    plan = plan_run(config)
    for note in prompt_notes(config, prompts):
        console.print(Text(note))
    console.print(Text(_title(config), style="bold"))
    console.print(_facts(_counts(config, plan, ranks)))
    console.print(_costs("A step", plan.a_step))
    console.print(_costs("In all", plan.in_all))
    console.print(LEGEND, style="dim", highlight=False)
    console.print(_facts([("time", _time(config))]))
    for part in _memory(config, ranks, prompts):
        console.print(part)


def _title(config: TrainConfig) -> str:
    run = config.run
    end = f", unless run.minutes = {run.minutes:g} ends it first" if run.minutes else ""
    names = f"{config.recipe.name}, {config.objective.name}"
    return f"{run.path}: {names}, {run.steps} steps{end}"


def _counts(config: TrainConfig, plan: Plan, ranks: int) -> Iterable[tuple[str, str]]:
    objective = config.objective
    policies = ["trained"] + ["old"] * objective.needs_old + ["base"] * objective.needs_reference
    twice = plan.evaluations_a_row > len(policies)
    yield "prompts a step", f"{plan.prompts:,}"
    yield "candidates a prompt", f"{plan.candidates:,}, of which {plan.kept:,} are trained on"
    yield (
        "training rows a step",
        f"{plan.rows:,} samples at a noise level, each evaluated by: {', '.join(policies)}"
        + (" (twice: optimiser.micro_batch is less than a prompt's kept samples)" if twice else ""),
    )
    if plan.replayed_rows:
        yield "replayed", f"{plan.replayed_rows:,} rows more, of steps before (recipe.replay)"
    if config.recipe.tune:
        yield "tuned", "prompts, candidates and kept may change as the run goes on (recipe.tune)"
    yield "optimiser steps", f"{plan.optimiser_steps:,}"
    yield "evaluations", f"{plan.evaluations:,}{_budget(config)}"
    if ranks > 1:
        yield "ranks", f"{ranks}, each of which evaluates 1/{ranks} of the NFEs in BF16"


def _budget(config: TrainConfig) -> str:
    share = config.evaluation.budget
    return (
        "" if share is None else f", or what {share:g} of run.minutes (evaluation.budget) affords"
    )


def _costs(title: str, costs: Mapping[Activity, Cost]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(title, no_wrap=True)
    equivalents = [f"as BF16,\nFP4 1/{speed:g}" for speed in NVFP4_SPEEDUPS.values()]
    for heading in ("images", "FP4 NFEs", "BF16 NFEs", "backward", *equivalents):
        table.add_column(heading, justify="right", no_wrap=True)
    for activity, cost in costs.items():
        table.add_row(activity, *_numbers(cost))
    table.add_section()
    table.add_row("total", *_numbers(total(costs.values())), style="bold")
    return table


def _numbers(cost: Cost) -> Iterable[str]:
    yield from (f"{count:,}" for count in (cost.images, cost.fp4, cost.bf16, cost.backward))
    yield from (f"{cost.bf16_equivalents(speed):,.0f}" for speed in NVFP4_SPEEDUPS.values())


def _time(config: TrainConfig) -> str:
    pace = measured_pace(config)
    if pace is None:
        return f"not measured yet: the first step tells, and this then reads {config.run.path}"
    if pace.change is not None:
        return f"the first step tells: {config.run.path} was measured with other settings ({pace.change})"
    outlook = pace.outlook
    return (
        f"{pace.step_s:.2f} s a step, measured over {outlook.step:,} of {config.run.path}: "
        f"{duration(outlook.remaining_s)} of training to go with --resume; evaluations come on top"
    )


def _memory(config: TrainConfig, ranks: int, prompts: PromptSets) -> Iterable[RenderableType]:
    """The table of what lies on the cards, or why it is not there."""
    try:
        from heliostat.screens.memory import LEGEND as SERVED
        from heliostat.screens.memory import Card, count_servers, memory_table, own_server
        from heliostat_engines.families import get_family
        from heliostat_engines.machine.hardware import find_gpu
        from heliostat_trainer.forecast.memory import trainer_memory
    except ImportError as error:
        text = f"not counted: {error.name} is missing, pip install 'heliostat[trainer]'"
        return [_facts([("memory", text)])]
    with shown(Console(stderr=True)) as stages, stages.during("count the memory"):
        sizes = prompts.sizes.values(), prompts.heldout_sizes.values()
        trainer = trainer_memory(config, ranks, *sizes)
        family = get_family(config.model.family)
        resolution_px = config.model.resolution_of(family)
        rank = config.lora.rank
        ways = count_servers(family, config.reward.all, resolution_px=resolution_px, rank=rank)
    gpu = find_gpu()
    own = own_server(ways, rank) if ranks == 1 else None
    card = Card(ways, trainer, None if gpu is None else gpu.free_bytes, own)
    title = (
        "A rank's memory, and a server's" if ranks > 1 else "The trainer's memory, and a server's"
    )
    return [memory_table(card, title), Text(SERVED, style="dim")]


def _facts(facts: Iterable[tuple[str, str]]) -> Table:
    table = Table(show_header=False, box=None)
    for name, value in facts:
        table.add_row(name, Text(value))
    return table

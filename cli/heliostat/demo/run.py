"""`heliostat demo`: the product in miniature, with nothing set up before it."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

from rich.console import Console

from heliostat.credentials import token_for
from heliostat.examples import example
from heliostat.own_server import demo_settings, running_server
from heliostat_engines.progress import shown
from heliostat_trainer.folder.layout import RunFolder
from heliostat_trainer.rollouts.service import Serving
from heliostat_trainer.settings.load import load_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

NAME = "demo"


def run_demo(*, runs: Path, minutes: float | None, server: str | None, resume: bool) -> Path:
    """Serve, train and report; returns the run folder.

    Args:
        runs: where run folders are kept.
        minutes: training time; the example's own if None.
        server: a running server's URL; one is started for the demo if None.
        resume: go on from the latest checkpoint of an interrupted demo.
    """
    overrides = ["--run.folder", str(runs), "--run.name", run_name(runs, resume=resume)]
    if minutes is not None:
        overrides += ["--run.minutes", str(minutes)]
    config = load_config(example("demo.toml"), overrides)
    console = Console()
    with _server(server, runs, console) as serving:
        _say_where(console, {"Rollout server": serving.url, "CPU cores": _cores()})
        with shown(console) as stages, stages.during("load torch"):
            from heliostat_engines.machine.arithmetic import explanation
            from heliostat_trainer.run import train
        _say_where(console, {"Arithmetic": explanation()})

        folder = train(
            config, server_url=serving.url, known_token=lambda: serving.token, resume=resume
        )

    from heliostat.demo.baseline import beside_baseline
    from heliostat_trainer.report import write_report

    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    beside = beside_baseline(folder, say)
    with shown(console) as stages, stages.during("write the report"):
        report = write_report(folder, beside=beside)
    _say_what_is_where(console, folder, report)
    return folder


def run_name(runs: Path, *, resume: bool) -> str:
    """demo, or demo-2 and so on if there is one: the first free name, or the last one to resume."""
    taken = [NAME, *(f"{NAME}-{number}" for number in range(2, 1000))]
    taken = list(takewhile(lambda name: (runs / name).exists(), taken))
    if resume:
        return taken[-1] if taken else NAME
    return f"{NAME}-{len(taken) + 1}" if taken else NAME


@contextmanager
def _server(url: str | None, runs: Path, console: Console) -> Iterator[Serving]:
    if url is not None:
        yield Serving(url, token_for(url))
        return
    state = runs / "demo-server"
    console.print(f"Starting a Triton server; its state and logs are in {state}", soft_wrap=True)
    with ExitStack() as running:
        with shown(console) as stages:
            serving = running.enter_context(running_server(demo_settings(state), stages))
        yield serving


def _say_where(console: Console, facts: Mapping[str, str]) -> None:
    """What the run works with, a line each."""
    for name, fact in facts.items():
        console.print(f"[bold]{name}[/]  {fact}", highlight=False, soft_wrap=True)


def _cores() -> str:
    return f"{len(os.sched_getaffinity(0))}, for server and trainer together"


def _say_what_is_where(console: Console, folder: Path, report: Path) -> None:
    files = RunFolder(folder)
    console.print(
        f"""
[bold]Done.[/]
  Pictures and curves    {report}
  LoRA, for diffusers    {files.lora}
  Metrics                {files.metrics}

[bold]Next[/]
  Train longer           heliostat demo --resume --minutes 30
  Without exploration    heliostat serve, and in another terminal
                         heliostat train examples/demo.toml --recipe.name diffusionnft \\
                           --recipe.keep_pairs 12 --objective.share_noise false --run.name baseline
  The two side by side   heliostat report {folder} --beside runs/baseline
  Your own prompts       edit examples/demo.toml: every key is explained there
""",
        highlight=False,
        soft_wrap=True,
    )

"""`heliostat doctor`: examine the machine, and print what it can do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import filesize
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heliostat.screens.console import table_console
from heliostat.screens.engine_build import quieten
from heliostat.screens.memory import LEGEND, Card, count_servers, memory_table
from heliostat_engines.compiling.cache import EngineCache, default_cache_root
from heliostat_engines.doctor.findings import Finding, Level
from heliostat_engines.doctor.machine import examine_machine
from heliostat_engines.doctor.space import family_space, measure_space, space_findings
from heliostat_engines.doctor.trial import ModeTrial, Trials, compile_ahead
from heliostat_engines.errors import RuntimeMissingError
from heliostat_engines.families import FAMILIES, get_family
from heliostat_engines.machine.hardware import find_gpu
from heliostat_engines.plans.vendor import Runtime, load_vendor
from heliostat_engines.progress import shown
from heliostat_engines.runtimes.tensorrt.engine import TensorRTEngine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from heliostat_engines.doctor.space import FamilySpace, SpaceNeed
    from heliostat_engines.machine.hardware import Gpu
    from heliostat_engines.progress import Progress

SMALL = "demo"
"""The family that is tried: its weights are here."""
MARKS = {
    Level.GOOD: "[green]ok[/green]",
    Level.NOTE: "[yellow]--[/yellow]",
    Level.PROBLEM: "[red]!![/red]",
}


@dataclass(frozen=True)
class Examination:
    """All that was found out."""

    findings: tuple[Finding, ...]
    families: tuple[FamilySpace, ...]
    trials: tuple[ModeTrial, ...]
    servers: Mapping[str, Card]
    """Of each family that was asked for."""

    @property
    def problems(self) -> int:
        """How many parts are broken."""
        return sum(finding.level is Level.PROBLEM for finding in self.findings)

    def as_json(self) -> str:
        """For a bug report."""
        return json.dumps(
            {
                "findings": [finding.model_dump() for finding in self.findings],
                "families": [needs.model_dump() for needs in self.families],
                "trials": [trial.model_dump() for trial in self.trials],
                "servers": {
                    family: {
                        way: {
                            **memory.model_dump(),
                            "total": card.total(way),
                            "fits": card.fits(way),
                        }
                        for way, memory in card.ways.items()
                    }
                    for family, card in self.servers.items()
                },
            },
            indent=2,
        )


def run(families: Sequence[str], cache: Path | None, *, trial: bool, as_json: bool) -> bool:
    """Examine and print; gives whether nothing that was asked for is broken.

    Raises:
        UnknownFamilyError: there is no such family.
    """
    quieten()
    asked = [get_family(name).name for name in families]
    examination = examine(asked, cache or default_cache_root(), trial=trial)
    console = table_console()
    if as_json:
        console.out(examination.as_json(), highlight=False)
    else:
        console.print(_findings_table(examination.findings))
        console.print(_families_table(examination.families))
        for family, card in examination.servers.items():
            console.print(memory_table(card, f"A server of {family}"))
            console.print(LEGEND, style="dim", highlight=False)
        console.print(_verdict(examination.problems))
    return examination.problems == 0


def examine(asked: Sequence[str], cache: Path, *, trial: bool) -> Examination:
    """Look at every part, at the space that each family takes, and try a small engine if `trial`."""
    gpu = find_gpu()
    with shown(Console(stderr=True)) as stages:
        with stages.during("look at this machine"):
            space = measure_space(cache)
            families = tuple(family_space(family(), space) for family in FAMILIES)
            findings = [*examine_machine(gpu, cache), *_server_findings()]
            free = None if gpu is None else gpu.free_bytes
            servers = {name: Card(count_servers(get_family(name)), free=free) for name in asked}
        with stages.during("try a small engine"):
            tried = _try_engines(gpu, EngineCache(cache), stages) if trial else ()
    for needs in families:
        if needs.family in asked:
            findings += space_findings(needs)
    trials = tuple(one for one in tried if isinstance(one, ModeTrial))
    findings += [one.finding() if isinstance(one, ModeTrial) else one for one in tried]
    return Examination(tuple(findings), families, trials, servers)


def _try_engines(
    gpu: Gpu | None, cache: EngineCache, progress: Progress
) -> Sequence[ModeTrial | Finding]:
    if gpu is not None:
        return list(Trials(get_family(SMALL), gpu, cache, TensorRTEngine, progress).run())
    try:
        load_vendor(Runtime.TENSORRT_RTX)
    except RuntimeMissingError:
        text = "not tried: without a GPU only tensorrt_rtx compiles, and it is not usable here"
        return [Finding(part="engine", level=Level.NOTE, text=text)]
    return [compile_ahead(get_family(SMALL), cache, progress)]


def _server_findings() -> list[Finding]:
    try:
        from heliostat_server.launcher.examination import examine_server
    except ImportError as error:
        text = f"not installed ({error.name} is missing): pip install 'heliostat[server]'"
        return [Finding(part="server", level=Level.NOTE, text=text)]
    return examine_server()


def _findings_table(findings: Sequence[Finding]) -> Table:
    table = Table(show_header=False, box=None)
    for finding in findings:
        table.add_row(MARKS[finding.level], finding.part, escape(finding.text))
    return table


def _families_table(families: Sequence[FamilySpace]) -> Table:
    table = Table(
        "family",
        "BF16",
        "NVFP4",
        "explore with torch",
        "build an engine",
        title="Space for the published transformers: takes / free. `heliostat doctor FAMILY` counts all of a server.",
        title_justify="left",
    )
    for needs in families:
        table.add_row(
            needs.family,
            filesize.decimal(needs.bf16_bytes),
            filesize.decimal(needs.nvfp4_bytes),
            _cell(needs.torch),
            "\n".join(_cell(need) for need in needs.build),
            end_section=True,
        )
    return table


def _cell(need: SpaceNeed) -> str:
    mark = "[green]fits[/green]" if need.fits else "[red]does not fit[/red]"
    return f"{need.what} {filesize.decimal(need.takes)} / {filesize.decimal(need.free)}, {mark}"


def _verdict(problems: int) -> str:
    if problems == 0:
        return "[green]nothing is broken[/green]"
    return f"[red]{problems} to mend: the lines that begin with !![/red]"

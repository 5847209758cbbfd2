"""`heliostat ...` in this process, judged by its exit status and by what it says."""

from __future__ import annotations

import sys
from contextlib import chdir
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from unittest import mock

from typer.testing import CliRunner

from heliostat.cli import main
from tests.bad_inputs.outcome import ACCEPTED, Outcome, Verdict, raised, refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bad_inputs.sandbox import Sandbox

CLOSED = "127.0.0.1:1"
"""Nobody listens here."""
USAGE = 2
UNSET = (
    "HELIOSTAT_TOKEN",
    "HELIOSTAT_SERVER",
    "HELIOSTAT_DEVICE",
    "HELIOSTAT_VLM_JUDGE_URL",
    "HELIOSTAT_VLM_JUDGE_MODEL",
    "HELIOSTAT_VLM_JUDGE_KEY",
)


@dataclass(frozen=True)
class Command:
    """files: by name, in the working directory. secrets: what must not be printed."""

    arguments: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()


def run_command(command: Command, sandbox: Sandbox) -> Verdict:
    """What came of it; the sandbox is as before."""
    sandbox.write(command.files)
    environment: dict[str, str | None] = dict.fromkeys(UNSET)
    home = sandbox.work / "home"
    environment |= {"HOME": str(home), "HELIOSTAT_CREDENTIALS": str(home / "credentials.json")}
    environment |= {"TERM": "dumb", "COLUMNS": "160", **command.environment}
    runner = CliRunner()
    with (
        chdir(sandbox.work),
        mock.patch.object(sys, "argv", ["heliostat", *command.arguments]),
        runner.isolation(env=environment) as (out, err, _),
    ):
        verdict = _outcome(lambda: err.getvalue().decode("utf-8", "replace"))
        said = (out.getvalue() + err.getvalue()).decode("utf-8", "replace")
    if any(secret in said for secret in command.secrets):
        verdict = Verdict(Outcome.LEAKED, said[-300:], " ".join(command.arguments[:2]))
    return sandbox.tidied(verdict)


def _outcome(errors) -> Verdict:
    try:
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        return raised(error)
    said = errors()
    if "Traceback" in said:
        return Verdict(Outcome.TRACEBACK, said[-500:], "printed")
    if status == 0:
        return ACCEPTED
    if status == USAGE:
        return Verdict(Outcome.REFUSED, said.strip())
    if status != 1:
        return Verdict(Outcome.NOT_ONE_SENTENCE, said[-300:], f"exit status {status}")
    if said.rstrip().endswith("Aborted."):  # a question that nobody answered
        return Verdict(Outcome.REFUSED, "Aborted.")
    _, ours, sentence = said.rpartition("heliostat: ")
    return refused(sentence if ours else said)

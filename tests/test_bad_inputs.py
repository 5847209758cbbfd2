"""A few hundred bad and odd inputs of the kinds that need no server.

See tests/benchmarks/bad_inputs.py for ten thousand of all kinds.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from heliostat_engines.errors import AdapterError
from tests.bad_inputs import commands, odd
from tests.bad_inputs.command_line import Command, run_command
from tests.bad_inputs.kinds import KINDS, inputs_of, kind_of
from tests.bad_inputs.outcome import ACCEPTED, Outcome, Verdict, raised, refused
from tests.bad_inputs.sandbox import Sandbox

SEED = 7
COUNTS = {
    "settings": 150,
    "serving": 150,
    "prompts": 150,
    "adapters": 150,
    "definitions": 50,
    "commands": 80,
    "runs": 6,
}


@pytest.mark.parametrize("name", COUNTS)
def test_whatever_is_given_is_taken_or_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    kind = kind_of(name)
    inputs = inputs_of(kind, SEED, 0, COUNTS[name])
    assert len(inputs) == COUNTS[name]
    with kind.opened(tmp_path) as try_:
        verdicts = [(one, try_(one)) for one in inputs]
    faults = {verdict.cause: (verdict, one) for one, verdict in verdicts if verdict.is_fault}
    assert not faults, "\n\n".join(f"{verdict}\n{one}"[:2000] for verdict, one in faults.values())
    refusals = sum(verdict.outcome is Outcome.REFUSED for _, verdict in verdicts)
    assert 0 < refusals < len(verdicts)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_same_seed_makes_the_same_inputs(kind) -> None:
    first, again = (inputs_of(kind, 3, 1, 5) for _ in range(2))
    assert first == again
    assert first != inputs_of(kind, 4, 1, 5)


def test_no_command_begins_to_work() -> None:
    """A new command needs arguments that end it first."""
    assert {words for words, _ in commands.COMMANDS} == commands.GUARDS.keys()


def test_what_belongs_to_others_is_missed_and_put_back(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    theirs = sandbox.work / "out" / "other.safetensors"
    before = theirs.read_bytes()
    assert sandbox.tidied(ACCEPTED) == ACCEPTED
    theirs.unlink()
    (sandbox.work / "new").mkdir()
    assert sandbox.tidied(ACCEPTED).outcome is Outcome.LOST
    assert theirs.read_bytes() == before
    assert not (sandbox.work / "new").exists()
    sandbox.hurt("notes.txt", odd.Damage(odd.Ruin.GONE))
    assert sandbox.tidied(ACCEPTED) == ACCEPTED
    sandbox.guard("out/mine.txt")
    (sandbox.work / "out" / "mine.txt").write_text("changed")
    assert sandbox.tidied(ACCEPTED).outcome is Outcome.LOST


def test_only_errors_of_our_own_in_one_sentence_are_refusals() -> None:
    assert raised(AdapterError("it has no tensors")) == Verdict(
        Outcome.REFUSED, "it has no tensors"
    )
    assert raised(AdapterError("line one\nline two")).outcome is Outcome.NOT_ONE_SENTENCE
    assert raised(KeyError("r")).outcome is Outcome.TRACEBACK
    assert refused("").outcome is Outcome.NOT_ONE_SENTENCE


def test_a_secret_that_is_printed_is_a_fault(tmp_path: Path) -> None:
    command = Command(("config", "recipe.s3cr3t"), secrets=("recipe.s3cr3t",))
    assert run_command(command, Sandbox(tmp_path)).outcome is Outcome.LEAKED

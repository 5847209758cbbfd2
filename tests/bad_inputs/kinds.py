"""The kinds of inputs, how many there are of each, and how they are made."""

from __future__ import annotations

import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as drawing

from tests.bad_inputs import (
    adapters,
    commands,
    definitions,
    messages,
    prompts,
    requests,
    runs,
    serving,
    settings,
)
from tests.bad_inputs.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from hypothesis import strategies as st

    from tests.bad_inputs.outcome import Verdict

    Try = Callable[[Any], Verdict]


@dataclass(frozen=True)
class Kind:
    """share: of the whole, beside the others'. opened: gives what tries one input, in a folder of its own."""

    name: str
    share: int
    inputs: st.SearchStrategy[Any]
    opened: Callable[[Path], AbstractContextManager[Try]]


def _in_sandbox(run: Callable[[Any, Sandbox], Verdict]) -> Callable[[Path], Any]:
    @contextmanager
    def opened(root: Path) -> Iterator[Try]:
        sandbox = Sandbox(root)
        yield lambda made: run(made, sandbox)

    return opened


@contextmanager
def _at_workbench(root: Path) -> Iterator[Try]:
    yield runs.Workbench(root).run


KINDS = (
    Kind("settings", 2500, settings.run_settings(), _in_sandbox(settings.run)),
    Kind("serving", 1000, serving.server_settings(), _in_sandbox(serving.run)),
    Kind("prompts", 1600, prompts.prompt_files(), _in_sandbox(prompts.run)),
    Kind("commands", 1200, commands.command_lines(), _in_sandbox(commands.run)),
    Kind("http", 1500, requests.requests(), requests.opened),
    Kind("grpc", 1000, messages.calls(), messages.opened),
    Kind("adapters", 1200, adapters.adapters, _in_sandbox(adapters.run)),
    Kind("runs", 400, runs.hurt_runs(), _at_workbench),
    Kind("definitions", 600, definitions.files(), _in_sandbox(definitions.run)),
)
CHUNK = 50
"""Inputs that are made together: one of them is found again by its seed, its chunk and its place."""


class _EnoughError(Exception):
    """Ends the making of inputs."""


def kind_of(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


def inputs_of(kind: Kind, number: int, chunk: int, count: int = CHUNK) -> list[Any]:
    """The inputs of a chunk, no two alike: the same ones whenever seed `number`, kind and chunk are."""
    made: dict[str, Any] = {}

    @seed(zlib.crc32(f"{number}/{kind.name}/{chunk}".encode()))
    @drawing(
        max_examples=4 * count,  # it likes to try what it has tried with little changed
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.inputs)
    def collect(one: Any) -> None:
        made.setdefault(repr(one), one)
        if len(made) >= count:
            raise _EnoughError

    with suppress(_EnoughError):
        collect()
    return list(made.values())[:count]

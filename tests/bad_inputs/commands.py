"""Every command of `heliostat` with odd flags, as far as nothing is begun."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer
from hypothesis import strategies as st
from typer.models import OptionInfo

from heliostat.cli import app
from heliostat.commands.settings_options import setting_options
from heliostat_engines.settings.places import places
from heliostat_server.settings import ServeSettings
from tests.bad_inputs import odd, settings
from tests.bad_inputs.command_line import CLOSED, Command, run_command
from tests.bad_inputs.sandbox import PATHS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.bad_inputs.outcome import Verdict
    from tests.bad_inputs.sandbox import Sandbox

AWAY = ("--server", f"grpc://{CLOSED}")
GUARDS: Mapping[str, tuple[str, ...]] = {
    "serve": ("--redis", f"redis://{CLOSED}", "--wait", "0"),
    "train": ("--dry-run",),
    "config": (),
    "init": (),
    "report": (),
    "compare": (),
    "export": (),
    "login": AWAY,
    "info": (),
    "health": (),
    "doctor": ("--no-trial",),
    "demo": AWAY,
    "demo pretrain": ("--no-such-flag",),
    "engine inspect": (),
    "engine build": ("--checkpoint", "./no-such-model"),
    "bench engine": ("--checkpoint", "./no-such-model"),
    "rewards": (),
    "rewards convert": (),
    **{
        f"experiment {name}": AWAY
        for name in (
            [
                "list",
                "create",
                "show",
                "set",
                "pause",
                "resume",
                "delete",
                "token",
                "revoke",
                "rollback",
                "pin",
                "unpin",
            ]
        )
    },
}
"""What ends a command before it starts a server, a training, a build: its last arguments."""
FAMILIES = ("demo", "sana", "dall-e", "DEMO", "sd3.5-large ")
ADDRESSES = (
    CLOSED,
    f"grpc://{CLOSED}",
    f"grpcs://{CLOSED}",
    f"http://{CLOSED}",
    f"redis://{CLOSED}",
    "redis://",
    "unix:///no/such/socket",
    "grpc://",
    "grpc://127.0.0.1",
    "grpc://127.0.0.1:99999",
    "grpc://127.0.0.1:0",
    "grpc://[::1]:1",
    "[::1:1",
    "127.0.0.1:１",
    "grpc://user:pass@127.0.0.1:1",
    "localhost:1/",
    "",
    " ",
)
"""None of them is looked up elsewhere."""
TEXTS: Mapping[str, tuple[str, ...]] = {
    "family": FAMILIES,
    "families": FAMILIES,
    "checkpoint": ("./no", "no/such-model", "out", "a b", "/", "x" * 200, "..", "a/b/c"),
    "device": ("auto", "cpu", "gpu"),
    "place": tuple(f"{section}.{key}" for section, key in settings.KEYS[:20]),
    "key": tuple(places(ServeSettings)),
    "step": ("latest", "best", "0", "1", "2", "٢", "²", "-1", "1.0"),
    "profile": ("24x64", "1x64,8x64,16x64", "0x0", "1x", "x", "1x64,8x64", "9" * 30 + "x64"),
    "reward": ("hpsv2", "image_reward", "ocr", "colourfulness"),
    **dict.fromkeys(
        ("server", "vlm_judge_url", "redis", "triton_url", "advertise", "host"), ADDRESSES
    ),
}
MOSTLY = {"train": ("run.toml",), "serve": ("rewards.toml",), "config": ("server", "recipe.steps")}
"""What a command begins with well."""
FILES = settings.RUN_FILES | {
    "rewards.toml": b'[rewards.mix]\nkind = "weighted_sum"\nweights = { colourfulness = 1.0 }\n',
    "empty.toml": b"",
    "bytes.bin": bytes(range(256)),
}


@dataclass(frozen=True)
class Parameter:
    """One of a command: `flags` of an option, none of an operand."""

    name: str
    kind: Any
    flags: tuple[str, ...]

    @property
    def is_switch(self) -> bool:
        return self.kind is bool


def commands(group: typer.Typer, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The words of every command, and the function behind it."""
    main = group.registered_callback
    if words and main is not None and group.info.invoke_without_command is True:
        yield " ".join(words), main.callback
    for command in group.registered_commands:
        assert command.callback is not None
        yield " ".join((*words, command.name or command.callback.__name__)), command.callback
    for below in group.registered_groups:
        assert below.typer_instance is not None
        yield from commands(below.typer_instance, (*words, str(below.name)))


def parameters(words: str, function: Any) -> Iterator[Parameter]:
    """What a command takes, as its signature has it and, of `serve`, the server's settings."""
    hints = get_type_hints(function, include_extras=True)
    if words == "serve":
        hints |= {name: each.annotation for name, each in setting_options(ServeSettings).items()}
    for name, hint in hints.items():
        if get_origin(hint) is not Annotated:  # the context, what is returned
            continue
        inner, given = get_args(hint)
        kinds = [kind for kind in settings.types_within(inner) if kind is not type(None)]
        # In Annotated, the first declaration stands where a default would.
        first = (given.default,) if isinstance(given.default, str) else ()
        flags = [flag for text in (*first, *(given.param_decls or ())) for flag in text.split("/")]
        if not isinstance(given, OptionInfo):
            flags = []
        elif not flags:
            flags = [f"--{name.replace('_', '-')}"]
        yield Parameter(name, next(iter(kinds), str), tuple(flags))  # of literals, text


COMMANDS = tuple((words, tuple(parameters(words, function))) for words, function in commands(app))


def value_of(parameter: Parameter) -> st.SearchStrategy[str]:
    """Values for a parameter: fitting ones, and others."""
    name, kind = parameter.name, parameter.kind
    if name in _LOOKED_UP:
        return st.sampled_from(TEXTS[name])
    if name in TEXTS:
        return odd.mostly(st.sampled_from(TEXTS[name]), odd.texts)
    if issubclass(kind, Enum):
        fitting = st.sampled_from([str(choice.value) for choice in kind])
    elif issubclass(kind, Path):
        fitting = st.sampled_from([*PATHS, *FILES])
    elif issubclass(kind, str):
        return odd.texts
    else:
        fitting = odd.mostly(st.integers(1, 64).map(str), odd.numbers, times=2)
    return odd.mostly(fitting, odd.texts, times=12)


_LOOKED_UP = ("server", "vlm_judge_url", "redis", "triton_url", "advertise", "host", "families")


@st.composite
def command_lines(draw: Callable[..., Any]) -> Command:
    words, known = draw(st.sampled_from(COMMANDS))
    arguments: list[str] = []
    for parameter in known:
        if not parameter.flags:
            if draw(st.integers(0, 19)):
                arguments.append(_operand(draw(value_of(parameter))))
        elif draw(st.integers(0, 7)) == 0:
            arguments.append(draw(st.sampled_from(parameter.flags)))
            if not parameter.is_switch:
                arguments.append(draw(value_of(parameter)))
    if words in MOSTLY:
        first = st.sampled_from(MOSTLY[words])
        arguments[:1] = draw(odd.mostly(first.map(lambda one: [one]), st.just(arguments[:1])))
    if words == "train":
        arguments += draw(settings.overrides)
    if draw(st.integers(0, 24)) == 0:
        arguments.append(f"--{draw(odd.words)}")
    environment = {}
    if words.startswith(("experiment", "login")) and draw(st.booleans()):
        environment["HELIOSTAT_TOKEN"] = "a-token"
    given = tuple(odd.argument(text) for text in arguments)
    return Command((*words.split(), *given, *GUARDS[words]), FILES, environment)


def _operand(text: str) -> str:
    """A group's operand must not become the name of a command below it."""
    return f"{text}_" if text in {"pretrain", "convert"} else text


def run(command: Command, sandbox: Sandbox) -> Verdict:
    return run_command(command, sandbox)

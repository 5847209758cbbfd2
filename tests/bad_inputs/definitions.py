"""Files beside a run: definitions of rewards, tokens, passwords, credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from tests.bad_inputs import odd, settings
from tests.bad_inputs.command_line import CLOSED, Command, run_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bad_inputs.outcome import Verdict
    from tests.bad_inputs.sandbox import Sandbox

SECRET = "s3cr3t-0123456789"
KINDS = (
    "weighted_sum",
    "success",
    "http",
    "vlm_judge",
    "plugin",
    "pickscore",
    "clipscore",
    "hpsv2",
    "image_reward",
    "aesthetic",
    "ocr",
    "nosuch",
)
KEYS = (
    "kind",
    "weights",
    "reward",
    "at_least",
    "url",
    "token_file",
    "timeout_s",
    "attempts",
    "batch",
    "model",
    "rubric",
    "api_key",
    "concurrency",
    "plugin",
    "options",
    "checkpoint",
    "clip",
    "dtype",
)
WEIGHTS = (
    "{ colourfulness = 1.0 }",
    "{ colourfulness = inf }",
    "{ nosuch = 1.0 }",
    "{ a = 1.0 }",
    "{}",
    "{ b = 1.0, a = -1 }",
    '{ colourfulness = "1" }',
)
TRAIN = ("train", "run.toml", "--server.patience_s", "0", "--server", f"grpc://{CLOSED}")
LIST = ("experiment", "list", "--server", f"grpc://{CLOSED}")
LOGIN = ("login", "--server", f"grpc://{CLOSED}", "--token")
SERVE = ("serve", "--redis", f"redis://{CLOSED}", "--wait", "0", "--redis-password-file")

names = st.sampled_from(["a", "b", "mix", "ocr", "vlm_judge", "colourfulness", "A", '"a b"', "a.b"])
literals = (
    settings.literals | st.sampled_from(WEIGHTS) | st.sampled_from(KINDS).map(settings.toml_string)
)


@st.composite
def definitions(draw: Callable[..., Any]) -> bytes:
    tables = {}
    for name in draw(st.lists(names, max_size=3)):
        pairs = {"kind": settings.toml_string(draw(st.sampled_from(KINDS)))}
        pairs |= draw(st.dictionaries(st.sampled_from(KEYS) | odd.words, literals, max_size=3))
        if pairs["kind"] == '"weighted_sum"':
            pairs["weights"] = draw(st.sampled_from(WEIGHTS))
        tables[f"rewards.{name}"] = pairs
    toml = settings.toml_of(tables)
    return draw(odd.damages).applied(toml) or b"" if draw(st.integers(0, 3)) == 0 else toml


@st.composite
def secrets(draw: Callable[..., Any]) -> str:
    """A token as editors, shells and clipboards leave it."""
    before, after = (draw(st.sampled_from(["", "", "\ufeff", " ", "\n"])) for _ in "ab")
    odd_end = draw(st.sampled_from(["", "\n", "\r\n", "é", "\x07", "\udcff", " x", "\t"]))
    return f"{before}{SECRET}{odd_end}{after}"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


secret_files = secrets().map(_bytes) | st.builds(
    lambda damage: damage.applied(SECRET.encode()) or b"", odd.damages
)
credentials = st.sampled_from(
    [
        "[]",
        "{}",
        '"x"',
        "null",
        f'{{"{CLOSED}": 1}}',
        f'{{"{CLOSED}": null}}',
        f'{{"{CLOSED}": ["{SECRET}"]}}',
        f'{{"{CLOSED}": "{SECRET}"}}',
        f'{{"{CLOSED}": "{SECRET}\\n"}}',
        f'{{"{CLOSED}": "{SECRET}\\ud83d"}}',
        f'{{"{CLOSED}": ""}}',
    ]
).map(str.encode) | odd.json_texts.map(_bytes)


@st.composite
def files(draw: Callable[..., Any]) -> Command:
    hidden = (SECRET,)
    match draw(st.integers(0, 8)):
        case 0:
            return Command(
                (*TRAIN, "--server.token_file", "t"),
                settings.RUN_FILES | {"t": draw(secret_files)},
                secrets=hidden,
            )
        case 1:
            token = odd.argument(draw(secrets()))
            return Command(
                draw(st.sampled_from([TRAIN, LIST])),
                settings.RUN_FILES,
                {"HELIOSTAT_TOKEN": token},
                secrets=hidden,
            )
        case 2:
            kept = {"c.json": draw(credentials | st.builds(_damaged, odd.damages))}
            where = {"HELIOSTAT_CREDENTIALS": "c.json"}
            return Command(
                draw(st.sampled_from([TRAIN, LIST])),
                settings.RUN_FILES | kept,
                where,
                secrets=hidden,
            )
        case 3:
            return Command((*LOGIN, odd.argument(draw(secrets()))), secrets=hidden)
        case 4:
            return Command((*SERVE, "p"), {"p": draw(secret_files)}, secrets=hidden)
        case 5:
            key = ("--vlm-judge-url", f"http://{CLOSED}", "--vlm-judge-model", draw(odd.words))
            rubric = ("--vlm-judge-rubric", "r", "--vlm-judge-key", SECRET)
            return Command((*SERVE[:-1], *key, *rubric), {"r": draw(secret_files)}, secrets=hidden)
        case _:
            toml = {"rewards.toml": draw(definitions())}
            return Command(("rewards", "--rewards", "rewards.toml"), toml)


def _damaged(damage: odd.Damage) -> bytes:
    return damage.applied(f'{{"{CLOSED}": "{SECRET}"}}'.encode()) or b""


def run(command: Command, sandbox: Sandbox) -> Verdict:
    return run_command(command, sandbox)

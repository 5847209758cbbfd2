"""A run's TOML, and `--section.key value` beside it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from hypothesis import strategies as st

from heliostat_engines.settings.places import section_kinds
from heliostat_trainer.forecast.work import plan_run
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.settings.compare import completed, first_change, flatten
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.load import load_config
from tests.bad_inputs import odd
from tests.bad_inputs.outcome import ACCEPTED, Outcome, Verdict, raised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.bad_inputs.sandbox import Sandbox

FILES = {"prompts.txt": b"a cat\na dog\ntwo owls\na tree\n", "heldout.txt": b"a fox\na bear\n"}
BASE = {
    "run": {"name": '"tiny"', "steps": "3", "device": '"cpu"'},
    "prompts": {"train": '"prompts.txt"', "heldout": '"heldout.txt"', "per_step": "2"},
    "recipe": {"candidates": "8", "keep_pairs": "2", "explore_steps": "2", "steps": "4"},
    "reward": {"name": '"warmth"'},
    "evaluation": {"prompts": "2"},
}
"""Section -> key -> what stands behind the equals sign."""
KEYS = sorted(
    (section, key)
    for section in TrainConfig.model_fields
    for kind in section_kinds(TrainConfig, section)
    for key in kind.model_fields
)
CHOICES = (
    "sol_rl",
    "diffusionnft",
    "naive_quant",
    "flow_grpo",
    "flow_grpo_fast",
    "dance_grpo",
    "diffusion_dpo",
    "dgpo",
    "awm",
    "cosine",
    "adamw_8bit",
    "none",
    "cuda:9",
    "hf://a/b?split=x&color=y",
    "hf://",
)
RIGHT_INTEGERS = (
    "0x10",
    "2147483648",
    "9223372036854775808",
    "1" + "0" * 30,
    "1" + "0" * 400,
)
RIGHT_NUMBERS = (
    "0",
    "-1",
    "0.0",
    "1.0",
    "1e-3",
    "1e40",
    "1e308",
    "1e400",
    "1e-320",
    "inf",
    "-inf",
    "nan",
    *RIGHT_INTEGERS,
)
ODD_LITERALS = (
    "[]",
    "{}",
    "[1, [2, [3]]]",
    '{ pickscore = 1.0, ocr = "x" }',
    "{ a = inf }",
    "1979-05-27T07:32:00Z",
    "07:32:00",
    '"""a\nb"""',
    "'\\ud83d'",
    '"\\ud83d"',
    '"\\U0001F9A9"',
    odd.DEEP[:2000],
    "[" * 500 + "]" * 500,
    "{a=" * 300 + "1" + "}" * 300,
)


@dataclass(frozen=True)
class RunSettings:
    """A TOML's bytes, and what follows it on the command line."""

    toml: bytes
    overrides: tuple[str, ...] = ()


def toml_string(text: str) -> str:
    """A basic string; what TOML cannot hold (a lone surrogate) stays as it is."""
    return json.dumps(text, ensure_ascii=False)


right_numbers = (
    st.sampled_from(RIGHT_NUMBERS) | st.integers(-3, 100).map(str) | st.floats().map(repr)
)
right_integers = st.sampled_from(RIGHT_INTEGERS) | st.integers(-3, 100).map(str)
right_literals = (
    right_numbers
    | st.sampled_from(CHOICES).map(toml_string)
    | st.booleans().map(lambda value: str(value).lower())
    | odd.words.map(toml_string)
)
odd_literals = (
    odd.numbers | st.sampled_from(ODD_LITERALS) | odd.texts.map(toml_string) | odd.json_texts
)
literals = odd.mostly(right_literals, odd_literals, times=3)
keys = st.sampled_from(KEYS) | st.tuples(st.sampled_from([*BASE, "nosuch", ""]), odd.words)


def fitting(section: str, key: str) -> st.SearchStrategy[str]:
    """Literals of a type that a setting may have: what is wrong with them is their value."""
    annotations = [
        kind.model_fields[key].annotation
        for kind in section_kinds(
            TrainConfig, section if section in TrainConfig.model_fields else "run"
        )
        if key in kind.model_fields
    ]
    return fitting_types(annotations)


def fitting_types(annotations: Iterable[Any]) -> st.SearchStrategy[str]:
    """Literals of the types that annotations name."""
    kinds = {kind for annotation in annotations for kind in types_within(annotation)}
    choices = [
        toml_string(str(choice.value))
        for kind in sorted(kinds, key=str)
        if issubclass(kind, Enum)
        for choice in kind
    ]
    strategies = [st.sampled_from(choices)] if choices else []
    strategies += [right_numbers] if float in kinds else []
    strategies += [right_integers] if int in kinds else []
    strategies += [st.sampled_from(["true", "false"])] if bool in kinds else []
    strategies += [right_literals] if kinds & {str, Path} else []
    return st.one_of(strategies) if strategies else right_literals


def types_within(annotation: Any) -> Iterator[type]:
    """The classes that a union, a list or another annotation is made of."""
    if isinstance(annotation, type):
        yield annotation
    for inner in get_args(annotation):
        yield from types_within(inner)


def toml_of(sections: dict[str, Any]) -> bytes:
    """TOML of literals; a section that is none stands at the top as a value."""
    lines = [f"{name} = {value}" for name, value in sections.items() if isinstance(value, str)]
    for name, pairs in sections.items():
        if isinstance(pairs, dict):
            lines += [f"[{name}]", *(f"{key} = {literal}" for key, literal in pairs.items())]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


RUN_FILES = FILES | {"run.toml": toml_of(BASE)}


@st.composite
def run_settings(draw: Callable[..., Any]) -> RunSettings:
    sections: dict[str, Any] = {name: dict(pairs) for name, pairs in BASE.items()}
    for section, key in draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=2)):
        pairs = sections.setdefault(section, {})
        pairs[key] = draw(odd.mostly(fitting(section, key), literals, times=4))
    if draw(st.integers(0, 7)) == 0:
        section, key = draw(keys)
        sections.setdefault(section, {})[key] = draw(literals)
    if draw(st.integers(0, 15)) == 0:
        sections[draw(st.sampled_from(sorted(sections)))] = draw(literals)
    if draw(st.integers(0, 15)) == 0:
        del sections[draw(st.sampled_from(sorted(BASE)))]
    toml = toml_of(sections)
    if draw(st.integers(0, 9)) == 0:
        toml = draw(odd.damages).applied(toml) or b""
    return RunSettings(toml, draw(st.just(()) | overrides))


@st.composite
def override(draw: Callable[..., Any]) -> tuple[str, ...]:
    section, key = draw(odd.mostly(st.sampled_from(KEYS), keys))
    value = draw(
        odd.mostly(fitting(section, key).map(lambda text: text.strip('"')), literals | odd.texts)
    )
    match draw(st.integers(0, 19)):
        case 0:
            return (f"--{section}.{key}",)
        case 1:
            return (draw(odd.texts),)
        case 2:
            return (f"--{section}.{key}={value}",)
        case _:
            return (f"--{section}.{key}", value)


overrides = st.lists(override(), max_size=2).map(
    lambda pairs: tuple(odd.argument(word) for pair in pairs for word in pair)
)


MAY_BE_INFINITE = {"optimiser.max_grad_norm"}
"""Settings of which infinity means something: that gradients are not clipped."""


def run(settings: RunSettings, sandbox: Sandbox) -> Verdict:
    """Read them; what is accepted has to be counted, kept and found the same by a resumed run."""
    path = sandbox.work / "run.toml"
    sandbox.write(FILES | {path.name: settings.toml})
    try:
        config = load_config(path, settings.overrides)
        read_prompt_sets(config)
        plan_run(config)
        problem = _unusable(config)
    except Exception as error:
        return sandbox.tidied(raised(error))
    verdict = ACCEPTED if problem is None else Verdict(Outcome.UNUSABLE, problem, problem)
    return sandbox.tidied(verdict)


def _unusable(config: TrainConfig) -> str | None:
    flat = flatten(config)
    for key, value in flat.items():
        if key not in MAY_BE_INFINITE and not all(map(math.isfinite, _floats(value))):
            return f"{key} is not finite"
    kept = json.loads(json.dumps(flat))
    change = first_change(completed(kept), flat)
    return None if change is None else f"a resumed run says that {change.split(' was ')[0]} changed"


def _floats(value: object) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _floats(inner)

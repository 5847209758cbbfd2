r"""Where prompts come from: text files, JSONL files, data sets of the Hugging Face hub.

A text file has a prompt a line; empty lines and lines that start with # are skipped. A JSONL file
has an object a line, whose `prompt` is taken, and its `resolution` in `sizes`; whatever else it holds
(`metadata`) is left alone.
Lines end at \n or \r\n, and a byte-order mark at the start is no part of the first.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from heliostat_engines.errors import FileError
from heliostat_engines.files.text import is_whole, lines_of, parse_json, read_text
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.randomness import Purpose, stream
from heliostat_trainer.settings.prompts import HubPrompts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


def read_prompts(source: Path | HubPrompts, setting: str) -> tuple[str, ...]:
    """The prompts of a source, without repetitions, in its order.

    Raises:
        ConfigError: it cannot be read or holds no prompt; names the setting.
    """
    if isinstance(source, HubPrompts):
        found = _whole(_column(source, setting), f"{setting}: {source}, row")
    elif source.suffix.lower() == ".jsonl":
        found = _jsonl(_text(source, setting), f"{setting}: {source}")
    else:
        lines = lines_of(_text(source, setting))
        found = (line for line in lines if line.strip()[:1] != "#")
    prompts = tuple(dict.fromkeys(prompt for line in found if (prompt := line.strip())))
    if not prompts:
        raise ConfigError(f"{setting}: {source} holds no prompt; write one a line")
    return prompts


def step_prompts(
    prompts: tuple[str, ...], per_step: int, seed: int, step: int, since: int = 1
) -> tuple[str, ...]:
    """The prompts of a step: the file reshuffled each time it has been gone through.

    Each step's prompts differ from one another as long as the file has `per_step` of them.
    since: the first step that has so many; the file is gone through anew from there.
    """
    per_epoch = len(prompts) // per_step
    epoch, position = divmod(step - since, per_epoch)
    begun = () if since == 1 else (since,)
    order = stream(seed, Purpose.PROMPTS, *begun, epoch).permutation(len(prompts))
    chosen = order[position * per_step : (position + 1) * per_step]
    return tuple(prompts[row] for row in chosen)


def _text(path: Path, setting: str) -> str:
    try:
        return read_text(path)
    except FileError as error:
        raise ConfigError(f"{setting}: {error}") from error


def _jsonl(text: str, where: str) -> Iterator[str]:
    for number, line in enumerate(lines_of(text), start=1):
        if line.strip():
            yield _prompt(line, f"{where}, line {number}")


def _prompt(line: str, where: str) -> str:
    try:
        prompt = parse_json(line, where)["prompt"]
    except (FileError, LookupError, TypeError):
        prompt = None
    if not isinstance(prompt, str):
        raise ConfigError(f'{where}: write an object with a prompt, {{"prompt": "a red cat"}}')
    _require_whole(prompt, where)
    return prompt


def _whole(prompts: Iterable[str], where: str) -> Iterator[str]:
    for number, prompt in enumerate(prompts):
        _require_whole(prompt, f"{where} {number}")
        yield prompt


def _require_whole(prompt: str, where: str) -> None:
    """Refuse what no server can be sent, before anything is spent. Raises ConfigError."""
    if not is_whole(prompt):
        raise ConfigError(
            f"{where}: the prompt has half of a character (a lone surrogate such as \\ud83d): write "
            "the character itself, or both halves"
        )


def _column(source: HubPrompts, setting: str) -> Sequence[str]:
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        raise ConfigError(
            f"{setting}: {source} needs datasets ({error}): pip install 'heliostat[datasets]', or give a "
            "text or JSONL file"
        ) from error
    try:
        table = datasets.load_dataset(source.dataset, split=source.split, revision=source.revision)
    except (OSError, ValueError) as error:  # what is offline or not there is an OSError
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ConfigError(
            f"{setting}: cannot load {source}: {reason}: check name, split and connection, or give "
            "a text or JSONL file"
        ) from error
    if source.column not in table.column_names:
        raise ConfigError(
            f"{setting}: {source} has no column {source.column!r}, only "
            f"{', '.join(table.column_names)}: name one with column="
        )
    values = table[source.column][:]
    if not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{setting}: the column {source.column!r} of {source} is not text")
    return list(values)

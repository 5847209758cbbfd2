"""[prompts]: where prompts come from, and which are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import BeforeValidator, Field, ValidationError

from heliostat_engines.settings import UNKNOWN, Count, Decay, NotNegative, Settings

HUB = "hf://"


class HubPrompts(Settings):
    """A column of a data set of the Hugging Face hub, or of a folder that `datasets` reads."""

    dataset: Annotated[str, Field(min_length=1)]
    """owner/name, or a folder."""
    split: str = "train"
    """Which of its splits; slices as in train[:1000] too."""
    column: str = "prompt"
    """Which of its columns."""
    revision: str | None = None
    """A branch, tag or commit; None: the newest."""

    def __str__(self) -> str:
        return f"{HUB}{self.dataset}?split={self.split}&column={self.column}"


def _source(value: object) -> object:
    """`hf://owner/name?split=train&column=prompt` and a table of the same keys are a data set."""
    if isinstance(value, str) and value.startswith(HUB):
        url = urlsplit(value)
        value = {"dataset": f"{url.netloc}{url.path}", **dict(parse_qsl(url.query))}
    if not isinstance(value, dict):
        return value
    try:
        return HubPrompts.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(HubPrompts.model_fields)
        where = "" if first["type"] == UNKNOWN else f"{'.'.join(map(str, first['loc']))}: "
        raise ValueError(f"a data set of prompts has {known}; {where}{first['msg']}") from error


PromptSource = Annotated[Path | HubPrompts, BeforeValidator(_source)]


class PromptsSection(Settings):
    """[prompts]: where prompts come from, and which are drawn.

    A source is a file relative to the TOML, of text with one prompt a line or of JSONL with objects
    that have a `prompt`, or a data set: "hf://owner/name?split=train&column=prompt".
    """

    train: PromptSource
    """Prompts to train on: a .txt or .jsonl file, or a data set as hf://owner/name?split=train&column=prompt
    or { dataset = "owner/name", split = "train", column = "prompt" }."""
    heldout: PromptSource | None = None
    """Prompts to evaluate on, never trained on: a source like `train`; by default a part of that."""
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Without `heldout`: the share of `train` that is held out, at random."""
    heldout_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of that choice, apart from run.seed so that runs compare."""
    per_step: Count = 48
    """Prompts of one training step."""
    min_spread: NotNegative = 0.0
    """Groups whose explored rewards have a smaller standard deviation are skipped: not redrawn, not
    trained on. Of several rewards: the sum of |weight| times deviation. 0: none is skipped. By default
    1e-6 under heliostat: where all rewards are equal, as where all candidates fail."""
    flat_after: Count = 2
    """A prompt that was skipped so many times in a row is drawn half as often, and half as often
    again with each further time, until it shows contrast."""
    by_spread: Decay = 0.0
    """Share of a step's prompts that are drawn in proportion to the deviation that their explored
    rewards have shown, smoothed over time; the others are drawn evenly, so that none starves."""

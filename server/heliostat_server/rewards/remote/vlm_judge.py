"""A vision-language model as a reward, behind any server that speaks OpenAI's chat completions.

The model answers with one digit in JSON. If the server tells the digits' probabilities, the score
is their mean, which orders images that share a digit:

    score = sum_d p(d) d / (9 sum_d p(d)),   d in 0..9

Source of the weighting: Liu et al., "G-Eval" (arXiv 2303.16634), section 2.
"""

from __future__ import annotations

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from http import HTTPStatus
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import torch
from pydantic import BaseModel, Field, ValidationError

from heliostat_server.errors import ModelError, UnavailableError
from heliostat_server.rewards.images import png_base64, to_uint8
from heliostat_server.rewards.remote.posting import (
    BusyError,
    RefusedError,
    post,
    read_token,
    retrying,
    shown,
)
from heliostat_server.urls import without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from heliostat_engines.conditioning import Conditioning
    from heliostat_server.rewards.definitions import VlmJudgeSettings

BEST = 9
RUBRIC = (
    "You rate how well an image shows its prompt. 0: nothing of the prompt is there. 3: the main "
    "object is missing or wrong. 6: all is there, with wrong counts, colours, places or words. "
    "9: everything that the prompt names is there, as it says, and nothing is malformed."
)
_FORMAT = (
    f'Answer with JSON and nothing else: {{"score": N}}, where N is one digit from 0 to {BEST}.'
)
_SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 0, "maximum": BEST}},
    "required": ["score"],
    "additionalProperties": False,
}
_TOKENS = 32
_THINKING_TOKENS = 4096
_ALTERNATIVES = 10
_OTHER_FORM = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})
"""Statuses of a refusal that a request in another form may not meet."""
_THOUGHTS = re.compile(r"^.*</think>", re.DOTALL)
_FENCED = re.compile(r"^```\w*\s*(.*?)\s*```$", re.DOTALL)


class Feature(StrEnum):
    """What a server may or may not offer; asked for only if it does."""

    LOGPROBS = "logprobs"
    SCHEMA = "schema"
    TEMPERATURE = "temperature"


class Limit(StrEnum):
    """How a server calls the largest number of tokens of an answer."""

    TOKENS = "max_tokens"
    COMPLETION = "max_completion_tokens"


@dataclass(frozen=True)
class Form:
    """The form of request that a server takes."""

    features: frozenset[Feature] = frozenset(Feature)
    limit: Limit = Limit.TOKENS
    thinks: bool = False
    """Whether the model thinks before it answers, which costs time with each image."""


class _NoScoreError(Exception):
    """The model answered, and its answer has no score."""


class _CutOffError(Exception):
    """It used up its tokens before it came to the score; it would again."""


class VlmJudge:
    """Scores in 0..1. Deterministic as far as the model's server is."""

    def __init__(self, settings: VlmJudgeSettings) -> None:
        """Ask the server for one score, to see that it answers and what it offers.

        Raises:
            UnavailableError: it does not answer.
            ModelError: it refuses, or answers with something that is no score.
        """
        self._settings = settings
        self._url = settings.endpoint("chat/completions")
        self._place = without_secrets(settings.url)
        self._token = settings.api_key or read_token(settings.token_file, "vlm_judge: token_file")
        self._form = self._find_form()

    def score(
        self,
        images: torch.Tensor,
        prompts: Sequence[str],
        conditioning: Conditioning,  # noqa: ARG002
    ) -> torch.Tensor:
        """rewards[B] in 0..1 of images[B, 3, H, W] for prompts[B].

        Raises:
            UnavailableError: the server does not answer.
            ModelError: it refuses, or answers with something that is no score.
        """
        pictures = to_uint8(images).cpu().numpy()
        with ThreadPoolExecutor(self._settings.concurrency, "vlm judge") as pool:
            scores = list(pool.map(self._score_one, pictures, prompts))
        return torch.tensor(scores, dtype=torch.float32)

    def _score_one(self, picture: NDArray[np.uint8], prompt: str) -> float:
        try:
            return self._ask(picture, prompt, self._form)
        except RefusedError as error:
            raise ModelError(f"the judge at {self._place} refuses: {error}") from error
        except (_NoScoreError, _CutOffError) as error:
            raise self._no_score(error) from error

    def _find_form(self) -> Form:
        """Everything, or as much as the server takes, and room to think for a model that thinks."""
        refusal: RefusedError | None = None
        for form in _forms():
            try:
                accepted = self._try(form)
            except RefusedError as error:
                refusal = error
                if error.status not in _OTHER_FORM:
                    break
            except (_NoScoreError, _CutOffError) as error:
                raise self._no_score(error) from error
            else:
                structlog.get_logger("vlm_judge").info(
                    "ready", offers=sorted(accepted.features), thinks=accepted.thinks
                )
                return accepted
        raise ModelError(
            f"the judge at {self._place} refuses every request ({refusal}): check its key and model "
            "(--vlm-judge-key, --vlm-judge-model), and that the model takes images"
        ) from refusal

    def _try(self, form: Form) -> Form:
        """The form, with room for thoughts if the model needs it."""
        picture = torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()
        try:
            self._ask(picture, "a black square", form)
        except _CutOffError:
            form = replace(form, thinks=True)
            self._ask(picture, "a black square", form)
        return form

    def _no_score(self, error: Exception) -> ModelError:
        return ModelError(
            f"the judge {self._settings.model} at {self._place} gives no score: {error}"
        )

    def _ask(self, picture: NDArray[np.uint8], prompt: str, form: Form) -> float:
        body = self._request(picture, prompt, form)
        try:
            return retrying(self._settings.attempts, _NoScoreError)(self._ask_once, body)
        except BusyError as error:
            raise UnavailableError(
                f"the judge at {self._place} does not answer ({error}): start it, check "
                "its url (--vlm-judge-url), or train on another reward"
            ) from error

    def _ask_once(self, body: dict[str, Any]) -> float:
        text = post(self._url, body, self._token, self._settings.timeout_s)
        try:
            completion = _Completion.model_validate_json(text)
        except ValidationError as error:
            raise _NoScoreError(
                f"its answer is no chat completion ({shown(text, self._token)!r}): check its url "
                "(--vlm-judge-url)"
            ) from error
        return _read(completion.choices[0])

    def _request(self, picture: NDArray[np.uint8], prompt: str, form: Form) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [
                {"role": "system", "content": f"{self._settings.rubric or RUBRIC}\n{_FORMAT}"},
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": _data_url(picture)}},
                        {"type": "text", "text": f"Prompt: {prompt}"},
                    ],
                },
            ],
            form.limit.value: _THINKING_TOKENS if form.thinks else _TOKENS,
        }
        if Feature.TEMPERATURE in form.features:
            body["temperature"] = 0
        if Feature.SCHEMA in form.features:
            schema = {"name": "verdict", "strict": True, "schema": _SCHEMA}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if Feature.LOGPROBS in form.features:
            body |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
        return body


def _forms() -> Iterator[Form]:
    """Those to try, the one that asks for most first."""
    for without in range(len(Feature) + 1):
        for limit in Limit:
            for left_out in combinations(Feature, without):
                yield Form(frozenset(Feature) - set(left_out), limit)


class _Alternative(BaseModel):
    token: str
    logprob: float | None = None


class _Token(BaseModel):
    token: str
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Part(BaseModel):
    text: str = ""


class _Message(BaseModel):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @property
    def text(self) -> str:
        """What it says, without what it thought before."""
        content = self.content or ""
        whole = content if isinstance(content, str) else "".join(part.text for part in content)
        return _THOUGHTS.sub("", whole).strip()


class _Choice(BaseModel):
    message: _Message
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Completion(BaseModel):
    """What we read of a chat completion."""

    choices: Annotated[list[_Choice], Field(min_length=1)]


def _read(choice: _Choice) -> float:
    """The score in 0..1. Raises _NoScoreError, _CutOffError."""
    score = _score(choice.message.text)
    if score is None:
        raise _why_none(choice)
    tokens = (choice.logprobs and choice.logprobs.content) or []
    digit = next((t for t in reversed(tokens) if t.token.strip() == f"{score:g}"), None)
    weights = _digit_weights(digit) if digit is not None else {}
    total = sum(weights.values())
    if not total:
        return score / BEST
    return sum(value * weight for value, weight in weights.items()) / total / BEST


def _score(text: str) -> float | None:
    """The number that an answer gives, alone or in JSON, fenced or not; None: it gives none in 0..9."""
    fenced = _FENCED.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
        value = value.get("score") if isinstance(value, dict) else value
        score = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, RecursionError):
        return None
    return score if not isinstance(value, bool) and 0 <= score <= BEST else None


def _why_none(choice: _Choice) -> Exception:
    message, text = choice.message, choice.message.text
    if message.refusal:
        return _NoScoreError(f"it declines ({shown(message.refusal)!r}): choose another model")
    thought = bool(message.reasoning or message.reasoning_content) or "<think>" in text
    if choice.finish_reason == "length" or (thought and not text):
        what = "it was still thinking" if thought else f"it had said {shown(text)!r}"
        return _CutOffError(
            f"{what} when its tokens were used up: turn its thinking off on its server, or choose a "
            "model that follows instructions"
        )
    return _NoScoreError(
        f"it does not answer with a digit in JSON ({shown(text)!r}): choose a model that follows "
        "instructions"
    )


def _digit_weights(token: _Token) -> dict[int, float]:
    """Probability of each digit in a token's place, as far as the server tells it."""
    weights: dict[int, float] = {}
    for alternative in token.top_logprobs or []:
        text, logprob = alternative.token.strip(), alternative.logprob
        if len(text) == 1 and text in "0123456789" and logprob is not None:
            weights[int(text)] = weights.get(int(text), 0.0) + math.exp(min(logprob, 0.0))
    return weights


def _data_url(picture: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + png_base64(picture)

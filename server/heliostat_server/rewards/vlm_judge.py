"""A vision-language model as a reward, behind any server that speaks OpenAI's chat completions.

The model answers with one digit in JSON. If the server tells the digits' probabilities, the score
is their mean, which orders images that share a digit:

    score = sum_d p(d) d / (9 sum_d p(d)),   d in 0..9

Source of the weighting: Liu et al., "G-Eval" (arXiv 2303.16634), section 2.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from heliostat_server.errors import ModelError, UnavailableError
from heliostat_server.rewards.images import png_base64, to_uint8
from heliostat_server.rewards.posting import BusyError, RefusedError, post, read_token, retrying

if TYPE_CHECKING:
    from collections.abc import Sequence

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
_MAX_TOKENS = 16
_ALTERNATIVES = 10


class Feature(StrEnum):
    """What a server may or may not offer; asked for only if it does."""

    LOGPROBS = "logprobs"
    SCHEMA = "schema"


class _Verdict(BaseModel):
    """The model's answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    score: Annotated[int, Field(ge=0, le=BEST)]


class VlmJudge:
    """Scores in 0..1. Deterministic as far as the model's server is."""

    def __init__(self, settings: VlmJudgeSettings) -> None:
        """Ask the server for one score, to see that it answers and what it offers.

        Raises:
            UnavailableError: it does not answer, or not with scores.
        """
        self._settings = settings
        self._url = settings.url.rstrip("/") + "/v1/chat/completions"
        self._token = settings.api_key or read_token(settings.token_file, "vlm_judge: token_file")
        self._features = self._find_features()

    def score(
        self,
        images: torch.Tensor,
        prompts: Sequence[str],
        conditioning: Conditioning,  # noqa: ARG002
    ) -> torch.Tensor:
        """rewards[B] in 0..1 of images[B, 3, H, W] for prompts[B].

        Raises:
            UnavailableError: the server does not answer.
            ModelError: it answers with something that is no score.
        """
        pictures = to_uint8(images).cpu().numpy()
        with ThreadPoolExecutor(self._settings.concurrency, "vlm judge") as pool:
            scores = list(pool.map(self._score_one, pictures, prompts))
        return torch.tensor(scores, dtype=torch.float32)

    def _score_one(self, picture: NDArray[np.uint8], prompt: str) -> float:
        try:
            return self._ask(picture, prompt, self._features)
        except RefusedError as error:
            raise UnavailableError(f"the judge at {self._settings.url} refuses: {error}") from error

    def _find_features(self) -> frozenset[Feature]:
        """Everything, or as much as the server takes."""
        picture = torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()
        refusal: Exception | None = None
        for features in (
            frozenset(Feature),
            frozenset({Feature.SCHEMA}),
            frozenset({Feature.LOGPROBS}),
            frozenset[Feature](),
        ):
            try:
                self._ask(picture, "a black square", features)
            except RefusedError as error:
                refusal = error
                continue
            structlog.get_logger("vlm_judge").info("ready", offers=sorted(features))
            return features
        raise UnavailableError(
            f"the judge at {self._settings.url} refuses every request ({refusal}): check "
            "its model (--vlm-judge-model), and that the model takes images"
        ) from refusal

    def _ask(self, picture: NDArray[np.uint8], prompt: str, features: frozenset[Feature]) -> float:
        body = self._request(picture, prompt, features)
        try:
            return retrying(self._settings.attempts, ValidationError)(self._ask_once, body)
        except BusyError as error:
            raise UnavailableError(
                f"the judge at {self._settings.url} does not answer ({error}): start it, check "
                "its url (--vlm-judge-url), or train on another reward"
            ) from error
        except ValidationError as error:
            raise ModelError(
                f"the judge {self._settings.model} does not answer with a digit in JSON "
                f"({error.errors()[0]['input']!r}): choose a model that follows instructions"
            ) from error

    def _ask_once(self, body: dict[str, Any]) -> float:
        text = post(self._url, body, self._token, self._settings.timeout_s)
        return _read(_Completion.model_validate_json(text))

    def _request(
        self, picture: NDArray[np.uint8], prompt: str, features: frozenset[Feature]
    ) -> dict[str, Any]:
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
            "temperature": 0,
            "max_tokens": _MAX_TOKENS,
        }
        if Feature.SCHEMA in features:
            schema = {"name": "verdict", "strict": True, "schema": _SCHEMA}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if Feature.LOGPROBS in features:
            body |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
        return body


class _Alternative(BaseModel):
    token: str
    logprob: float


class _Token(BaseModel):
    token: str
    top_logprobs: list[_Alternative] = []


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message
    logprobs: _Logprobs | None = None


class _Completion(BaseModel):
    """What we read of a chat completion."""

    choices: Annotated[list[_Choice], Field(min_length=1)]


def _read(completion: _Completion) -> float:
    """The score in 0..1. Raises ValidationError: it is not in the format."""
    choice = completion.choices[0]
    verdict = _Verdict.model_validate_json(choice.message.content.strip())
    tokens = (choice.logprobs and choice.logprobs.content) or []
    digit = next((t for t in reversed(tokens) if t.token.strip() == str(verdict.score)), None)
    weights = _digit_weights(digit) if digit is not None else {}
    if not weights:
        return verdict.score / BEST
    mean = sum(value * weight for value, weight in weights.items()) / sum(weights.values())
    return mean / BEST


def _digit_weights(token: _Token) -> dict[int, float]:
    """Probability of each digit in a token's place."""
    weights: dict[int, float] = {}
    for alternative in token.top_logprobs:
        text = alternative.token.strip()
        if len(text) == 1 and text in "0123456789":
            weights[int(text)] = weights.get(int(text), 0.0) + math.exp(alternative.logprob)
    return weights


def _data_url(picture: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + png_base64(picture)

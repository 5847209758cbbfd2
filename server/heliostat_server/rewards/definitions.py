"""What a server.toml, or `heliostat serve --rewards FILE.toml`, says of rewards. Imports no torch.

Each `[rewards.NAME]` defines the reward NAME, or changes the built-in one of that name. Its `kind`
says what it is; where there is none, NAME is the kind.
"""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003 (pydantic reads it)
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from heliostat_engines.errors import ConfigError, SecretError
from heliostat_engines.files.secret import read_token, sendable
from heliostat_engines.settings import Number, Seconds, Settings, WireCount
from heliostat_engines.settings.marks import Secret
from heliostat_engines.settings.reading import path_beside, read_toml
from heliostat_engines.suggestions import suggest
from heliostat_server.errors import RewardSettingsError
from heliostat_server.urls import without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

HttpUrl = Annotated[str, Field(pattern=r"^https?://[^/]"), Secret(without_secrets)]
_VERSION = re.compile(r"/v\d+$")
NAME = re.compile(r"[a-z][a-z0-9_]*")
_PATHS = ("checkpoint", "clip", "token_file")


class PretrainedReward(Settings):
    """A published preference model, with other weights or in another precision."""

    kind: Literal["pickscore", "clipscore", "hpsv2", "image_reward"]
    checkpoint: str | None = None
    """A folder, or a Hugging Face name; None: the published weights."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the model computes in. Half precision rounds away small differences within a group."""


class AestheticReward(Settings):
    """The aesthetic predictor: a small head on the image embeddings of CLIP."""

    kind: Literal["aesthetic"]
    checkpoint: str | None = None
    """The head: a folder, or a Hugging Face name; None: the published one."""
    clip: str | None = None
    """The CLIP model below it; None: OpenAI's ViT-L/14, shared with `clipscore`."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What CLIP computes in."""


class WeightedSum(Settings):
    """Several rewards as one: the sum of weight x reward. Each is still a reward of its own."""

    kind: Literal["weighted_sum"]
    weights: Annotated[dict[str, Number], Field(min_length=1)]
    """Rewards by name, and what each is multiplied with."""


class Success(Settings):
    """Whether an image is good enough by another reward: 1 if it is, else 0."""

    kind: Literal["success"]
    reward: str
    """The other reward's name."""
    at_least: float
    """The other reward of an image that is good enough."""


class HttpScorer(Settings):
    """A reward computed by another process, anywhere, that answers HTTP requests."""

    kind: Literal["http"]
    url: HttpUrl
    """Where images are posted to."""
    token_file: Path | None = None
    """A file with a token, sent as `Authorization: Bearer TOKEN`."""
    timeout_s: Annotated[Seconds, Field(gt=0)] = 60.0
    """Of one request."""
    attempts: WireCount = 5
    """How often a request is made before the batch fails."""
    batch: WireCount = 32
    """Images in a request at most."""


class VlmJudgeSettings(Settings):
    """A vision-language model that rates images, behind an OpenAI-compatible server."""

    kind: Literal["vlm_judge"] = "vlm_judge"
    url: HttpUrl
    """Of the server, as in http://127.0.0.1:8000, with or without /v1; /chat/completions is added."""
    model: str
    """What that server calls the model."""
    rubric: str | None = None
    """What is rated and how, in words; None: how well the image shows its prompt."""
    api_key: Annotated[str | None, Secret()] = None
    """Sent as a bearer token."""
    token_file: Path | None = None
    """A file that holds the bearer token instead."""
    concurrency: WireCount = 16
    """Requests under way at once."""
    timeout_s: Annotated[Seconds, Field(gt=0)] = 60.0
    """Of one request."""
    attempts: WireCount = 5
    """How often a request is made before the batch fails."""

    @field_validator("api_key")
    @classmethod
    def _key_can_be_sent(cls, key: str | None) -> str | None:
        return sendable(key, "api_key") if key else None

    def endpoint(self, path: str) -> str:
        """The URL of one of the API's paths, chat/completions or models."""
        base = self.url.rstrip("/").removesuffix("/chat/completions")
        return f"{base}/{path}" if _VERSION.search(base) else f"{base}/v1/{path}"


class PluginReward(Settings):
    """A reward of an installed package, with options."""

    kind: Literal["plugin"]
    plugin: str
    """Its name in the entry-point group `heliostat.rewards`."""
    options: Annotated[dict[str, Any], Secret()] = Field(default_factory=dict)
    """Keyword arguments for it."""


RewardDefinition = Annotated[
    PretrainedReward
    | AestheticReward
    | WeightedSum
    | Success
    | HttpScorer
    | VlmJudgeSettings
    | PluginReward,
    Field(discriminator="kind"),
]
RewardDefinitions = dict[str, RewardDefinition]


class _File(Settings):
    rewards: RewardDefinitions


def load_definitions(path: Path) -> RewardDefinitions:
    """Read a TOML file of `[rewards.NAME]` tables; paths in it are taken from where it is.

    Raises:
        RewardSettingsError: the file, table and key to change.
    """
    try:
        content = read_toml(path)
    except ConfigError as error:
        raise RewardSettingsError(str(error)) from error
    if not isinstance(content.get("rewards"), dict):
        raise RewardSettingsError(
            f"{path} defines no reward: {suggest('rewards', content)}it has no table [rewards.NAME]"
        )
    return definitions_of(content, path.parent, f"{path}: ")


def definitions_of(content: Mapping[str, Any], folder: Path, where: str = "") -> RewardDefinitions:
    """What the tables of `rewards`, which is all that there may be, define.

    Args:
        content: the tables by name at `rewards`; NAME is the kind of one that says none.
        folder: what relative paths in them are relative to.
        where: begins the sentence on what is wrong.

    Raises:
        RewardSettingsError: the table and key to change.
    """
    tables = {
        name: {"kind": name} | _resolved(name, table, folder, where)
        for name, table in content["rewards"].items()
    }
    try:
        return _File.model_validate({**content, "rewards": tables}).rewards
    except ValidationError as error:
        raise RewardSettingsError(f"{where}{_sentence(error)}") from error


def _resolved(name: str, table: object, folder: Path, where: str) -> dict[str, Any]:
    if not NAME.fullmatch(name) or not isinstance(table, dict):
        raise RewardSettingsError(
            f"{where}[rewards.{name}] is no reward: a reward is a table, and its name has "
            "small letters, digits and underscores"
        )
    paths = {
        key: _resolved_path(table[key], folder, key, f"{where}[rewards.{name}], {key}")
        for key in _PATHS
        if isinstance(table.get(key), str)
    }
    return table | paths


def _resolved_path(value: str, folder: Path, key: str, setting: str) -> str:
    """A path made absolute; a Hugging Face name stays as it is."""
    path = path_beside(value, folder).absolute()
    if path.exists():
        if key == "token_file":
            _check_token(path, setting)
        return str(path.resolve())
    if key == "token_file" or value.startswith(("/", ".", "~")):
        raise RewardSettingsError(f"{setting}: {path} is not there")
    return value


def _check_token(path: Path, setting: str) -> None:
    """Refuse one that cannot be sent now, not when the reward is first asked for."""
    try:
        read_token(path, setting)
    except SecretError as error:
        raise RewardSettingsError(str(error)) from error


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    if first["type"] == "union_tag_invalid":
        kind, kinds = first["ctx"]["tag"], first["ctx"]["expected_tags"]
        hint = suggest(str(kind), kinds.replace("'", "").split(", "))
        return f"[{'.'.join(location)}] has the kind {kind}: {hint}kinds are {kinds}"
    # The third part is the kind, which pydantic puts before the key.
    table, keys = location[:2], location[3:]
    what = f", {'.'.join(keys)}" if keys else ""
    message = first["msg"].removeprefix("Value error, ")
    return f"[{'.'.join(table)}]{what}: {message}" if table else message

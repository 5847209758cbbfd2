"""The rewards there are, by name; each is loaded when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from heliostat_engines.suggestions import suggest
from heliostat_server.errors import RequestError, RewardSettingsError
from heliostat_server.rewards import plugins
from heliostat_server.rewards.built_in import BUILT_IN
from heliostat_server.rewards.definitions import (
    HttpScorer,
    PluginReward,
    Success,
    VlmJudgeSettings,
    WeightedSum,
)
from heliostat_server.rewards.entry import RewardCard, RewardEntry
from heliostat_server.rewards.last_batch import Remembering
from heliostat_server.rewards.published.entries import pretrained
from heliostat_server.rewards.reward import RewardContext
from heliostat_server.urls import without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from heliostat_server.rewards.definitions import RewardDefinition, RewardDefinitions
    from heliostat_server.rewards.reward import Reward


class RewardOffer(Protocol):
    """The settings of a server, as far as they bear on rewards."""

    @property
    def family(self) -> str | None:
        """The model family whose images are rated; None: any."""

    @property
    def rewards(self) -> RewardDefinitions:
        """What the settings define."""


@dataclass(frozen=True)
class Offer:
    """The same without a server."""

    family: str | None
    rewards: RewardDefinitions = field(default_factory=dict)


def offered_rewards(settings: RewardOffer) -> tuple[RewardEntry, ...]:
    """The built-in rewards, those of installed packages, and those that the settings define.

    Raises:
        RewardSettingsError: one is made of rewards that are not there, or a name is taken.
    """
    entries = {entry.name: entry for entry in BUILT_IN}
    for name, entry in plugins.installed().items():
        if name in entries:
            raise RewardSettingsError(
                f"the reward {name} is built in, and a {entry.card.rates} too: uninstall that, or "
                "rename its entry point"
            )
        entries[name] = entry
    entries |= {name: _defined(name, one) for name, one in settings.rewards.items()}
    for entry in entries.values():
        _check_parts(entry, entries, settings.family)
    return tuple(entries.values())


def _defined(name: str, definition: RewardDefinition) -> RewardEntry:
    match definition:
        case WeightedSum():
            parts = tuple(definition.weights)
            card = RewardCard(" + ".join(f"{w:g} {part}" for part, w in definition.weights.items()))
            return RewardEntry(name, partial(_load_sum, definition), card, parts=parts)
        case Success():
            part = definition.reward
            card = RewardCard(f"whether {part} is at least {definition.at_least:g}", "0 or 1")
            return RewardEntry(name, partial(_load_success, definition), card, parts=(part,))
        case HttpScorer():
            card = RewardCard(f"what {without_secrets(definition.url)} answers")
            return RewardEntry(name, partial(_load_http, name, definition), card)
        case VlmJudgeSettings():
            card = RewardCard(
                f"what {definition.model} says of the image", "0..1", "", "arXiv 2303.16634"
            )
            return RewardEntry(name, partial(_load_vlm, definition), card)
        case PluginReward():
            return plugins.plugin(name, definition.plugin, definition.options)
        case _:
            return pretrained(name, definition)


def _load_sum(definition: WeightedSum, context: RewardContext) -> Reward:
    from heliostat_server.rewards.computed.weighted_sum import WeightedSum as Sum

    return Sum([(weight, context.reward(name)) for name, weight in definition.weights.items()])


def _load_success(definition: Success, context: RewardContext) -> Reward:
    from heliostat_server.rewards.computed.success import Success as IsSuccess

    return IsSuccess(context.reward(definition.reward), definition.at_least)


def _load_http(name: str, definition: HttpScorer, _: RewardContext) -> Reward:
    from heliostat_server.rewards.remote.http_scorer import HttpReward

    return HttpReward(name, definition)


def _load_vlm(definition: VlmJudgeSettings, _: RewardContext) -> Reward:
    from heliostat_server.rewards.remote.vlm_judge import VlmJudge

    return VlmJudge(definition)


def _check_parts(
    entry: RewardEntry,
    entries: Mapping[str, RewardEntry],
    family: str | None,
    above: tuple[str, ...] = (),
) -> None:
    """Refuse what is made of rewards that this server has not, or of itself."""
    if entry.name in above:
        raise RewardSettingsError(f"[rewards.{entry.name}] is made of itself")
    for part in entry.parts:
        where = f"[rewards.{entry.name}]: "
        if part not in entries:
            raise RewardSettingsError(where + _unknown(part, tuple(entries)))
        reason = entries[part].why_not(family)
        if reason is not None:
            raise RewardSettingsError(f"{where}no reward {part!r} here: {reason}")
        _check_parts(entries[part], entries, family, (*above, entry.name))


class RewardBook:
    """The rewards that a server of one family offers, loaded on first use. For one thread."""

    def __init__(
        self, family: str, entries: Iterable[RewardEntry] = BUILT_IN, device: str = "cpu"
    ) -> None:
        self._entries = {entry.name: entry for entry in entries if entry.is_available(family)}
        self._loaded: dict[str, Reward] = {}
        self._parts = {part for entry in self._entries.values() for part in entry.parts}
        self._context = RewardContext(device, self.get)

    @property
    def names(self) -> tuple[str, ...]:
        """What may be asked for."""
        return tuple(self._entries)

    def get(self, name: str) -> Reward:
        """The reward of that name. Raises RequestError if there is none."""
        check_rewards([name], self.names)
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> Reward:
        reward = self._entries[name].load(self._context)
        if name not in self._parts:
            return reward
        # A part may be asked for by itself too, or be in two others.
        return Remembering(reward)


def check_rewards(asked: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names that the server does not offer, and repeated ones.

    Raises:
        RequestError: naming the closest reward and all there are.
    """
    for name in asked:
        if name not in known:
            raise RequestError(_unknown(name, known))
    if len(set(asked)) != len(asked):
        raise RequestError(f"a reward is asked for twice: {', '.join(asked)}")


def _unknown(name: str, known: Sequence[str]) -> str:
    reasons = {entry.name: entry.why_not(None) for entry in BUILT_IN}
    if reasons.get(name):
        return f"no reward {name!r} here: {reasons[name]}"
    return f"no reward {name!r}: {suggest(name, known)}this server has {', '.join(known)}"

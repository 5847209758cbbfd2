"""Scenes in words: what a picture shows, its caption, and which combinations are held out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from heliostat.pretrain.vocabulary import BACKGROUNDS, COUNT_WORDS, NOUN_OF, NOUNS

if TYPE_CHECKING:
    import random

# One combination in this many is kept from pretraining: enough to test on, few enough to learn.
HELD_OUT_ONE_IN = 8


class Relation(StrEnum):
    """Where the first of two things stands, seen from the second."""

    LEFT_OF = "left of"
    RIGHT_OF = "right of"
    ABOVE = "above"
    BELOW = "below"

    @property
    def opposite(self) -> Relation:
        """The same scene told from the other thing."""
        return _OPPOSITES[self]


_OPPOSITES = {
    Relation.LEFT_OF: Relation.RIGHT_OF,
    Relation.RIGHT_OF: Relation.LEFT_OF,
    Relation.ABOVE: Relation.BELOW,
    Relation.BELOW: Relation.ABOVE,
}


class SceneKind(StrEnum):
    """The three things a caption can say."""

    SINGLE = "single"
    PAIR = "pair"
    COUNT = "count"


@dataclass(frozen=True)
class Scene:
    """What a picture shows: `names` (nouns in the singular, as often as drawn) on a background.

    One name is a single thing; one name repeated is a count; two names are a pair, and
    `relation` says where the first stands.
    """

    names: tuple[str, ...]
    background: str
    relation: Relation | None = None

    @property
    def kind(self) -> SceneKind:
        """Which of the three a scene is."""
        if self.relation is not None:
            return SceneKind.PAIR
        return SceneKind.SINGLE if len(self.names) == 1 else SceneKind.COUNT

    @property
    def caption(self) -> str:
        """The scene in words: "an owl left of a rocket on a pink background"."""
        noun = NOUN_OF[self.names[0]]
        if self.relation is not None:
            other = NOUN_OF[self.names[1]].with_article
            subject = f"{noun.with_article} {self.relation} {other}"
        elif len(self.names) == 1:
            subject = noun.with_article
        else:
            subject = f"{COUNT_WORDS[len(self.names)]} {noun.plural}"
        article = "an" if self.background == "orange" else "a"
        return f"{subject} on {article} {self.background} background"

    @property
    def combinations(self) -> tuple[str, ...]:
        """What is combined here, each of which pretraining may or may not have seen."""
        names = sorted(set(self.names))
        found = [f"{name} on {self.background}" for name in names]
        if self.relation is not None:
            found.append(" and ".join(names))
        elif len(self.names) > 1:
            found.append(f"{len(self.names)} {names[0]}")
        return tuple(found)

    @property
    def held_out(self) -> bool:
        """Whether any of its combinations is one that pretraining never shows."""
        return any(is_held_out(combination) for combination in self.combinations)


def is_held_out(combination: str) -> bool:
    """A property of the words alone: the same on every machine, whatever the vocabulary."""
    return hashlib.sha256(combination.encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def draw_scene(kind: SceneKind, rng: random.Random) -> Scene:
    """Any scene of a kind, held out or not."""
    background = rng.choice(tuple(BACKGROUNDS))
    first, second = (noun.singular for noun in rng.sample(NOUNS, 2))
    if kind is SceneKind.SINGLE:
        return Scene((first,), background)
    if kind is SceneKind.COUNT:
        return Scene((first,) * rng.choice(tuple(COUNT_WORDS)), background)
    return Scene((first, second), background, rng.choice(tuple(Relation)))


def draw_training_scene(kind: SceneKind, rng: random.Random) -> Scene:
    """A scene of which pretraining may see every combination."""
    while (scene := draw_scene(kind, rng)).held_out:
        pass
    return scene


def draw_held_out_scene(kind: SceneKind, rng: random.Random) -> Scene:
    """A scene of which at least what its kind is about was never seen.

    A single's name and background, a pair's two names, a count's number and name.
    """
    while not is_held_out((scene := draw_scene(kind, rng)).combinations[-1]):
        pass
    return scene

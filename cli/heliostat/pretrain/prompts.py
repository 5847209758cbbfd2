"""The demo's prompt files: what RL trains on, and what it is evaluated on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat.pretrain.captions import (
    Scene,
    SceneKind,
    draw_held_out_scene,
    draw_training_scene,
)
from heliostat.pretrain.vocabulary import BACKGROUNDS
from heliostat_engines.files.atomic import atomic_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRAIN_FILE, HELD_OUT_FILE = "demo_train.txt", "demo_heldout.txt"
ANIMALS_TRAIN_FILE, ANIMALS_HELD_OUT_FILE = "animals_train.txt", "animals_heldout.txt"
HARD_TRAIN_FILE, HARD_HELD_OUT_FILE = "hard_train.txt", "hard_heldout.txt"

ANIMALS = [
    "cat",
    "dog",
    "panda",
    "pig",
    "tiger",
    "lion",
    "fox",
    "bear",
    "koala",
    "frog",
    "rabbit",
    "monkey",
    "mouse",
    "cow",
    "penguin",
    "owl",
    "chick",
    "duck",
    "elephant",
    "turtle",
    "snail",
    "octopus",
    "crab",
    "fish",
    "whale",
    "butterfly",
    "ladybug",
    "bee",
    "unicorn",
    "dinosaur",
]
"""One subject for a run of an hour."""

HARD = [
    "octopus",
    "teapot",
    "magnet",
    "house",
    "butterfly",
    "gift",
    "bee",
    "fish",
    "moon",
    "cookie",
    "lollipop",
    "spaceship",
    "tiger",
    "hourglass",
    "fox",
    "owl",
]
"""For a run of minutes: what the pretrained model often draws badly, and few enough that every one of
them comes up several times."""
HARD_HELD_OUT_BACKGROUNDS = 2


@dataclass(frozen=True)
class PromptSettings:
    """How many prompts of each kind the two files hold: single things, pairs, counts."""

    train: tuple[int, int, int] = (360, 150, 90)
    held_out: tuple[int, int, int] = (72, 32, 24)
    seed: int = 8


def training_prompts(settings: PromptSettings) -> list[str]:
    """Captions that pretraining may have seen, each once, shuffled."""
    return _distinct(settings.train, draw_training_scene, f"{settings.seed}/train")


def held_out_prompts(settings: PromptSettings) -> list[str]:
    """Captions of combinations that neither pretraining nor `training_prompts` shows."""
    return _distinct(settings.held_out, draw_held_out_scene, f"{settings.seed}/held out")


def animal_prompts(*, held_out: bool) -> list[str]:
    """Each animal on each background, of those that pretraining has seen, or has not."""
    scenes = [Scene((animal,), background) for animal in ANIMALS for background in BACKGROUNDS]
    random.Random(0).shuffle(scenes)
    return [scene.caption for scene in scenes if scene.held_out == held_out]


def hard_prompts(*, held_out: bool) -> list[str]:
    """Each hard subject on two backgrounds that are held out from RL, or on all the others."""
    rng = random.Random(0)
    captions = []
    for subject in HARD:
        kept_back = rng.sample(list(BACKGROUNDS), HARD_HELD_OUT_BACKGROUNDS)
        captions += [
            Scene((subject,), background).caption
            for background in BACKGROUNDS
            if (background in kept_back) == held_out
        ]
    rng.shuffle(captions)
    return captions


def write_prompts(folder: Path, settings: PromptSettings) -> None:
    """Write the files, one prompt a line."""
    prompts = {
        TRAIN_FILE: training_prompts(settings),
        HELD_OUT_FILE: held_out_prompts(settings),
        ANIMALS_TRAIN_FILE: animal_prompts(held_out=False),
        ANIMALS_HELD_OUT_FILE: animal_prompts(held_out=True),
        HARD_TRAIN_FILE: hard_prompts(held_out=False),
        HARD_HELD_OUT_FILE: hard_prompts(held_out=True),
    }
    for name, lines in prompts.items():
        atomic_text(folder / name, "\n".join(lines) + "\n")


def _distinct(
    counts: tuple[int, int, int],
    draw: Callable[[SceneKind, random.Random], Scene],
    seed: str,
) -> list[str]:
    rng = random.Random(seed)
    captions: list[str] = []
    for kind, count in zip(SceneKind, counts, strict=True):
        of_kind: dict[str, None] = {}
        while len(of_kind) < count:
            of_kind[draw(kind, rng).caption] = None
        captions.extend(of_kind)
    rng.shuffle(captions)
    return captions

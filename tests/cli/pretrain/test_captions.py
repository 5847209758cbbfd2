"""Captions say what a scene shows, and held-out combinations stay held out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from heliostat.pretrain.captions import (
    Relation,
    Scene,
    SceneKind,
    draw_scene,
    draw_training_scene,
    is_held_out,
)
from heliostat.pretrain.pool import PoolSettings, pool_scene
from heliostat.pretrain.prompts import (
    HELD_OUT_FILE,
    TRAIN_FILE,
    PromptSettings,
    held_out_prompts,
    training_prompts,
    write_prompts,
)
from heliostat.pretrain.vocabulary import BACKGROUNDS, COUNT_WORDS, NOUNS

EXAMPLES = Path(__file__).parents[3] / "examples" / "prompts"


@pytest.mark.parametrize(
    ("scene", "caption"),
    [
        (Scene(("owl",), "pink"), "an owl on a pink background"),
        (Scene(("unicorn",), "orange"), "a unicorn on an orange background"),
        (Scene(("hourglass",), "red"), "an hourglass on a red background"),
        (Scene(("mouse",) * 3, "blue"), "three mice on a blue background"),
        (
            Scene(("penguin", "rocket"), "yellow", Relation.LEFT_OF),
            "a penguin left of a rocket on a yellow background",
        ),
    ],
)
def test_caption(scene: Scene, caption: str) -> None:
    assert scene.caption == caption


def test_vocabulary_has_no_twins() -> None:
    assert len({noun.singular for noun in NOUNS}) == len(NOUNS) == 120
    assert len({noun.drawing for noun in NOUNS}) == len(NOUNS)
    assert len(set(BACKGROUNDS.values())) == len(BACKGROUNDS) == 10


@pytest.mark.parametrize("relation", Relation)
def test_opposite_of_the_opposite_is_the_relation(relation: Relation) -> None:
    assert relation.opposite.opposite is relation


@pytest.mark.parametrize("kind", SceneKind)
def test_drawn_scenes_are_of_their_kind(kind: SceneKind) -> None:
    rng = random.Random(0)
    assert all(draw_scene(kind, rng).kind is kind for _ in range(50))


@pytest.mark.parametrize("kind", SceneKind)
def test_training_scenes_hold_no_held_out_combination(kind: SceneKind) -> None:
    rng = random.Random(0)
    for _ in range(200):
        scene = draw_training_scene(kind, rng)
        assert not any(is_held_out(combination) for combination in scene.combinations)


def test_pair_is_the_same_combination_from_either_side() -> None:
    one = Scene(("owl", "rocket"), "blue", Relation.ABOVE)
    other = Scene(("rocket", "owl"), "blue", Relation.LEFT_OF)
    assert one.combinations == other.combinations


def test_pretraining_sees_every_word() -> None:
    """Every name alone, on all but few backgrounds, and in every count that is not held out."""
    for noun in NOUNS:
        seen = [c for c in BACKGROUNDS if not Scene((noun.singular,), c).held_out]
        assert len(seen) >= 5
        counts = [n for n in COUNT_WORDS if not is_held_out(f"{n} {noun.singular}")]
        assert counts
    scenes = [pool_scene(PoolSettings(), number) for number in range(2000)]
    assert {scene.relation for scene in scenes} == {None, *Relation}
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)


def test_prompt_files_are_disjoint_and_distinct() -> None:
    train, held_out = training_prompts(PromptSettings()), held_out_prompts(PromptSettings())
    assert len(set(train)) == len(train) == 600
    assert len(set(held_out)) == len(held_out) == 128
    assert not set(train) & set(held_out)


def test_shipped_prompt_files_are_what_the_recipe_writes(tmp_path: Path) -> None:
    write_prompts(tmp_path, PromptSettings())
    for name in (TRAIN_FILE, HELD_OUT_FILE):
        assert (EXAMPLES / name).read_text() == (tmp_path / name).read_text()

"""The judges: image-text match models, trained contrastively on scenes and their near misses.

Scenes come in families: a scene and five others that differ from it in one word's meaning. A
batch is some families, so every picture's hardest wrong captions are its relatives' own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch.nn import functional as F

from heliostat.pretrain.autoencoder import decode, encode
from heliostat.pretrain.captions import Relation, Scene, SceneKind, draw_scene
from heliostat.pretrain.progress import StageProgress
from heliostat.pretrain.scenes import Painter, to_unit_range
from heliostat.pretrain.training import Training, TrainSettings, step_generator
from heliostat.pretrain.vocabulary import BACKGROUNDS, COUNT_WORDS, NOUNS
from heliostat_server.rewards.demo.network import (
    Calibration,
    Judge,
    JudgeArchitecture,
    JudgeNetwork,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diffusers import AutoencoderKL

    from heliostat.pretrain.pool import Captions

Family = tuple[Scene, ...]
FAMILY_SIZE = 6
CALIBRATION_FAMILIES = 256


@dataclass(frozen=True)
class FamilySettings:
    """The families both judges learn from; held-out combinations are among them.

    A judge has to rate every prompt, also those the denoiser was never shown.
    """

    size: int = 4000
    evaluated: int = 400
    """More families, to measure judges on and not to train them."""
    seed: int = 4
    kind_weights: tuple[float, float, float] = (0.35, 0.4, 0.25)
    """Of single things, pairs and counts."""


@dataclass(frozen=True)
class JudgeSettings:
    """One judge: the drawings it knows, its architecture, augmentations and training."""

    sets: tuple[str, ...]
    training: TrainSettings
    architecture: JudgeArchitecture = field(default_factory=JudgeArchitecture)
    temperature: float = 0.07
    reconstructed: float = 0.35
    """Share of pictures that went through the autoencoder, as generated ones do."""
    latent_noise: float = 0.5
    """Largest standard deviation added to those latents, whose own is one."""
    blurred: float = 0.3
    noisy: float = 0.3
    pixel_noise: float = 0.05
    """Largest standard deviation added to pixels of 0..1."""
    spread: float = 2.0
    """Logits of real matches and of near misses are calibrated to plus and minus this."""


def draw_family(settings: FamilySettings, number: int) -> Family:
    """Family `number`: a scene, then five near misses; a function of seed and number alone."""
    rng = random.Random(f"{settings.seed}/{number}")
    (kind,) = rng.choices(tuple(SceneKind), settings.kind_weights)
    scene = draw_scene(kind, rng)
    near_misses = {
        SceneKind.SINGLE: _single_near_misses,
        SceneKind.PAIR: _pair_near_misses,
        SceneKind.COUNT: _count_near_misses,
    }
    return (scene, *near_misses[kind](scene, rng))


def _single_near_misses(scene: Scene, rng: random.Random) -> list[Scene]:
    others = [color for color in BACKGROUNDS if color != scene.background]
    return [
        *(replace(scene, names=(name,)) for name in _other_names(scene, rng, 3)),
        *(replace(scene, background=color) for color in rng.sample(others, 2)),
    ]


def _pair_near_misses(scene: Scene, rng: random.Random) -> list[Scene]:
    first, second = scene.names
    stranger, other = _other_names(scene, rng, 2)
    return [
        replace(scene, names=(second, first)),
        replace(scene, relation=_turned(scene.relation, rng)),
        replace(scene, names=(stranger, second)),
        replace(scene, names=(first, other)),
        _on_another_background(scene, rng),
    ]


def _count_near_misses(scene: Scene, rng: random.Random) -> list[Scene]:
    name, count = scene.names[0], len(scene.names)
    (stranger,) = _other_names(scene, rng, 1)
    return [
        *(replace(scene, names=(name,) * n) for n in (1, *COUNT_WORDS) if n != count),
        replace(scene, names=(stranger,) * count),
        _on_another_background(scene, rng),
    ]


def _turned(relation: Relation | None, rng: random.Random) -> Relation:
    """Across instead of along: the opposite would tell the swapped picture in other words."""
    return rng.choice([r for r in Relation if r is not relation and r.opposite is not relation])


def _other_names(scene: Scene, rng: random.Random, count: int) -> list[str]:
    return rng.sample([n.singular for n in NOUNS if n.singular not in scene.names], count)


def _on_another_background(scene: Scene, rng: random.Random) -> Scene:
    others = [color for color in BACKGROUNDS if color != scene.background]
    return replace(scene, background=rng.choice(others))


@dataclass(frozen=True)
class JudgeStudio:
    """What a judge is trained with: families, their captions, a painter, the autoencoder."""

    families: Sequence[Family]
    captions: Captions
    painter: Painter
    autoencoder: AutoencoderKL


def train_judge(settings: JudgeSettings, studio: JudgeStudio, checkpoint: Path) -> Judge:
    """Train (or resume) one judge and calibrate it on real drawings."""
    torch.manual_seed(settings.training.seed)
    network = JudgeNetwork(settings.architecture)
    training = Training(network, settings.training, checkpoint)

    def loss(module: torch.nn.Module, step: int) -> torch.Tensor:
        return judge_loss(cast("JudgeNetwork", module), studio, settings, step)

    with StageProgress(checkpoint.stem) as progress:
        average = cast("JudgeNetwork", training.run(loss, progress))
    return calibrated(average, studio, settings)


def judge_loss(
    network: JudgeNetwork, studio: JudgeStudio, settings: JudgeSettings, step: int
) -> torch.Tensor:
    """Symmetric cross-entropy of pictures against captions, all of one batch of families."""
    rng = random.Random(f"{settings.training.seed}/{step}")
    families = rng.sample(studio.families, settings.training.batch // FAMILY_SIZE)
    scenes = [scene for family in families for scene in family]
    pictures = to_unit_range(np.stack([studio.painter.paint(scene, rng) for scene in scenes]))
    images = augment(pictures, studio.autoencoder, settings, step)
    rows = torch.tensor([studio.captions.index[scene.caption] for scene in scenes])
    with torch.autocast("cpu", torch.bfloat16):
        seen = network.embed_images(images)
        told = network.embed_captions(studio.captions.conditioning.take(rows).to(torch.float32))
    logits = (seen.float() @ told.float().T) / settings.temperature
    # Two families may share a caption; it is no wrong answer for either picture.
    same = (rows[:, None] == rows) & ~torch.eye(len(rows), dtype=torch.bool)
    logits = logits.masked_fill(same, -torch.inf)
    targets = torch.arange(len(rows))
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


@torch.no_grad()
def augment(
    images: torch.Tensor, autoencoder: AutoencoderKL, settings: JudgeSettings, step: int
) -> torch.Tensor:
    """Give images[B, 3, H, W] in 0..1 the faults of generated ones: the autoencoder's
    reconstructions of noisy latents, blur and noise, each for some of the pictures.
    """
    generator = step_generator(settings.training.seed, step)
    images = images.clone()

    def some(share: float) -> torch.Tensor:
        return torch.rand(len(images), generator=generator) < share

    def strengths(count: int, most: float) -> torch.Tensor:
        return torch.rand(count, 1, 1, 1, generator=generator) * most

    chosen = some(settings.reconstructed)
    with torch.autocast("cpu", torch.bfloat16):
        latents = encode(autoencoder, images[chosen] * 2 - 1)
        noise = torch.randn(latents.shape, generator=generator)
        latents = latents + strengths(len(latents), settings.latent_noise) * noise
        images[chosen] = decode(autoencoder, latents)
    chosen = some(settings.blurred)
    soft = F.avg_pool2d(F.pad(images[chosen], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images[chosen] = torch.lerp(images[chosen], soft, strengths(len(soft), 1.0))
    chosen = some(settings.noisy)
    noise = torch.randn(images[chosen].shape, generator=generator)
    images[chosen] += strengths(len(noise), settings.pixel_noise) * noise
    return images


@torch.no_grad()
def family_cosines(network: JudgeNetwork, studio: JudgeStudio, seed: int) -> torch.Tensor:
    """Similarity[N, 6, 6] of every picture (row) with every caption (column) of its family."""
    rng = random.Random(seed)
    cosines = []
    for family in studio.families:
        pictures = np.stack([studio.painter.paint(scene, rng) for scene in family])
        rows = [studio.captions.index[scene.caption] for scene in family]
        captions = studio.captions.conditioning.take(rows).to(torch.float32)
        seen, told = network.embed_images(to_unit_range(pictures)), network.embed_captions(captions)
        cosines.append(seen @ told.T)
    return torch.stack(cosines)


def calibrated(network: JudgeNetwork, studio: JudgeStudio, settings: JudgeSettings) -> Judge:
    """Set slope and centre so that real drawings and near misses average at +-`spread` logits."""
    network.eval()
    few = replace(studio, families=studio.families[:CALIBRATION_FAMILIES])
    cosines = family_cosines(network, few, settings.training.seed)
    own = torch.eye(FAMILY_SIZE, dtype=torch.bool)
    match, near_miss = cosines[:, own].mean().item(), cosines[:, ~own].mean().item()
    slope = 2 * settings.spread / (match - near_miss)
    return Judge(network, Calibration(slope, (match + near_miss) / 2))

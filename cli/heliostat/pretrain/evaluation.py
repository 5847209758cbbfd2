"""Figures for the model card: how well each part does, and sheets of samples to look at."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from heliostat.pretrain.autoencoder import decode, painted_batch, reconstruction_psnr_db
from heliostat.pretrain.captions import Scene
from heliostat.pretrain.denoiser import sample
from heliostat.pretrain.judges import FAMILY_SIZE, family_cosines
from heliostat.pretrain.scenes import to_unit_range
from heliostat.pretrain.vocabulary import BACKGROUNDS, NOUNS
from heliostat_engines.files.atomic import atomic_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diffusers import AutoencoderKL, SD3Transformer2DModel

    from heliostat.pretrain.judges import JudgeStudio
    from heliostat.pretrain.scenes import Painter
    from heliostat_engines.families.demo.text_encoder import DemoTextEncoder
    from heliostat_server.rewards.demo.network import Judge, JudgeNetwork


@dataclass(frozen=True)
class EvaluationSettings:
    """How much is measured, and how samples are drawn."""

    psnr_images: int = 512
    names_per_background: int = 48
    prompts: int = 32
    group: int = 16
    steps: int = 20
    guidances: tuple[float, ...] = (1.0, 3.0)
    batch: int = 64
    seed: int = 9


@dataclass(frozen=True)
class JudgeAccuracy:
    """How often a picture's own caption scores above each sort of near miss, 0..1.

    `name_of_all` is harder: the right name among all, on the right background.
    """

    name: float
    background: float
    relation: float
    count: float
    name_of_all: float


@dataclass(frozen=True)
class GroupFigures:
    """Scores of `group` samples a prompt: mean, spread within a group, spread of group means."""

    mean: float
    within_group_std: float
    between_group_std: float


@dataclass(frozen=True)
class Sampler:
    """The trained model as one thing that draws prompts."""

    transformer: SD3Transformer2DModel
    autoencoder: AutoencoderKL
    encoder: DemoTextEncoder
    settings: EvaluationSettings

    def draw(self, prompts: Sequence[str], guidance: float) -> torch.Tensor:
        """Images[B, 3, 64, 64] in 0..1, one a prompt, noise from the settings' seed."""
        null = self.encoder.encode([""])
        generator = torch.Generator().manual_seed(self.settings.seed)
        images = []
        for start in range(0, len(prompts), self.settings.batch):
            conditioning = self.encoder.encode(prompts[start : start + self.settings.batch])
            config = self.transformer.config
            shape = (config.in_channels, config.sample_size, config.sample_size)
            noise = torch.randn(len(conditioning), *shape, generator=generator)
            latents = sample(
                self.transformer,
                conditioning,
                null,
                noise,
                steps=self.settings.steps,
                guidance=guidance,
            )
            images.append(decode(self.autoencoder, latents))
        return torch.cat(images)


def autoencoder_psnr_db(
    autoencoder: AutoencoderKL, painter: Painter, settings: EvaluationSettings
) -> float:
    """On pictures painted from a seed that training did not use."""
    images = painted_batch(painter, settings.psnr_images, f"evaluation/{settings.seed}")
    return reconstruction_psnr_db(autoencoder, images)


def judge_accuracy(
    judge: Judge, studio: JudgeStudio, settings: EvaluationSettings
) -> JudgeAccuracy:
    """Accuracy on the studio's families, painted anew in its painter's drawing sets."""
    cosines = family_cosines(judge.network, studio, settings.seed)
    wins: dict[str, list[bool]] = {"name": [], "background": [], "relation": [], "count": []}
    for family, similarity in zip(studio.families, cosines, strict=True):
        for column in range(1, FAMILY_SIZE):
            won = bool(similarity[0, 0] > similarity[0, column])
            wins[difference(family[0], family[column])].append(won)
    rates = {key: float(np.mean(won)) for key, won in wins.items()}
    return JudgeAccuracy(**rates, name_of_all=_name_of_all(judge.network, studio, settings))


def difference(scene: Scene, near_miss: Scene) -> str:
    """What sets a near miss apart: "name", "background", "relation" or "count"."""
    if scene.background != near_miss.background:
        return "background"
    if len(scene.names) != len(near_miss.names):
        return "count"
    return "relation" if set(scene.names) == set(near_miss.names) else "name"


@torch.no_grad()
def _name_of_all(network: JudgeNetwork, studio: JudgeStudio, settings: EvaluationSettings) -> float:
    """Single things: the right name among all of the vocabulary, on the same background."""
    rng = random.Random(settings.seed)
    right = 0
    # Each background's captions are embedded once; the pictures take turns in them.
    for background in BACKGROUNDS:
        scenes = [Scene((noun.singular,), background) for noun in NOUNS]
        rows = [studio.captions.index[scene.caption] for scene in scenes]
        told = network.embed_captions(studio.captions.conditioning.take(rows).to(torch.float32))
        targets = rng.sample(range(len(NOUNS)), settings.names_per_background)
        pictures = np.stack([studio.painter.paint(scenes[target], rng) for target in targets])
        best = (network.embed_images(to_unit_range(pictures)) @ told.T).argmax(dim=1)
        right += int((best == torch.tensor(targets)).sum())
    return right / (settings.names_per_background * len(BACKGROUNDS))


def score_groups(
    judge: Judge, encoder: DemoTextEncoder, images: torch.Tensor, prompts: Sequence[str]
) -> GroupFigures:
    """Figures of images[P * N, 3, 64, 64], N in a row for each of P prompts."""
    group = len(images) // len(prompts)
    scores = judge.score(images, encoder.encode(prompts).repeat(group)).view(-1, group)
    return GroupFigures(
        mean=scores.mean().item(),
        within_group_std=scores.std(dim=1).mean().item(),
        between_group_std=scores.mean(dim=1).std().item(),
    )


def base_model_figures(
    sampler: Sampler, judges: dict[str, Judge], prompts: Sequence[str]
) -> dict[str, dict[str, GroupFigures]]:
    """By guidance, then by judge: how the model that RL starts from is rated."""
    group = sampler.settings.group
    repeated = [prompt for prompt in prompts for _ in range(group)]
    figures = {}
    for guidance in sampler.settings.guidances:
        images = sampler.draw(repeated, guidance)
        figures[f"guidance {guidance:g}"] = {
            name: score_groups(judge, sampler.encoder, images, prompts)
            for name, judge in judges.items()
        }
    return figures


def save_sheet(path: Path, images: torch.Tensor, columns: int) -> None:
    """Write images[B, 3, H, W] in 0..1 as one PNG, row by row, zoomed twice."""
    rows = [
        torch.cat(list(row), dim=2) for row in torch.split(images, columns) if len(row) == columns
    ]
    sheet = torch.cat(rows, dim=1).permute(1, 2, 0).mul(255).round().byte().numpy()
    picture = Image.fromarray(sheet)
    zoomed = picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST)
    with atomic_file(path) as file:
        zoomed.save(file, format="PNG")

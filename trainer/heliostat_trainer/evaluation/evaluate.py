"""Held-out evaluation: fixed prompts and seeds, drawn in BF16, rewarded by the server."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from heliostat_engines.files.atomic import discard_folder
from heliostat_engines.progress import Stages
from heliostat_engines.resolution import pixels
from heliostat_trainer.errors import RunFolderError
from heliostat_trainer.evaluation.budget import (
    TRIAL_STEPS,
    DrawingPace,
    affordable_prompts,
    affords_another,
    allowed_s,
)
from heliostat_trainer.evaluation.results import (
    Conditions,
    Evaluation,
    pair,
    prompt_interval,
    read_evaluations,
    read_results,
    told_sizes,
    write_results,
)
from heliostat_trainer.evaluation.statistics import PER_IMAGE, diversity
from heliostat_trainer.folder.layout import EVALUATION_LAYOUT, kept_steps, step_folder
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.randomness import Purpose, candidate_seeds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.resolution import Resolution
    from heliostat_trainer.policy.artist import Artist
    from heliostat_trainer.rollouts.service import RolloutService
    from heliostat_trainer.settings.config import TrainConfig

PROMPTS_AT_ONCE = 64
"""Whose embeddings and images are held at once, or a few more to fill batches."""


@dataclass(frozen=True)
class _Drawn:
    """What is kept of a prompt's images."""

    rewards: NDArray[np.float64]
    """rewards[S, R]"""
    statistics: Mapping[str, list[float]]
    diversity: float | None
    """None where there is one image alone."""
    images: torch.Tensor | None
    """images[S, H, W, 3] of those prompts whose pictures are kept."""


class Evaluator:
    """Evaluates policies and keeps the results in the run folder."""

    def __init__(
        self,
        config: TrainConfig,
        prompts: Sequence[str],
        server: RolloutService,
        artist: Artist,
        resolution_px: Resolution,
        folder: Path,
        stages: Stages | None = None,
        sizes: Mapping[str, Resolution] | None = None,
    ) -> None:
        """`sizes` are of prompts whose images have a size of their own; others have `resolution_px`."""
        settings = config.evaluation
        self._stages = stages or Stages()
        self._allowed_s = allowed_s(config)
        self._settings = settings
        self._solver = config.recipe.solver
        self._rewards = config.reward.all
        self._prompts = tuple(prompts[: settings.prompts])
        self._server = server
        self._artist = artist
        self._resolution_px = resolution_px
        self._own_sizes = sizes or {}
        self._folder = folder
        self._seeds = tuple(
            candidate_seeds(settings.seed, Purpose.EVALUATION, settings.seeds_per_prompt, row)
            for row in range(len(self._prompts))
        )

    def path(self, step: int) -> Path:
        """The folder of a step's evaluation."""
        return step_folder(self._folder, step)

    def is_done(self, step: int, guidances: Sequence[float]) -> bool:
        """Whether a step was evaluated at each guidance scale, with the settings as they are now."""
        made_with = [evaluation.conditions for evaluation in self._kept(step)]
        wanted = [self._conditions(guidance) for guidance in guidances]
        return all(any(each.match(kept) for kept in made_with) for each in wanted)

    def paired(self, step: int, evaluation: Evaluation) -> Evaluation | None:
        """A step's evaluation that `evaluation` compares with; 0 is the base model's. None: none."""
        return next((kept for kept in self._kept(step) if pair(evaluation, kept)), None)

    def forget_after(self, step: int) -> None:
        """Delete evaluations of steps that will be done anew.

        Raises:
            FilesError: one of them holds what is not ours; it is left.
        """
        for done in kept_steps(self._folder):
            if done > step:
                discard_folder(self.path(done), EVALUATION_LAYOUT)

    @property
    def prompts(self) -> tuple[str, ...]:
        """What is evaluated."""
        return self._prompts

    def size_of(self, prompt: str) -> Resolution:
        """Of a prompt's images."""
        return self._own_sizes.get(prompt, self._resolution_px)

    def fit(self) -> DrawingPace | None:
        """Leave out prompts that evaluation.budget has no time for, as the base's evaluation did.

        The first time, when there is none yet that would pair, the pace is measured, and returned.
        """
        if self._allowed_s is None:
            return None
        pace, fitting = None, self._fitted_before()
        if not fitting:
            pace = self._measure()
            fitting = affordable_prompts(self._settings, self._allowed_s, pace)
        self._prompts, self._seeds = self._prompts[:fitting], self._seeds[:fitting]
        return pace

    def _fitted_before(self) -> int:
        """Prompts of the base model's evaluation, if it pairs but for their number; else 0."""
        for base in self._kept(0):
            count = len(base.prompts)
            wanted = replace(
                self._conditions(base.guidance),
                prompts=self._prompts[:count],
                seeds=self._seeds[:count],
                sizes=self._sizes(self._prompts[:count]),
            )
            if wanted.match(base.conditions):
                return count
        return 0

    def affords_another(self) -> bool:
        """Whether evaluation.budget has time for one between the first and the last."""
        if self._allowed_s is None:
            return True
        return affords_another(self._allowed_s, read_evaluations(self._folder))

    def run(
        self, step: int, policy: PolicyName, guidances: Sequence[float]
    ) -> tuple[Evaluation, ...]:
        """Evaluate a policy at each guidance scale, and keep the results.

        Raises:
            FilesError: the results cannot be written.
        """
        evaluations, pictures = [], []
        done, nfes = 0, sum(map(self._settings.nfes, guidances))
        for scale in guidances:
            low, done = done, done + self._settings.nfes(scale)
            evaluation, images = self._evaluate(step, policy, scale, (low / nfes, done / nfes))
            evaluations.append(evaluation)
            pictures.append(images)
        write_results(self.path(step), evaluations, pictures)
        return tuple(evaluations)

    def _evaluate(
        self, step: int, policy: PolicyName, guidance: float, share: tuple[float, float]
    ) -> tuple[Evaluation, list[torch.Tensor]]:
        """The evaluation, and images[S, H, W, 3] of each of the first prompts to keep.

        `share` is where it begins and ends among all that is evaluated now, 0..1.
        """
        began = time.monotonic()
        null = None if guidance == 1.0 else self._encode([""])
        blocks = self._blocks()
        drawn: list[_Drawn] = []
        for number, block in enumerate(blocks):
            low, high = (
                share[0] + (share[1] - share[0]) * at / len(blocks) for at in (number, number + 1)
            )
            self._stages.part(f"evaluate the {policy} policy, guidance {guidance:g}", low, high)
            drawn += self._draw(policy, guidance, block, null)
        values = np.stack([prompt.rewards for prompt in drawn])
        rewards = {name: values[..., column] for column, name in enumerate(self._rewards)}
        evaluation = Evaluation(
            step=step,
            policy=policy,
            guidance=guidance,
            denoising_steps=self._settings.steps,
            prompts=self._prompts,
            seeds=self._seeds,
            rewards={name: rows.tolist() for name, rows in rewards.items()},
            means={name: prompt_interval(rows) for name, rows in rewards.items()},
            statistics={name: [prompt.statistics[name] for prompt in drawn] for name in PER_IMAGE},
            diversity=[each.diversity for each in drawn if each.diversity is not None],
            seconds=round(time.monotonic() - began, 2),
            resolution_px=self._resolution_px,
            solver=self._solver,
            sizes=self._sizes(self._prompts),
        )
        return evaluation, [each.images for each in drawn if each.images is not None]

    def _blocks(self) -> list[range]:
        """Rows of prompts that are drawn together: embeddings and images of all would not fit.

        A block's images fill whole batches, so that batches are those of a single block.
        """
        capacity = self._artist.capacity
        filling = capacity // math.gcd(capacity, self._settings.seeds_per_prompt)
        size = filling * math.ceil(PROMPTS_AT_ONCE / filling)
        return [
            range(start, min(start + size, len(self._prompts)))
            for start in range(0, len(self._prompts), size)
        ]

    def _draw(
        self, policy: PolicyName, guidance: float, block: range, null: Conditioning | None
    ) -> list[_Drawn]:
        """Draw and score a block of prompts: those whose images have one size together."""
        alike: dict[Resolution, list[int]] = {}
        for row in block:
            alike.setdefault(self.size_of(self._prompts[row]), []).append(row)
        drawn: dict[int, _Drawn] = {}
        for size, rows in alike.items():
            drawn |= self._draw_alike(policy, guidance, rows, size, null)
        return [drawn[row] for row in block]

    def _draw_alike(
        self,
        policy: PolicyName,
        guidance: float,
        numbers: Sequence[int],
        resolution_px: Resolution,
        null: Conditioning | None,
    ) -> dict[int, _Drawn]:
        """Draw and score prompts with images of one size, by their numbers."""
        each = self._settings.seeds_per_prompt
        prompts = [self._prompts[number] for number in numbers]
        latents = self._artist.draw(
            policy,
            [seed for number in numbers for seed in self._seeds[number]],
            self._encode(prompts),
            [row for row in range(len(prompts)) for _ in range(each)],
            self._settings.steps,
            null=null,
            guidance=guidance,
            resolution_px=resolution_px,
        )
        texts = [prompt for prompt in prompts for _ in range(each)]
        scores = self._server.score(latents, texts, self._rewards, return_images=True)
        assert scores.images is not None
        groups = torch.split(torch.from_numpy(scores.images), each)
        rewards = scores.rewards.reshape(len(numbers), each, -1)
        return {
            number: self._described(number, *of_prompt)
            for number, *of_prompt in zip(numbers, rewards, groups, strict=True)
        }

    def _described(self, number: int, rewards: NDArray[np.float64], images: torch.Tensor) -> _Drawn:
        """What is kept of a prompt's rewards[S, R] and images[S, H, W, 3]."""
        shares = images.permute(0, 3, 1, 2).float() / 255
        return _Drawn(
            rewards,
            {
                name: [round(float(value), 5) for value in measure(shares)]
                for name, measure in PER_IMAGE.items()
            },
            round(diversity(shares), 5) if len(images) > 1 else None,
            images.clone() if number < self._settings.images else None,
        )

    def _measure(self) -> DrawingPace:
        """Draw and score a batch with few steps; once before, so that all is loaded and warm.

        Of images of one size: the pace is that of as many pixels as all have on average.
        """
        each = self._settings.seeds_per_prompt
        capacity = self._artist.capacity
        sizes = [self.size_of(prompt) for prompt in self._prompts]
        alike = [number for number, size in enumerate(sizes) if size == sizes[0]]
        larger = sum(map(pixels, sizes)) / (len(sizes) * pixels(sizes[0]))
        seeds = [seed for number in alike for seed in self._seeds[number]][:capacity]
        rows = [row for row in range(len(alike)) for _ in range(each)][:capacity]
        texts = [self._prompts[alike[row]] for row in rows]
        conditioning = self._encode(texts[::each])
        times = []
        for steps in (1, TRIAL_STEPS):
            times.append(time.monotonic())
            latents = self._artist.draw(
                PolicyName.BASE, seeds, conditioning, rows, steps, resolution_px=sizes[0]
            )
            times.append(time.monotonic())
            self._server.score(latents, texts, self._rewards, return_images=True)
        *_, began, drawn = times
        return DrawingPace(
            nfe_s=larger * (drawn - began) / (TRIAL_STEPS * len(seeds)),
            score_s=larger * (time.monotonic() - drawn) / len(seeds),
        )

    def _sizes(self, prompts: Sequence[str]) -> tuple[Resolution, ...]:
        return told_sizes([self.size_of(prompt) for prompt in prompts], self._resolution_px)

    def _conditions(self, guidance: float) -> Conditions:
        return Conditions(
            guidance,
            self._settings.steps,
            self._resolution_px,
            self._prompts,
            self._seeds,
            self._solver,
            self._sizes(self._prompts),
        )

    def _kept(self, step: int) -> list[Evaluation]:
        """What there is of a step; nothing where it cannot be read: then it is evaluated anew."""
        try:
            return read_results(self.path(step))
        except RunFolderError:
            return []

    def _encode(self, prompts: Sequence[str]) -> Conditioning:
        return self._artist.prepare(self._server.encode(prompts))

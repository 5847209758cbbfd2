"""A rollout server inside the test: a real NVFP4 engine, rewards that are simple to compute."""

from __future__ import annotations

import threading
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from heliostat_engines.adapters import AdapterFiles, parse_adapter
from heliostat_engines.conditioning import Conditioning
from heliostat_engines.decoders import DecoderName
from heliostat_engines.families import get_family
from heliostat_engines.resolution import Resolution
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.euler import SAMPLERS, cut_after
from heliostat_engines.sampling.noise import initial_noise
from heliostat_engines.sampling.solvers import Solver
from heliostat_trainer.rewards import RewardSum
from heliostat_trainer.rollouts.service import (
    NOTHING_TOLD,
    RefusedPrompt,
    RefusedPrompts,
    Scores,
    Told,
)
from heliostat_trainer.types import Candidate, Group, GroupRequest, PublishedAdapter, ServerInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BATCH = 4
KEPT = 3
SHAPE = (16, 8, 8)


def warmth(latents: torch.Tensor) -> torch.Tensor:
    return latents[:, 0].flatten(1).mean(dim=1)


def contrast(latents: torch.Tensor) -> torch.Tensor:
    return latents.flatten(1).std(dim=1)


REWARDS = {"warmth": warmth, "contrast": contrast}


def embed(prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
    return torch.randn(4, 384, generator=generator), torch.randn(384, generator=generator)


class FakeServer:
    """Implements `RolloutService`; groups come back in reverse order if asked."""

    def __init__(self, checkpoint: Path, *, reverse: bool = False) -> None:
        self.family = get_family("demo")
        self.engine = TorchEngine(self.family, str(checkpoint), max_rank=16)
        self._one_thread = threading.Lock()
        self.checkpoint = str(checkpoint)
        self.group_s = 1.0
        """What exploring a group is said to take."""
        self.reverse = reverse
        self.version = 0
        self.told: list[Told] = []
        self.adapters: dict[int, str] = {}
        self.drawn_with: list[str] = []
        self.explored: list[GroupRequest] = []
        self.scored = 0
        self.poison: float | None = None
        self.scores_early = True
        self.solvers = tuple(Solver)
        self.sizes: tuple[Resolution, ...] = (64,)
        self.max_queued_images: int | None = None
        self.decoders = tuple(DecoderName)
        self.decoded_with: list[DecoderName] = []
        self.refuses: dict[str, str] = {}
        """By reward, a word that it takes no prompt with."""

    def info(self) -> ServerInfo:
        engine = self.engine.describe()
        return ServerInfo(
            server_version="0",
            rollout_address="nowhere",
            family=engine.family,
            checkpoint=self.checkpoint,
            runtime=engine.runtime,
            precision=engine.precision,
            compute_dtype=engine.compute_dtype,
            lora_targets=engine.lora_targets,
            max_rank=engine.max_rank,
            resolution_px=self.sizes[0],
            resolutions_px=self.sizes,
            rewards=tuple(REWARDS),
            batch=BATCH,
            max_steps=50,
            max_seeds=1024,
            max_prompt_chars=500,
            max_adapter_bytes=1 << 30,
            latest_version=self.version,
            weights_digest=engine.weights_digest,
            scores_early=self.scores_early,
            solvers=self.solvers,
            max_queued_images=self.max_queued_images,
            decoders=self.decoders,
        )

    def publish(self, files: AdapterFiles, told: Told = NOTHING_TOLD) -> PublishedAdapter:
        self.told.append(told)
        with self._one_thread:
            binding = self.engine.make_resident(parse_adapter(files))
        self.version += 1
        self.adapters[self.version] = files.sha256
        self.adapters.pop(self.version - KEPT, None)
        return PublishedAdapter("tiny", self.version, files.sha256, binding.bound, binding.targets)

    def explore(
        self, requests: Sequence[GroupRequest], adapter: PublishedAdapter
    ) -> Iterator[Group]:
        for request in reversed(requests) if self.reverse else requests:
            assert self.adapters[adapter.version] == adapter.sha256
            self.explored.append(request)
            self.drawn_with.append(adapter.sha256)
            seeds = request.seeds
            parts = [
                self._draw(request, seeds[start : start + BATCH], adapter.sha256)
                for start in range(0, len(seeds), BATCH)
            ]
            latents = torch.cat(parts)
            columns = [REWARDS[name](latents) for name in request.reward.names]
            values = Scores.of(columns, len(latents)).rewards
            kept = latents if request.return_latents else None
            yield Group.rewarded(request, values, kept, elapsed_s=self.group_s)

    def score(
        self,
        latents: torch.Tensor,
        prompts: Sequence[str],
        rewards: Sequence[str],
        *,
        return_images: bool = False,
        decoder: DecoderName = DecoderName.FULL,
    ) -> Scores:
        self.scored += len(prompts)
        self.decoded_with.append(decoder)
        columns = [REWARDS[name](latents) for name in rewards]
        images = (latents[:, :3].permute(0, 2, 3, 1).clamp(-2, 2) + 2) / 4 * 255
        scores = Scores.of(columns, len(latents), images.to(torch.uint8) if return_images else None)
        if self.poison is not None:
            scores.rewards[0, 0] = self.poison
        return scores

    def refused_prompts(self, prompts: Sequence[str], rewards: Sequence[str]) -> RefusedPrompts:
        refused = [
            RefusedPrompt(prompt, f"the reward {name} takes no {word}")
            for prompt in prompts
            for name, word in self.refuses.items()
            if name in rewards and word in prompt
        ]
        return RefusedPrompts(tuple(refused[:1]), len(refused))

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        tokens, pooled = zip(*[embed(prompt) for prompt in prompts], strict=True)
        return Conditioning(torch.stack(tokens), torch.stack(pooled))

    def _draw(self, request: GroupRequest, seeds: Sequence[int], adapter: str) -> torch.Tensor:
        conditioning = self.encode([request.prompt]).repeat(len(seeds))

        def velocity(latents: torch.Tensor, sigma: torch.Tensor, /) -> torch.Tensor:
            return self.engine.velocity(latents, sigma, conditioning, adapter)

        size = request.resolution_px or self.sizes[0]
        shape = self.family.latent_shape(size)
        whole = self.family.sigmas(request.steps, size)
        sigmas = cut_after(whole, request.score_after or request.steps)
        with self._one_thread:
            return SAMPLERS[request.solver](velocity, initial_noise(seeds, shape), sigmas)


def with_rewards(group: Group, rewards: Sequence[float]) -> Group:
    """The group with other rewards."""
    candidates = [
        replace(candidate, reward=reward)
        for candidate, reward in zip(group.candidates, rewards, strict=True)
    ]
    return replace(group, candidates=tuple(candidates))


def make_group(rewards: Sequence[float], seeds: Sequence[int] | None = None) -> Group:
    """A group of candidates with given rewards."""
    numbers = tuple(seeds) if seeds is not None else tuple(range(len(rewards)))
    request = GroupRequest(0, "a prompt", numbers, 2, RewardSum.single("warmth"))
    pairs = zip(numbers, np.asarray(rewards, dtype=float).tolist(), strict=True)
    return Group(request, tuple(Candidate(*pair) for pair in pairs))

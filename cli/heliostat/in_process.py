"""A rollout service without a server: engine, decoder and judges in this process, on any device.

For a loop to read and to change, and for many runs side by side on one card. Nothing is shared, queued
or checked as a server does it: see `examples/minimal_loop.py`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from heliostat_engines.adapters import parse_adapter
from heliostat_engines.decoders import DecoderName
from heliostat_engines.families import get_family
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.euler import SAMPLERS, cut_after
from heliostat_engines.sampling.noise import initial_noise
from heliostat_engines.sampling.solvers import Solver
from heliostat_server.rewards.registry import Offer, RewardBook, offered_rewards
from heliostat_trainer.rollouts.service import (
    NOTHING_TOLD,
    RefusedPrompts,
    ScoreRequest,
    Scores,
    Told,
)
from heliostat_trainer.types import Group, PublishedAdapter, ServerInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from heliostat_engines.adapters import AdapterFiles
    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.families.family import Family
    from heliostat_engines.resolution import Resolution
    from heliostat_server.rewards.definitions import RewardDefinitions
    from heliostat_trainer.types import GroupRequest

SCORED_TOGETHER = 256
BATCH = 8
"""What candidates come in multiples of. Fewer than a server's: on a CPU small batches are as quick."""


def demo_service(
    device: str, *, batch: int = 48, rewards: RewardDefinitions | None = None
) -> InProcessService:
    """The service with the demo's own text encoder."""
    family = get_family("demo")
    encoder = family.load_text_encoder(family.default_checkpoint)
    return InProcessService(device, encoder.encode, batch=batch, rewards=rewards)


class InProcessService:
    """A family's model in NVFP4, the demo's by default, and its rewards."""

    def __init__(
        self,
        device: str,
        encode: Callable[[Sequence[str]], Conditioning],
        *,
        batch: int = 48,
        resolution_px: Resolution = 64,
        rewards: RewardDefinitions | None = None,
        family: Family | None = None,
        scored_together: int = SCORED_TOGETHER,
    ) -> None:
        """`encode` is the family's text encoder's; `batch` candidates are denoised together.

        `rewards` are defined besides the built-in ones; `scored_together` images are on the device at once.
        """
        self._family = family or get_family("demo")
        self._scored_together = scored_together
        self._device = device
        self._batch = batch
        self._resolution_px = resolution_px
        self._engine = TorchEngine(self._family, device=device)
        checkpoint = self._family.default_checkpoint
        self._decoders = {
            name: self._family.load_decoder(checkpoint, name).to(device)
            for name in self._family.decoders(checkpoint)
        }
        self._encode = encode
        offered = offered_rewards(Offer(self._family.name, rewards or {}))
        self._book = RewardBook(self._family.name, offered, device)
        self._published = 0

    def info(self) -> ServerInfo:
        """As a server of this engine would say it."""
        engine = self._engine.describe()
        return ServerInfo(
            server_version="in process",
            rollout_address="",
            family=engine.family,
            checkpoint=engine.checkpoint,
            runtime=engine.runtime,
            precision=engine.precision,
            compute_dtype=engine.compute_dtype,
            lora_targets=engine.lora_targets,
            max_rank=engine.max_rank,
            resolution_px=self._resolution_px,
            rewards=self._book.names,
            batch=BATCH,
            max_steps=1000,
            max_seeds=1 << 16,
            max_prompt_chars=1000,
            max_adapter_bytes=1 << 30,
            latest_version=self._published,
            scores_early=True,
            solvers=tuple(Solver),
            decoders=tuple(self._decoders),
        )

    def publish(
        self,
        files: AdapterFiles,
        told: Told = NOTHING_TOLD,  # noqa: ARG002
    ) -> PublishedAdapter:
        """Make an adapter resident."""
        adapter = parse_adapter(files)
        binding = self._engine.make_resident(adapter)
        self._published += 1
        return PublishedAdapter(
            "in-process", self._published, adapter.sha256, binding.bound, binding.targets
        )

    def explore(
        self, requests: Sequence[GroupRequest], adapter: PublishedAdapter
    ) -> Iterator[Group]:
        """All groups' candidates in full batches, whatever their prompts."""
        started = time.perf_counter()
        latents = self._draw(requests, adapter)
        prompts = [request.prompt for request in requests for _ in request.seeds]
        ((reward, decoder),) = {(request.reward, request.decoder) for request in requests}
        rewards = self.score(latents, prompts, reward.names, decoder=decoder).rewards
        position = 0
        for request in requests:
            rows = slice(position, position + len(request.seeds))
            position = rows.stop
            yield Group.rewarded(
                request,
                rewards[rows],
                latents[rows] if request.return_latents else None,
                time.perf_counter() - started,
            )

    @torch.inference_mode()
    def score(
        self,
        latents: torch.Tensor,
        prompts: Sequence[str],
        rewards: Sequence[str],
        *,
        return_images: bool = False,
        decoder: DecoderName = DecoderName.FULL,
    ) -> Scores:
        """Decode, then reward, as a server does."""
        request = ScoreRequest(latents, prompts, rewards, return_images, decoder)
        together = self._scored_together
        starts = range(0, len(request), together)
        each = [request.take(slice(start, start + together)) for start in starts]
        return Scores.concat([self._score(part) for part in each])

    def _score(self, request: ScoreRequest) -> Scores:
        pixels = self._decoders[request.decoder].decode(request.latents.to(self._device))
        conditioning = self.encode(request.prompts)
        columns = [
            self._book.get(name).score(pixels, request.prompts, conditioning)
            for name in request.rewards
        ]
        images = None
        if request.return_images:
            images = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return Scores.of(columns, len(request), images)

    def refused_prompts(self, prompts: Sequence[str], rewards: Sequence[str]) -> RefusedPrompts:  # noqa: ARG002
        """The judges take any."""
        return RefusedPrompts()

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The family's text embeddings."""
        return self._encode(prompts)

    @torch.inference_mode()
    def _draw(self, requests: Sequence[GroupRequest], adapter: PublishedAdapter) -> torch.Tensor:
        ((steps, score_after, solver),) = {
            (request.steps, request.score_after, request.solver) for request in requests
        }
        whole = self._family.sigmas(steps, self._resolution_px)
        sigmas = cut_after(whole, score_after or steps)
        seeds = [seed for request in requests for seed in request.seeds]
        prompts = [request.prompt for request in requests for _ in request.seeds]
        conditioning = self.encode(prompts).to(torch.bfloat16, self._device)
        shape = self._family.latent_shape(self._resolution_px)
        drawn = []
        for rows in np.array_split(np.arange(len(seeds)), -(-len(seeds) // self._batch)):
            velocity = partial(
                self._engine.velocity, conditioning=conditioning.take(rows), adapter=adapter.sha256
            )
            noise = initial_noise([seeds[row] for row in rows], shape).to(self._device)
            drawn.append(SAMPLERS[solver](velocity, noise, sigmas).cpu())
        return torch.cat(drawn)

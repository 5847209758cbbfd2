"""Decoding latents and rewarding the images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from heliostat_proto.rollout_pb2 import PromptRefusal, PromptReport, ScoreSpec
from heliostat_server.decoders import decoder_of
from heliostat_server.errors import RequestError
from heliostat_server.rewards.images import to_uint8
from heliostat_server.rewards.registry import check_rewards
from heliostat_server.rewards.reward import check_prompt
from heliostat_server.scoring.finite import check_latents, check_reward
from heliostat_server.scoring.metrics import ScoreMetrics
from heliostat_server.specs import check_count, check_lengths, parse_spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.decoders import DecoderName
    from heliostat_engines.families.family import Decoder
    from heliostat_server.rewards.registry import RewardBook
    from heliostat_server.rewards.reward import Reward
    from heliostat_server.scoring.prompts import PromptCache
    from heliostat_server.settings import LimitSettings


MAX_REFUSALS = 100
"""That a report names; all are counted."""


@dataclass(frozen=True)
class Scored:
    """rewards[B, R] float32, and images[B, H, W, 3] uint8 if asked for."""

    rewards: torch.Tensor
    images: torch.Tensor | None
    decode_s: float
    """To make images of latents."""


class Scorer:
    """Answers the Triton model `score`. For one thread."""

    def __init__(
        self,
        decoders: Mapping[DecoderName, Decoder],
        rewards: RewardBook,
        prompts: PromptCache,
        limits: LimitSettings,
        latent_shapes: Sequence[tuple[int, ...]],
        metrics: ScoreMetrics | None = None,
        device: str = "cpu",
    ) -> None:
        """`device` is the decoders' and the rewards': images are made there and stay there.

        The first of `decoders` decodes where a request names none.
        """
        self._decoders = decoders
        self._rewards = rewards
        self._prompts = prompts
        self._limits = limits
        self._latent_shapes = latent_shapes
        self._metrics = metrics or ScoreMetrics()
        self._device = device

    @torch.inference_mode()
    def score(self, spec: bytes, latents: torch.Tensor, seeds: Sequence[int] | None) -> Scored:
        """Decode latents[B, ...] and reward them as a ScoreSpec in JSON says.

        The seeds, if given, name candidates in errors.

        Raises:
            RequestError: the request is wrong.
            NonFiniteError: a latent or reward is NaN or infinite.
        """
        asked = self._parse(spec, latents)
        check_latents(latents, seeds)
        prompts = list(asked.prompts)
        if len(prompts) == 1:
            prompts *= len(latents)
        decoder = self._decoders[decoder_of(asked.decoder, tuple(self._decoders))]
        started = time.monotonic()
        images = decoder.decode(latents.to(self._device))
        decode_s = time.monotonic() - started
        self._metrics.decode_seconds.observe(decode_s)
        conditioning = self._prompts.encode(prompts) if asked.rewards else None
        rewards = self._reward(asked.rewards, images, prompts, conditioning, seeds)
        shown = to_uint8(images).cpu() if asked.return_images else None
        return Scored(rewards, shown, decode_s)

    def check(self, spec: bytes) -> PromptReport:
        """Which prompts of a ScoreSpec in JSON its rewards refuse. Raises RequestError."""
        asked = parse_spec(spec, ScoreSpec())
        if not asked.check_prompts:
            raise RequestError("LATENTS are missing: send them, or set check_prompts in SPEC")
        check_rewards(asked.rewards, self._rewards.names)
        check_count(len(asked.prompts), "prompts in one request", self._limits.max_seeds)
        rewards = [self._rewards.get(name) for name in asked.rewards]
        problems = (
            (place, self._problem(text, rewards)) for place, text in enumerate(asked.prompts)
        )
        refusals = [
            PromptRefusal(prompt=place, reason=reason) for place, reason in problems if reason
        ]
        return PromptReport(refusals=refusals[:MAX_REFUSALS], refused=len(refusals))

    def _problem(self, prompt: str, rewards: Sequence[Reward]) -> str | None:
        """Why images of a prompt would not be rewarded; None: they would."""
        try:
            self._check_prompts([prompt], 1)
            for reward in rewards:
                check_prompt(reward, prompt)
        except RequestError as error:
            return str(error)
        return None

    def _reward(
        self,
        names: Sequence[str],
        images: torch.Tensor,
        prompts: Sequence[str],
        conditioning: Conditioning | None,
        seeds: Sequence[int] | None,
    ) -> torch.Tensor:
        columns = []
        for name in names:
            assert conditioning is not None
            reward = self._rewards.get(name)
            for prompt in dict.fromkeys(prompts):
                check_prompt(reward, prompt)
            with self._metrics.reward_seconds.labels(name).time():
                column = reward.score(images, prompts, conditioning).float().cpu()
            check_reward(name, column, seeds)
            columns.append(column)
        return torch.stack(columns, 1) if columns else torch.zeros(len(images), 0)

    def _parse(self, spec: bytes, latents: torch.Tensor) -> ScoreSpec:
        message = parse_spec(spec, ScoreSpec())
        check_rewards(message.rewards, self._rewards.names)
        if not message.rewards and not message.return_images:
            raise RequestError("SPEC asks for no rewards and no images")
        self._check_latents_shape(latents)
        self._check_prompts(message.prompts, len(latents))
        return message

    def _check_latents_shape(self, latents: torch.Tensor) -> None:
        if tuple(latents.shape[1:]) not in self._latent_shapes or not len(latents):
            shapes = [f"[B, {', '.join(map(str, shape))}]" for shape in self._latent_shapes]
            raise RequestError(
                f"LATENTS has shape {list(latents.shape)}, this server's model takes "
                f"{' or '.join(shapes)}"
            )
        check_count(len(latents), "latents in one request", self._limits.max_seeds)

    def _check_prompts(self, prompts: Sequence[str], count: int) -> None:
        if len(prompts) not in {1, count}:
            raise RequestError(
                f"{len(prompts)} prompts for {count} latents: give one for all, or one for each"
            )
        check_lengths(prompts, self._limits.max_prompt_chars)

"""Drawing candidates: adapter, prompt and seeds in, latents and rewards out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from heliostat_engines.adapters import parse_adapter
from heliostat_engines.errors import HeliostatError
from heliostat_engines.sampling.euler import SAMPLERS, cut_after, guided
from heliostat_engines.sampling.noise import initial_noise
from heliostat_server.sampling.metrics import ExploreMetrics
from heliostat_server.sampling.sleeping import Sleeper
from heliostat_server.scoring.finite import check_latents, check_reward

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from heliostat_engines.adapters import AdapterFiles, Binding
    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.decoders import DecoderName
    from heliostat_engines.families.family import Family
    from heliostat_engines.machine.given_back import GivenBack
    from heliostat_engines.resolution import Resolution
    from heliostat_engines.runtimes.engine import Engine
    from heliostat_server.sampling.requests import Rollout
    from heliostat_server.scoring.prompts import PromptCache


class Adapters(Protocol):
    """Where adapters come from: the part of AdapterStore that drawing needs."""

    def resolve(self, experiment: str, version: int) -> str:
        """The sha256 of a version."""

    def fetch(self, sha256: str) -> AdapterFiles:
        """An adapter's files."""


class Rewarded(NamedTuple):
    """rewards[B, R] of a batch."""

    rewards: torch.Tensor
    decode_s: float = 0.0
    """Of the time that it took, to make images of latents."""


class Score(Protocol):
    """Decodes and rewards one batch."""

    def __call__(
        self,
        latents: torch.Tensor,
        prompt: str,
        rewards: Sequence[str],
        seeds: Sequence[int],
        decoder: DecoderName,
    ) -> Rewarded:
        """Of latents[B, ...], all of one prompt; the seeds name them in errors."""


@dataclass(frozen=True)
class Drawing:
    """A rollout with what all its batches share.

    adapter: sha256, None for the base model. conditioning, null: one row a candidate of a batch;
    null is there when the rollout is guided. sigmas[s + 1] of the s steps that are evaluated.
    """

    rollout: Rollout
    adapter: str | None
    conditioning: Conditioning
    null: Conditioning | None
    sigmas: torch.Tensor


class Explorer:
    """Draws batches on one engine.

    `reward` may run in another thread than the rest, which are for one thread.
    """

    def __init__(
        self,
        family: Family,
        engine: Engine,
        adapters: Adapters,
        prompts: PromptCache,
        score: Score,
        *,
        batch: int,
        resolution_px: Resolution,
        metrics: ExploreMetrics | None = None,
        sleeper: Sleeper | None = None,
    ) -> None:
        self._family = family
        self._engine = engine
        self._adapters = adapters
        self._prompts = prompts
        self._score = score
        self._batch = batch
        self._resolution_px = resolution_px
        self._metrics = metrics or ExploreMetrics()
        self._sleeper = sleeper or Sleeper("explore")
        self._last_adapter: str | None = None

    @property
    def is_resting(self) -> bool:
        """Whether the engine's memory is given back."""
        return self._sleeper.is_asleep

    def rest(self) -> GivenBack:
        """Give the engine's memory back until the next load or batch. Raises RequestError."""
        return self._sleeper.sleep()

    def load(self, sha256: str) -> Binding:
        """Fetch an adapter and make it resident. Raises AdapterError, NotFoundError."""
        adapter = parse_adapter(self._adapters.fetch(sha256))
        self._sleeper.wake()
        with self._metrics.refit_seconds.time():
            return self._engine.make_resident(adapter)

    def prepare(self, rollout: Rollout) -> Drawing:
        """Resolve the version and encode the prompt. Raises NotFoundError."""
        adapter = None
        if rollout.version:
            adapter = self._adapters.resolve(rollout.experiment, rollout.version)
        null = self._encode("") if rollout.guidance != 1.0 else None
        whole = self._family.sigmas(rollout.steps, self._size(rollout))
        sigmas = cut_after(whole, rollout.evaluated_steps)
        return Drawing(rollout, adapter, self._encode(rollout.prompt), null, sigmas)

    def turn_to(self, drawing: Drawing) -> None:
        """Have the engine awake and a drawing's adapter resident. Raises AdapterError, NotFoundError."""
        self._sleeper.wake()
        adapter = drawing.adapter
        if adapter is not None and not self._engine.is_resident(adapter):
            self.load(adapter)
        if adapter != self._last_adapter:
            self._metrics.adapter_switches.inc()
            self._last_adapter = adapter

    @torch.inference_mode()
    def denoise(
        self, drawing: Drawing, seeds: Sequence[int], on_step: Callable[[], None]
    ) -> torch.Tensor:
        """Clean latents[B, ...] float32 on the CPU, or their prediction after `score_after` steps.

        The engine was turned to the drawing. `on_step` may stop it by raising.

        Raises:
            NonFiniteError: a latent is NaN or infinite.
        """
        shape = self._family.latent_shape(self._size(drawing.rollout))
        noise = initial_noise(seeds, shape)
        sample = SAMPLERS[drawing.rollout.solver]
        latents = sample(self._velocity(drawing), noise, drawing.sigmas, on_step).cpu()
        with _named(drawing.rollout):
            check_latents(latents, seeds)
        return latents

    def reward(self, rollout: Rollout, seeds: Sequence[int], latents: torch.Tensor) -> Rewarded:
        """Of latents[B, ...].

        Raises:
            NonFiniteError: a reward is NaN or infinite.
        """
        if not rollout.rewards:
            return Rewarded(torch.zeros(len(seeds), 0))
        with _named(rollout):
            rewarded = self._score(latents, rollout.prompt, rollout.rewards, seeds, rollout.decoder)
            for column, name in enumerate(rollout.rewards):
                check_reward(name, rewarded.rewards[:, column], seeds)
        return rewarded

    def _size(self, rollout: Rollout) -> Resolution:
        return rollout.resolution_px or self._resolution_px

    def _encode(self, prompt: str) -> Conditioning:
        return self._prompts.encode([prompt]).repeat(self._batch)

    def _velocity(self, drawing: Drawing) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        velocity = partial(
            self._engine.velocity, conditioning=drawing.conditioning, adapter=drawing.adapter
        )
        if drawing.null is None:
            return velocity
        null = partial(self._engine.velocity, conditioning=drawing.null, adapter=drawing.adapter)
        return guided(velocity, null, drawing.rollout.guidance)


class _named:  # noqa: N801
    """Puts the experiment before what went wrong with its numbers."""

    def __init__(self, rollout: Rollout) -> None:
        self._rollout = rollout

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, HeliostatError):
            rollout = self._rollout
            raise type(error)(
                f"experiment {rollout.experiment!r}, version {rollout.version}: {error}"
            ) from error

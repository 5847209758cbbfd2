"""What `explore` is asked for, checked at the edge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat_engines.decoders import DecoderName
from heliostat_engines.resolution import pixels, resolution_of, written
from heliostat_engines.sampling.noise import SEED_LIMIT
from heliostat_engines.sampling.solvers import Solver
from heliostat_proto.rollout_pb2 import ExploreSpec, RolloutSpec
from heliostat_server.decoders import decoder_of
from heliostat_server.errors import RequestError
from heliostat_server.rewards.registry import check_rewards
from heliostat_server.specs import check_count, check_lengths, parse_spec
from heliostat_server.store.keys import check_experiment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.resolution import Resolution
    from heliostat_server.settings import LimitSettings


@dataclass(frozen=True)
class Rollout:
    """Draw and reward one candidate a seed. version 0 is the base model."""

    experiment: str
    version: int
    prompt: str
    steps: int
    guidance: float
    rewards: tuple[str, ...]
    return_latents: bool
    seeds: tuple[int, ...]
    score_after: int = 0
    """Of the steps, how many are evaluated; 0: all."""
    solver: Solver = Solver.EULER
    decoder: DecoderName = DecoderName.FULL
    """What decodes the latents that are rewarded."""
    resolution_px: Resolution | None = None
    """Size of the images; None: the server's own, of one that names no others."""
    relative_size: float = 1.0
    """Pixels of an image over those of the server's own."""

    @property
    def evaluated_steps(self) -> int:
        """Steps that the transformer is evaluated at."""
        return self.score_after or self.steps

    @property
    def nfes(self) -> int:
        """Evaluations of the transformer an image: one a step, two with guidance."""
        return self.evaluated_steps * (1 if self.guidance == 1.0 else 2)


@dataclass(frozen=True)
class Load:
    """Make a staged adapter resident."""

    sha256: str


@dataclass(frozen=True)
class Rest:
    """Give the memory of the weights back until the next request."""


def parse_explore(
    spec: bytes,
    seeds: Sequence[int],
    limits: LimitSettings,
    rewards: Sequence[str],
    decoders: Sequence[DecoderName],
) -> Rollout | Load | Rest:
    """Read an ExploreSpec in JSON and check it against the server's limits, rewards and decoders.

    Raises:
        RequestError: saying what is wrong and what to ask for instead.
    """
    message = parse_spec(spec, ExploreSpec())
    match message.WhichOneof("operation"):
        case "rollout":
            return _rollout(message.rollout, seeds, limits, rewards, decoders)
        case "load":
            return _load(message.load.sha256, seeds)
        case "rest":
            return Rest()
        case _:
            raise RequestError("SPEC asks for nothing: give it a rollout, a load or a rest")


def check_prompt(prompt: str, limits: LimitSettings) -> None:
    """Refuse empty and overlong prompts. Raises RequestError."""
    if not prompt.strip():
        raise RequestError("the prompt is empty")
    check_lengths([prompt], limits.max_prompt_chars)


def _load(sha256: str, seeds: Sequence[int]) -> Load:
    if len(seeds):
        raise RequestError("a load takes no seeds")
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise RequestError(f"{sha256!r} is no SHA-256 in hexadecimal")
    return Load(sha256)


def _rollout(
    spec: RolloutSpec,
    seeds: Sequence[int],
    limits: LimitSettings,
    rewards: Sequence[str],
    decoders: Sequence[DecoderName],
) -> Rollout:
    check_experiment(spec.experiment)
    check_prompt(spec.prompt, limits)
    check_rewards(spec.rewards, rewards)
    _check_outputs(spec, rewards)
    _check_seeds(seeds, limits)
    if spec.version < 0:
        raise RequestError(f"version {spec.version} is negative: 0 is the base model")
    if not 1 <= spec.steps <= limits.max_steps:
        raise RequestError(f"{spec.steps} steps: ask for 1 to {limits.max_steps}")
    if not 0 <= spec.score_after <= spec.steps:
        raise RequestError(
            f"score_after is {spec.score_after}: give 1 to {spec.steps}, the rollout's steps, or 0 "
            "for all of them"
        )
    size = _resolution(spec, limits)
    return Rollout(
        experiment=spec.experiment,
        version=spec.version,
        prompt=spec.prompt,
        steps=spec.steps,
        guidance=_guidance(spec.guidance),
        rewards=tuple(spec.rewards),
        return_latents=spec.return_latents,
        seeds=tuple(int(seed) for seed in seeds),
        score_after=spec.score_after,
        solver=_solver(spec.solver),
        decoder=decoder_of(spec.decoder, decoders),
        resolution_px=size,
        relative_size=pixels(size) / pixels(limits.resolutions_px[0]) if size else 1.0,
    )


def _resolution(spec: RolloutSpec, limits: LimitSettings) -> Resolution | None:
    allowed = limits.resolutions_px
    if not spec.width_px and not spec.height_px:
        return allowed[0] if allowed else None
    asked = resolution_of(spec.width_px, spec.height_px)
    if asked not in allowed:
        choices = " or ".join(map(written, allowed)) or "neither width_px nor height_px"
        raise RequestError(
            f"this server draws no images of {spec.width_px}x{spec.height_px} px: ask for {choices}, "
            "or start the server with limits.resolutions_px"
        )
    return asked


def _check_outputs(spec: RolloutSpec, rewards: Sequence[str]) -> None:
    if not spec.rewards and not spec.return_latents:
        raise RequestError(
            f"the rollout asks for no rewards and no latents: name rewards of {', '.join(rewards)}"
        )


def _guidance(guidance: float) -> float:
    if guidance == 0:
        return 1.0
    if not math.isfinite(guidance) or guidance < 1:
        raise RequestError(f"guidance is {guidance:g}: give 1 (none) or more")
    return float(guidance)


def _solver(name: str) -> Solver:
    try:
        return Solver(name or Solver.EULER)
    except ValueError:
        raise RequestError(f"solver is {name[:50]!r}: give {' or '.join(Solver)}") from None


def _check_seeds(seeds: Sequence[int], limits: LimitSettings) -> None:
    count, batch = len(seeds), limits.batch
    if count == 0:
        raise RequestError("the rollout has no seeds: send them as the input SEEDS")
    check_count(count, "seeds in one rollout", limits.max_seeds)
    if count % batch:
        below, above = count - count % batch, count - count % batch + batch
        choices = f"{below} or {above}" if below else f"{above}"
        raise RequestError(
            f"{count} seeds are no multiple of the server's batch {batch}: ask for {choices} "
            "candidates, or start the server with --batch"
        )
    if len(set(seeds)) != count:
        raise RequestError("a seed is given twice: candidates must differ")
    for seed in seeds:
        if not 0 <= seed < SEED_LIMIT:
            raise RequestError(f"seed {seed} is out of range: seeds lie in [0, {SEED_LIMIT})")

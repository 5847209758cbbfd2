"""The nouns that the trainer speaks in, in the order in which a training step meets them.

ServerInfo     what the rollout server is and allows.
ExploreSteps   in how many steps candidates are explored, and after how many scored.
GroupRequest   "draw these seeds for this prompt".
Candidate      one explored seed and its reward.
Group          all candidates of one prompt.
Selection      the candidates of a group that are worth training on.
Samples        a selection's clean latents and the rewards they are trained with.
UpdateReport   what one round of optimisation did.
StepMetrics    all of it in numbers: a line of metrics.jsonl.
Fidelity       how well exploration ranks, where a step was watched.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from heliostat_engines.decoders import DecoderName
from heliostat_engines.sampling.solvers import Solver
from heliostat_wire.info import (
    ServerInfo as ServerInfo,  # the wire's; a noun of the trainer's as well
)
from heliostat_wire.steps import Fidelity as Fidelity  # noqa: TC001 (the same)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from heliostat_engines.resolution import Resolution
    from heliostat_engines.sampling.stochastic import Trajectory
    from heliostat_trainer.rewards import RewardSum


@dataclass(frozen=True)
class PublishedAdapter:
    """An adapter that the server has made resident."""

    experiment: str
    version: int
    sha256: str
    bound_modules: int
    target_modules: int


@dataclass(frozen=True)
class ExploreSteps:
    """In how many denoising steps candidates are explored; as text "6", or "4 of 6"."""

    steps: int
    score_after: int | None = None
    """How many of them are evaluated, before the prediction of clean latents is scored; None: all."""

    @property
    def evaluated(self) -> int:
        """Steps that the transformer is evaluated at."""
        return self.score_after or self.steps

    @staticmethod
    def after(evaluations: int, steps: int) -> ExploreSteps:
        """So many evaluations of a schedule of `steps`."""
        return ExploreSteps(steps, evaluations if evaluations < steps else None)

    def __str__(self) -> str:
        return (
            f"{self.steps}" if self.score_after is None else f"{self.score_after} of {self.steps}"
        )


@dataclass(frozen=True)
class GroupRequest:
    """Draw `seeds` for `prompt`, with `steps` steps of the solver, and reward them."""

    row: int
    """Index of the prompt within the training step."""
    prompt: str
    seeds: tuple[int, ...]
    steps: int
    reward: RewardSum
    return_latents: bool = False
    score_after: int | None = None
    """How many of the steps are evaluated, before the prediction of clean latents is scored; None: all."""
    solver: Solver = Solver.EULER
    decoder: DecoderName = DecoderName.FULL
    """What decodes the latents that are scored."""
    resolution_px: Resolution | None = None
    """Size of the images; None: the server's own."""


@dataclass(frozen=True)
class Candidate:
    """One explored seed, and what it is selected by: its reward, or the sum of several."""

    seed: int
    reward: float


@dataclass(frozen=True)
class Group:
    """All candidates of one prompt, in the order of the request's seeds."""

    request: GroupRequest
    candidates: tuple[Candidate, ...]
    latents: torch.Tensor | None = None
    """latents[N, ...] in float32 where the candidates themselves are to be trained on."""
    elapsed_s: float = 0.0
    """From the step's first request to this group's last answer."""
    trajectory: Trajectory | None = None
    """How they came about, where the objective needs it."""
    parts: NDArray[np.float64] | None = None
    """parts[N, R]: each of the request's rewards by itself."""

    @staticmethod
    def rewarded(
        request: GroupRequest,
        parts: NDArray[np.float64],
        latents: torch.Tensor | None = None,
        elapsed_s: float = 0.0,
        trajectory: Trajectory | None = None,
    ) -> Group:
        """The group whose candidates have the rewards parts[N, R], combined as the request says."""
        sums = request.reward.combine(parts).tolist()
        candidates = tuple(Candidate(*pair) for pair in zip(request.seeds, sums, strict=True))
        return Group(request, candidates, latents, elapsed_s, trajectory, parts)

    @property
    def rewards(self) -> NDArray[np.float64]:
        """rewards[N]."""
        return np.array([candidate.reward for candidate in self.candidates])


@dataclass(frozen=True)
class Selection:
    """What is kept of a group: `kept` are rows of its candidates, lowest reward first."""

    group: Group
    kept: tuple[int, ...]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The kept candidates."""
        return tuple(self.group.candidates[row] for row in self.kept)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the kept candidates."""
        return tuple(candidate.seed for candidate in self.candidates)

    @property
    def spread(self) -> float:
        """Standard deviation of the kept candidates' rewards."""
        return float(np.std([candidate.reward for candidate in self.candidates]))

    def redrawn_in(self, steps: int) -> GroupRequest:
        """The request that draws the kept seeds again, with other steps and all of them, in full."""
        return replace(
            self.group.request,
            seeds=self.seeds,
            steps=steps,
            score_after=None,
            decoder=DecoderName.FULL,
        )

    def as_samples(self) -> Samples:
        """The kept candidates themselves, as they were explored; the group has its latents."""
        request, latents = self.group.request, self.group.latents
        assert latents is not None
        kept, trajectory = list(self.kept), self.group.trajectory
        return Samples(
            request.row,
            request.prompt,
            self.seeds,
            latents[kept],
            self.group.rewards[kept],
            None if trajectory is None else trajectory.take(kept),
            None if self.group.parts is None else self.group.parts[kept],
        )


@dataclass(frozen=True)
class Samples:
    """One prompt's clean latents[K, ...] in float32 and rewards[K], row for row with `seeds`."""

    row: int
    """Index of the prompt within the training step."""
    prompt: str
    seeds: tuple[int, ...]
    latents: torch.Tensor
    rewards: NDArray[np.float64]
    trajectory: Trajectory | None = None
    """How the latents came about, where the objective needs it."""
    parts: NDArray[np.float64] | None = None
    """parts[K, R]: each reward by itself; `rewards` is what they come to."""
    advantages: NDArray[np.float64] | None = None
    """advantages[K] that they had in their own step, where they are replayed; None: they are taken
    among all that are trained on and have none."""

    def __len__(self) -> int:
        return len(self.seeds)

    @staticmethod
    def of(
        requests: Sequence[GroupRequest],
        latents: torch.Tensor,
        parts: NDArray[np.float64],
        trajectory: Trajectory | None,
    ) -> list[Samples]:
        """Each request's samples, of what was drawn and rewarded for all of them.

        latents[B, ...], parts[B, R] and `trajectory` have a row for each of the requests' B seeds.
        """
        sizes = [len(request.seeds) for request in requests]
        paths = [None] * len(sizes) if trajectory is None else trajectory.split(sizes)
        each = zip(
            requests,
            latents.split(sizes),  # type: ignore[no-untyped-call]
            np.split(parts, np.cumsum(sizes)[:-1]),
            paths,
            strict=True,
        )
        return [
            Samples(
                request.row,
                request.prompt,
                request.seeds,
                drawn,
                request.reward.combine(own),
                path,
                own,
            )
            for request, drawn, own, path in each
        ]


@dataclass(frozen=True)
class UpdateReport:
    """What one training step's optimisation did, averaged over its rows, replayed ones too."""

    loss: float
    kl: float | None
    """Mean squared velocity difference to the base model; None where the KL weight is 0."""
    drift: float | None
    """Mean squared velocity difference between the trained and the old policy; None where the
    objective does not ask the old one."""
    ratio_error: float | None
    """Mean |rho - 1| of the objectives that have a probability ratio."""
    clip_fraction: float | None
    """Share of rows whose ratio left its bounds."""
    velocity_norm: float | None
    """Mean norm of the trained velocity over the base model's; None where that is not evaluated."""
    grad_norm: float
    """Before clipping."""
    zero_contrast_groups: int
    """Groups of the step's own whose rewards are all equal: they teach nothing."""


@dataclass(frozen=True)
class StepMetrics:
    """One training step in numbers; a line of metrics.jsonl."""

    step: int
    seconds: Mapping[str, float]
    """Wall time of each phase that the trainer spent in it."""
    adapter_version: int
    """What the candidates were explored with; 0 where the server explored nothing."""
    version_lag: int
    """By how many steps the policy explored with was older than the one trained on."""
    bound_modules: int
    explored: int
    """Candidates."""
    explore_images_per_s: float | None
    """From the first request to the last answer; None where the trainer drew them."""
    server_busy: float
    """Share of the step's wall time in which the server explored or scored for this run."""
    trainer_busy: float
    """Share of the step's wall time in which the trainer did not wait for the server."""
    proxy_reward_mean: float
    """Of all candidates."""
    proxy_reward_std: float
    kept_proxy_spread: float
    """Mean over groups of the kept candidates' standard deviation in the proxy reward."""
    reward_mean: float
    """Of the step's own samples trained on, as are the next three."""
    reward_std: float
    kept_spread: float
    """Mean over groups of the samples' standard deviation."""
    zero_contrast_groups: int
    loss: float
    kl: float | None
    policy_drift: float | None
    grad_norm: float
    lr: float
    old_decay: float
    ema_decay: float
    elapsed_s: float
    """Of training so far, evaluations left out, resumed parts included."""
    ratio_error: float | None = None
    clip_fraction: float | None = None
    velocity_norm: float | None = None
    """Of the trained velocity, over the base model's: above 1 it has grown."""
    latent_diversity: float | None = None
    """Mean distance between the latents of a prompt's samples trained on, over prompts."""
    explore_steps: int | None = None
    """Denoising steps of the candidates."""
    score_after: int | None = None
    """How many of them were evaluated before the candidates were scored; None: all."""
    prompts: int | None = None
    keep_pairs: int | None = None
    tuned: str | None = None
    """What was decided after the step for later ones, and why (recipe.tune)."""
    fidelity: Fidelity | None = None
    """How well their ranking is that of their BF16 redraws, by a policy `version_lag` steps newer;
    None where the step was not watched."""
    skipped_groups: int = 0
    """Groups too flat to be trained on (prompts.min_spread)."""
    resting_prompts: int = 0
    """Prompts that are drawn less often because they were skipped repeatedly."""
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Mean of each reward by itself, over the samples trained on."""
    proxy_rewards: Mapping[str, float] = field(default_factory=dict)
    """The same over all candidates."""
    replayed: int = 0
    """Samples of earlier steps that were trained on again (recipe.replay). Rewards and groups are of
    the step's own alone; loss, gradient and velocities of both."""


def has_contrast(rewards: NDArray[np.float64]) -> bool:
    """Whether the samples of a group differ in reward at all."""
    return bool(rewards.max() > rewards.min())


def in_prompt_order(groups: Iterable[Group]) -> list[Group]:
    """A step's groups as their prompts follow one another, however they came back."""
    return sorted(groups, key=lambda group: group.request.row)

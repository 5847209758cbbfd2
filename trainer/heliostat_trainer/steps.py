"""What a training step did: in numbers, and in what the run knows after it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from heliostat_trainer.evaluation.statistics import diversity
from heliostat_trainer.exploring.ahead import explored_after
from heliostat_trainer.learning.replay import remembered
from heliostat_trainer.prompts.curriculum import flats, resting, sightings, spreads
from heliostat_trainer.types import ExploreSteps, StepMetrics
from heliostat_wire.steps import Phase, Shape, StepReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from heliostat_trainer.clock import StepTimes
    from heliostat_trainer.exploring.watch import Watched
    from heliostat_trainer.folder.checkpoint import RunState
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.types import PublishedAdapter, Samples, Selection, UpdateReport
    from heliostat_wire.steps import Decision


@dataclass(frozen=True)
class StepResult:
    """What a step did."""

    step: int
    selections: Sequence[Selection]
    samples: Sequence[Samples]
    replayed: Sequence[Samples]
    report: UpdateReport
    watched: Watched | None
    adapter: PublishedAdapter | None
    """What the server explored it with; None: the trainer drew the candidates."""

    def state_after(
        self, config: TrainConfig, before: RunState, raised_at: tuple[int, ...]
    ) -> RunState:
        """What the run knows after it, but for the times and what is decided because of it."""
        until = explored_after(self.step + 1, config.recipe.depth)
        groups = [chosen.group for chosen in self.selections]
        ranks = () if self.watched is None else self.watched.ranks
        return replace(
            before,
            step=self.step,
            raised_at=raised_at,
            sightings=sightings(config, before.sightings, groups, self.step),
            spreads=spreads(config, before.spreads, groups, self.step, until),
            ranks=(*before.ranks, *ranks),
            replay=remembered(config, before.replay, self.step, self.samples),
        )

    def metrics(self, config: TrainConfig, after: RunState, times: StepTimes) -> StepMetrics:
        """Its line of metrics.jsonl; `after` is the state after it."""
        # In prompt order: sums depend on the order in their last bits.
        selections = sorted(self.selections, key=lambda chosen: chosen.group.request.row)
        samples = sorted(self.samples, key=lambda group: group.row)
        rows = {group.row for group in samples}
        trained_on = [chosen for chosen in selections if chosen.group.request.row in rows]
        proxy = np.concatenate([chosen.group.rewards for chosen in selections])
        rewards = np.concatenate([group.rewards for group in samples])
        explore_s = max(selection.group.elapsed_s for selection in selections)
        adapter, request = self.adapter, selections[0].group.request
        lag = self.step - 1 - explored_after(self.step, config.recipe.depth)
        return StepMetrics(
            step=self.step,
            seconds=times.seconds,
            adapter_version=adapter.version if adapter else 0,
            version_lag=lag if adapter else 0,
            bound_modules=adapter.bound_modules if adapter else 0,
            explored=len(proxy),
            explore_images_per_s=len(proxy) / explore_s if explore_s else None,
            server_busy=times.server_busy,
            trainer_busy=times.trainer_busy,
            proxy_reward_mean=float(proxy.mean()),
            proxy_reward_std=float(proxy.std()),
            kept_proxy_spread=float(np.mean([chosen.spread for chosen in trained_on])),
            reward_mean=float(rewards.mean()),
            reward_std=float(rewards.std()),
            kept_spread=float(np.mean([group.rewards.std() for group in samples])),
            zero_contrast_groups=self.report.zero_contrast_groups,
            loss=self.report.loss,
            kl=self.report.kl,
            policy_drift=self.report.drift,
            ratio_error=self.report.ratio_error,
            clip_fraction=self.report.clip_fraction,
            velocity_norm=self.report.velocity_norm,
            grad_norm=self.report.grad_norm,
            lr=config.optimiser.lr_at(self.step, config.lr_steps),
            old_decay=config.old_policy.decay(self.step),
            ema_decay=config.ema.decay_at(self.step),
            elapsed_s=times.elapsed_s,
            latent_diversity=float(np.mean([diversity(group.latents) for group in samples])),
            explore_steps=request.steps,
            score_after=request.score_after,
            prompts=len(selections),
            keep_pairs=len(selections[0].kept) // 2,
            fidelity=None if self.watched is None else self.watched.fidelity,
            skipped_groups=len(selections) - len(samples),
            resting_prompts=resting(config, flats(after.sightings, self.step)),
            rewards=_means(config.reward.trained, [group.parts for group in samples]),
            proxy_rewards=_means(
                config.reward.trained, [chosen.group.parts for chosen in selections]
            ),
            replayed=sum(len(group) for group in self.replayed),
        )


def report_of(metrics: StepMetrics, decision: Decision | None) -> StepReport:
    """What the server is told of a step; `decision` was made after it."""
    assert metrics.prompts is not None
    assert metrics.keep_pairs is not None
    assert metrics.explore_steps is not None
    explored = ExploreSteps(metrics.explore_steps, metrics.score_after)
    return StepReport(
        step=metrics.step,
        version=metrics.adapter_version,
        seconds={phase: metrics.seconds[phase] for phase in Phase},
        shape=Shape(
            metrics.prompts,
            metrics.explored // metrics.prompts,
            metrics.keep_pairs,
            explored.evaluated,
        ),
        explore_steps=explored.steps,
        kept_spread=metrics.kept_spread,
        fidelity=metrics.fidelity,
        decision=decision,
    )


def _means(names: Sequence[str], parts: Sequence[NDArray[np.float64] | None]) -> dict[str, float]:
    """The mean of each reward over all groups' parts[N, R]."""
    rows = np.concatenate([part for part in parts if part is not None])
    return dict(zip(names, rows.mean(axis=0).tolist(), strict=True))

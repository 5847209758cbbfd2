"""The training loop: explore, select, redraw, train, publish."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from heliostat_trainer.clock import Phase, RunClock
from heliostat_trainer.evaluation.milestones import Milestones
from heliostat_trainer.exploring.ahead import ExploreAhead, Explorers
from heliostat_trainer.exploring.requests import Requests
from heliostat_trainer.exploring.selection import least_flat, not_flat, select
from heliostat_trainer.exploring.watch import Watcher, verdict_on
from heliostat_trainer.forecast.outlook import Outlook
from heliostat_trainer.learning.optimiser import learned_tensors
from heliostat_trainer.learning.replay import replayed
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.policy.redrawing import Redrawing
from heliostat_trainer.randomness import Purpose, stream
from heliostat_trainer.steps import StepResult, report_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from heliostat_engines.conditioning import Conditioning
    from heliostat_trainer.display.progress import Progress
    from heliostat_trainer.display.trackers import Trackers
    from heliostat_trainer.evaluation.evaluate import Evaluator
    from heliostat_trainer.evaluation.results import Evaluation
    from heliostat_trainer.exploring.watch import Verdict
    from heliostat_trainer.folder.checkpoint import Checkpoints, RunState
    from heliostat_trainer.folder.metrics import MetricsLog
    from heliostat_trainer.learning.learner import Learner
    from heliostat_trainer.policy.artist import Artist
    from heliostat_trainer.policy.policy import Policy
    from heliostat_trainer.prompts.sets import PromptSets
    from heliostat_trainer.ranks.interrupts import Interrupts
    from heliostat_trainer.rollouts.service import RolloutService
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.tuner import Tuner
    from heliostat_trainer.types import (
        ExploreSteps,
        Group,
        PublishedAdapter,
        Samples,
        Selection,
        StepMetrics,
        UpdateReport,
    )
    from heliostat_wire.steps import StepReport


@dataclass(frozen=True)
class Parts:
    """What a trainer works with."""

    server: RolloutService
    policy: Policy
    artist: Artist
    learner: Learner
    evaluator: Evaluator
    checkpoints: Checkpoints
    metrics: MetricsLog
    progress: Progress
    trackers: Trackers
    tuner: Tuner
    interrupts: Interrupts
    takes_turns: bool = False
    """Whether server and trainer share a card (`rollouts.turns`)."""


class Trainer:
    """Runs training steps from a state on; what it is at is `state`, at a step's boundary."""

    def __init__(
        self, config: TrainConfig, prompts: PromptSets, parts: Parts, state: RunState
    ) -> None:
        self._config = config
        self._recipe = config.recipe
        self.parts = parts
        self.state = state
        self._clock = clock = RunClock(parts.progress.phase, state.elapsed_s)
        self._requests = Requests(config, prompts)
        self._explorers = Explorers(parts.server, config.recipe.depth, clock)
        self._ahead = ExploreAhead(parts.server, clock.server)
        self._redrawing = Redrawing(
            config, parts.artist, parts.server, clock, takes_turns=parts.takes_turns
        )
        self._watcher = Watcher(config, self._redrawing, self._ahead, self._explorers, clock)
        self._milestones = Milestones(
            config, parts.evaluator, clock, parts.progress.say, self._show_evaluation
        )
        self._report: StepReport | None = None
        """Of the latest step of this process."""
        self._begun = state.step
        self._first_step = state.step + 1
        self._saved = state if parts.checkpoints.latest() == state.step else None

    def train(self) -> None:
        """Step until the steps or the minutes are used up, evaluating and saving on the way.

        The last step is saved, and left to `conclude` to evaluate.

        Raises:
            HeliostatError: in one sentence; `save` then keeps the last complete step.
        """
        try:
            self._explorers.restore(self.state)
            self._publish()
            self._evaluated(self._milestones.base(self.state))
            while not self.finished:
                if self._has_decided:
                    self.save()
                self._evaluated(self._milestones.if_due(self.state))
                if self.state.step % self._config.checkpoint.every == 0:
                    self.save()
                self.step()
            self.save()
        finally:
            self._ahead.close()

    def conclude(self) -> None:
        """Evaluate the last step at every guidance scale. Raises as `train`."""
        guidances = self._config.evaluation.guidances
        self._evaluated(self._milestones.trained(self.state, guidances))
        self.save()

    @property
    def saved_step(self) -> int:
        """The newest checkpoint's step; 0 where there is none."""
        return self.parts.checkpoints.latest() or 0

    @property
    def finished(self) -> bool:
        """Whether the steps or the minutes are used up."""
        minutes = self._config.run.minutes
        late = minutes is not None and self.state.elapsed_s >= 60 * minutes
        return late or self.state.step >= self._config.run.steps

    @property
    def outlook(self) -> Outlook:
        """How far the run has come."""
        run = self._config.run
        return Outlook(self.state.step, run.steps, self.state.elapsed_s, run.minutes)

    @property
    def explorer(self) -> PublishedAdapter:
        """The policy last published."""
        return self._explorers.newest

    @property
    def explore_steps(self) -> ExploreSteps:
        """Of the latest exploration."""
        return self._requests.explored_in(self.state, self.state.step)

    def step(self) -> None:
        """One training step."""
        number = self.state.step + 1
        self._clock.begin_step()
        self._explore_ahead(number)
        shape = self._requests.shape(self.state, number)
        prompts = self._requests.prompts(self.state, number)
        again = replayed(self.state.replay, len(prompts))
        conditioning = self._encode((*prompts, *(group.prompt for group in again)))
        selections: list[Selection] = []
        explored = self._explore(conditioning, number)
        samples = self._redraw(self._trained_on(explored, number, selections), conditioning)
        samples = samples or self._redraw([[least_flat(selections)]], conditioning)
        groups = [chosen.group for chosen in selections]
        watched = self._watcher.watch(groups, conditioning, number, shape)
        self.parts.tuner.prepare(self.state, number)
        report = self._optimise(samples, again, conditioning, number)
        adapter = self._explorers.of(number) if self._recipe.explores else None
        self._complete(StepResult(number, selections, samples, again, report, watched, adapter))
        self._publish()

    def save(self) -> None:
        """Write a checkpoint of the last complete step, unless there is one or none can be."""
        parts = self.parts
        step = self.state.step
        if parts.learner.step != step or self._saved == self.state:
            return
        with self._clock.phase(Phase.CHECKPOINT), parts.interrupts.shielded():
            state = replace(self.state, explorers=self._explorers.needed_after(step))
            tensors = learned_tensors(parts.policy, parts.learner.optimiser)
            parts.checkpoints.save(state, tensors)
            self._saved = self.state

    @property
    def _has_decided(self) -> bool:
        """Whether the latest step led to a decision, which nothing but its checkpoint can repeat."""
        decisions = self.state.decisions
        return bool(decisions) and decisions[-1].step == self.state.step + 1 + self._recipe.depth

    def _encode(self, prompts: Sequence[str]) -> Conditioning:
        with self._clock.waiting(Phase.EXPLORE):
            return self.parts.artist.prepare(self.parts.server.encode(prompts))

    def _explore_ahead(self, step: int) -> None:
        """Have the server explore this step and the `depth` next ones, unless it does already."""
        if not self._recipe.explores:
            return
        last = min(step + self._recipe.depth, self._config.run.steps)
        while self._begun < last:
            self._begun += 1
            requests = self._requests.groups(self.state, self._begun)
            self._ahead.begin(self._begun, requests, self._explorers.of(self._begun))

    def _explore(self, conditioning: Conditioning, step: int) -> Iterator[Group]:
        """Each prompt's group of candidates as it becomes complete, in any order."""
        if self._recipe.explores:
            groups = self._ahead.groups(step)
        else:
            requests = self._requests.groups(self.state, step)
            groups = self._redrawing.pools(requests, conditioning)
        shape = self._requests.shape(self.state, step)
        done, total = 0, shape.candidates * shape.prompts
        while (group := self._next(groups)) is not None:
            done += len(group.candidates)
            self.parts.progress.explored(done, total)
            yield group

    def _next(self, groups: Iterator[Group]) -> Group | None:
        with self._clock.phase(Phase.EXPLORE):
            return next(groups, None)

    def _select(self, group: Group, step: int) -> Selection:
        random = stream(self._config.run.seed, Purpose.SELECTION, step, group.request.row)
        kept = self._requests.shape(self.state, step).kept
        return select(group, self._recipe.selection, kept, random)

    def _trained_on(
        self, groups: Iterator[Group], step: int, selections: list[Selection]
    ) -> Iterator[Sequence[Selection]]:
        """What is kept of prompts that are redrawn together; `selections` gets that of skipped groups, too."""
        shape = self._requests.shape(self.state, step)
        for together in self._redrawing.drawn_together(groups, shape):
            chosen = [self._select(group, step) for group in together]
            selections += chosen
            yield not_flat(self._config, chosen)

    def _redraw(
        self, shares: Iterable[Sequence[Selection]], conditioning: Conditioning
    ) -> list[Samples]:
        """Draw the kept seeds again, unless the recipe trains on the candidates themselves."""
        if not self._recipe.redraws:
            return [chosen.as_samples() for share in shares for chosen in share]
        steps = self._recipe.steps
        requests = ([chosen.redrawn_in(steps) for chosen in share] for share in shares)
        redrawn = self._redrawing.redraw_each(requests, conditioning)
        return [samples for share in redrawn for samples in share]

    def _optimise(
        self,
        samples: Sequence[Samples],
        again: Sequence[Samples],
        conditioning: Conditioning,
        step: int,
    ) -> UpdateReport:
        with self._clock.phase(Phase.OPTIMISE):
            return self.parts.learner.update(samples, conditioning, step, again)

    def _publish(self) -> None:
        """Give the server the old policy, where it is the server that explores."""
        if not self._recipe.explores:
            return
        policy = self.parts.policy
        files = policy.weights[PolicyName.OLD].pack(policy.alpha)
        self._explorers.publish(files, self.state, self._report)

    def _complete(self, result: StepResult) -> None:
        """Record the step: from here on it is the state that a checkpoint would hold."""
        config, parts, before = self._config, self.parts, self.state
        times = self._clock.lap()
        verdict = verdict_on(config, before.raised_at, result.step, result.watched)
        raised_at = before.raised_at if verdict is None else verdict.raised_at
        state = result.state_after(config, before, raised_at)
        metrics = result.metrics(config, state, times)
        decision = parts.tuner.decide(state, metrics)
        if decision is not None:
            metrics = replace(metrics, tuned=decision.sentence)
            state = replace(state, decisions=(*state.decisions, decision))
        self._report = report_of(metrics, decision)
        with parts.interrupts.shielded():
            parts.metrics.append(metrics)
            self.state = replace(
                state, elapsed_s=times.elapsed_s, metrics_bytes=parts.metrics.position
            )
        self._show_step(metrics, verdict)

    def _show_step(self, metrics: StepMetrics, verdict: Verdict | None) -> None:
        parts = self.parts
        parts.progress.step(metrics, self.outlook)
        if self._config.run.minutes is not None and metrics.step == self._first_step:
            parts.progress.say(self.outlook.promise)
        parts.trackers.step(metrics)
        if verdict is not None and verdict.too_low:
            parts.progress.say(verdict.warning)
        if metrics.tuned is not None:
            parts.progress.say(f"step {metrics.step}: {metrics.tuned}")

    def _show_evaluation(self, evaluation: Evaluation) -> None:
        self.parts.progress.evaluated(evaluation)
        self.parts.trackers.evaluated(evaluation, self.parts.evaluator.path(evaluation.step))

    def _evaluated(self, state: RunState) -> None:
        """Keep a state whose best step is another one."""
        if state != self.state:
            self.state = state
            self.save()

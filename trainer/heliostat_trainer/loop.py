"""The training loop: explore, select, regenerate, optimise, publish."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from heliostat_engines.decoders import DecoderName
from heliostat_trainer.clock import Meter, Phase, PhaseClock
from heliostat_trainer.evaluation.guards import alarms
from heliostat_trainer.evaluation.results import mean_gain
from heliostat_trainer.evaluation.statistics import diversity
from heliostat_trainer.exploring.ahead import ExploreAhead
from heliostat_trainer.exploring.selection import select
from heliostat_trainer.exploring.watch import (
    Verdict,
    explore_steps,
    fidelity_of,
    ranks,
    watched_rows,
)
from heliostat_trainer.folder.checkpoint import RunState, improved
from heliostat_trainer.forecast.outlook import Outlook
from heliostat_trainer.learning.replay import remembered, replayed
from heliostat_trainer.learning.tensors import learned_tensors
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.prompts.curriculum import (
    contrasted,
    draw_prompts,
    flats,
    known_spreads,
    most_contrasted,
    resting,
    sightings,
    spreads,
)
from heliostat_trainer.randomness import Purpose, candidate_seeds, stream
from heliostat_trainer.tuning import in_force
from heliostat_trainer.types import (
    ExploreSteps,
    Group,
    GroupRequest,
    Samples,
    Selection,
    StepMetrics,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from heliostat_engines.adapters import AdapterFiles
    from heliostat_engines.conditioning import Conditioning
    from heliostat_trainer.display.progress import Progress
    from heliostat_trainer.display.trackers import Trackers
    from heliostat_trainer.evaluation.evaluate import Evaluator
    from heliostat_trainer.evaluation.results import Evaluation
    from heliostat_trainer.folder.checkpoint import Checkpoints
    from heliostat_trainer.folder.metrics import MetricsLog
    from heliostat_trainer.learning.learner import Learner
    from heliostat_trainer.policy.artist import Artist
    from heliostat_trainer.policy.policy import Policy
    from heliostat_trainer.ranks.interrupts import Interrupts
    from heliostat_trainer.rollouts.service import RolloutService
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.tuner import Tuner
    from heliostat_trainer.tuning import Decision, Shape
    from heliostat_trainer.types import Fidelity, PublishedAdapter, UpdateReport


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


@dataclass(frozen=True)
class Explorer:
    """An old policy as the server has it."""

    files: AdapterFiles
    adapter: PublishedAdapter


def group_requests(
    config: TrainConfig,
    prompts: Sequence[str],
    step: int,
    candidates: int,
    explored_in: ExploreSteps,
) -> list[GroupRequest]:
    """A request for each prompt's group of candidates."""
    recipe = config.recipe
    return [
        GroupRequest(
            row=row,
            prompt=prompt,
            seeds=candidate_seeds(config.run.seed, Purpose.CANDIDATES, candidates, step, row),
            steps=explored_in.steps,
            reward=config.reward.sum,
            return_latents=not recipe.redraws,
            score_after=explored_in.score_after,
            solver=recipe.solver,
            decoder=recipe.pool_decoder,
        )
        for row, prompt in enumerate(prompts)
    ]


class Trainer:
    """Runs training steps from a state on; what it is at is `state`, at a step's boundary."""

    def __init__(
        self, config: TrainConfig, prompts: Sequence[str], parts: Parts, state: RunState
    ) -> None:
        self._config = config
        self._recipe = config.recipe
        self._reward = config.reward.sum
        self._prompts = tuple(prompts)
        self.parts = parts
        self._clock = PhaseClock(parts.progress.phase)
        self._server_at_work = Meter()
        self._ahead = ExploreAhead(parts.server, self._server_at_work)
        self._begun = state.step
        self._first_step = state.step + 1
        self._explorers: dict[int, Explorer] = {}
        self._began = time.monotonic() - state.elapsed_s
        self.state = state
        self._saved = state if parts.checkpoints.latest() == state.step else None

    def train(self) -> None:
        """Step until the steps or the minutes are used up, evaluating and saving on the way.

        The last step is saved, and left to `conclude` to evaluate.

        Raises:
            HeliostatError: in one sentence; `save` then keeps the last complete step.
        """
        try:
            self._publish_restored()
            self._publish()
            self._evaluate_base()
            while not self.finished:
                if self._has_decided:
                    self.save()
                self._evaluate_if_due()
                if self.state.step % self._config.checkpoint.every == 0:
                    self.save()
                self.step()
            self.save()
        finally:
            self._ahead.close()

    def conclude(self) -> None:
        """Evaluate the last step at every guidance scale. Raises as `train`."""
        self._evaluate_trained(self._config.evaluation.guidances)
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
    def _has_decided(self) -> bool:
        """Whether the latest step led to a decision, which nothing but its checkpoint can repeat."""
        decisions = self.state.decisions
        return bool(decisions) and decisions[-1].step == self.state.step + 1 + self._recipe.depth

    @property
    def outlook(self) -> Outlook:
        """How far the run has come."""
        run = self._config.run
        return Outlook(self.state.step, run.steps, self.state.elapsed_s, run.minutes)

    def step(self) -> None:
        """One training step."""
        number = self.state.step + 1
        started = time.perf_counter()
        self._server_at_work.lap()
        self._explore_ahead(number)
        prompts = self._step_prompts(number)
        again = replayed(self.state.replay, len(prompts))
        conditioning = self._encode((*prompts, *(group.prompt for group in again)))
        selections: list[Selection] = []
        samples: list[Samples] = []
        explored = self._explore(conditioning, number)
        for groups in self._drawn_together(explored, self._shape(number)):
            chosen = [self._select(group, number) for group in groups]
            selections += chosen
            samples += self._regenerate(contrasted(self._config, chosen), conditioning)
        samples = samples or self._regenerate([most_contrasted(selections)], conditioning)
        watched = self._watch([chosen.group for chosen in selections], conditioning, number)
        self.parts.tuner.prepare(self.state, number)
        report = self._optimise(samples, again, conditioning, number)
        result = _StepResult(number, selections, samples, again, report, watched)
        self._complete(result, started)
        self._publish()

    def save(self) -> None:
        """Write a checkpoint of the last complete step, unless there is one or none can be."""
        parts = self.parts
        step = self.state.step
        if parts.learner.step != step or self._saved == self.state:
            return
        with self._clock.phase(Phase.CHECKPOINT), parts.interrupts.shielded():
            state = replace(self.state, explorers=self._needed_explorers())
            tensors = learned_tensors(parts.policy, parts.learner.optimiser)
            parts.checkpoints.save(state, tensors)
            self._saved = self.state

    @property
    def explorer(self) -> PublishedAdapter:
        """The policy last published."""
        return self._explorers[max(self._explorers)].adapter

    @property
    def explore_steps(self) -> ExploreSteps:
        """Of the latest exploration."""
        return self._explore_steps(self.state.step)

    def _explore_steps(self, step: int) -> ExploreSteps:
        if self._recipe.tune:
            return ExploreSteps.after(self._shape(step).score_after, self._recipe.explore_steps)
        return explore_steps(self._recipe, self.state.raised_at, step)

    def _decided(self, step: int) -> Decision:
        return in_force(self._config, self.state.decisions, step)

    def _shape(self, step: int) -> Shape:
        return self._decided(step).shape

    def _step_prompts(self, step: int) -> tuple[str, ...]:
        until, decision = self._explorer_of(step), self._decided(step)
        counts = flats(self.state.sightings, until)
        known = known_spreads(self.state.spreads, until)
        return draw_prompts(self._config, self._prompts, counts, step, decision, known)

    def _explore_ahead(self, step: int) -> None:
        """Have the server explore this step and the `depth` next ones, unless it does already."""
        if not self._recipe.explores:
            return
        last = min(step + self._recipe.depth, self._config.run.steps)
        while self._begun < last:
            self._begun += 1
            explorer = self._explorers[self._explorer_of(self._begun)]
            self._ahead.begin(self._begun, self._requests(self._begun), explorer.adapter)

    def _explorer_of(self, step: int) -> int:
        """The step after which the policy was published that explores `step`.

        The newest when exploring begins, `depth` steps ahead: it follows from the step alone.
        """
        return max(0, step - 1 - self._recipe.depth)

    def _requests(self, step: int) -> list[GroupRequest]:
        candidates, explored_in = self._shape(step).candidates, self._explore_steps(step)
        prompts = self._step_prompts(step)
        return group_requests(self._config, prompts, step, candidates, explored_in)

    def _explore(self, conditioning: Conditioning, step: int) -> Iterator[Group]:
        """Each prompt's group of candidates as it becomes complete, in any order."""
        if self._recipe.explores:
            groups = self._ahead.groups(step)
        else:
            groups = self._draw_pools(self._requests(step), conditioning)
        shape = self._shape(step)
        done, total = 0, shape.candidates * shape.prompts
        while (group := self._next(groups)) is not None:
            done += len(group.candidates)
            self.parts.progress.explored(done, total)
            yield group

    def _next(self, groups: Iterator[Group]) -> Group | None:
        with self._clock.phase(Phase.EXPLORE):
            return next(groups, None)

    def _draw_pools(
        self, requests: Sequence[GroupRequest], conditioning: Conditioning
    ) -> Iterator[Group]:
        """The groups of the recipes that draw them in BF16, without the server."""
        size = self._groups_a_draw(len(requests[0].seeds))
        for start in range(0, len(requests), size):
            together = requests[start : start + size]
            drawn = (self._look_at if self._recipe.redraws else self._draw)(together, conditioning)
            for request, samples in zip(together, drawn, strict=True):
                assert samples.parts is not None
                yield Group.rewarded(
                    request, samples.parts, samples.latents, trajectory=samples.trajectory
                )

    def _groups_a_draw(self, seeds: int) -> int:
        """How many prompts with so many seeds each keep all ranks drawing; at least one."""
        return max(1, self.parts.artist.capacity // seeds)

    def _drawn_together(self, groups: Iterator[Group], shape: Shape) -> Iterator[list[Group]]:
        """Neighbouring prompts' groups, as soon as all of them are complete.

        Which ones are drawn together depends on the prompts' order alone, never on timing.
        """
        size = self._groups_a_draw(shape.kept)
        waiting: defaultdict[int, list[Group]] = defaultdict(list)
        for group in groups:
            share = group.request.row // size
            waiting[share].append(group)
            if len(waiting[share]) == min(size, shape.prompts - share * size):
                yield sorted(waiting.pop(share), key=lambda group: group.request.row)

    def _select(self, group: Group, step: int) -> Selection:
        random = stream(self._config.run.seed, Purpose.SELECTION, step, group.request.row)
        return select(group, self._recipe.selection, self._shape(step).kept, random)

    def _regenerate(
        self, selections: Sequence[Selection], conditioning: Conditioning
    ) -> list[Samples]:
        """Draw the kept seeds again, unless the recipe trains on the candidates themselves."""
        if self._recipe.redraws and selections:
            requests = [chosen.redrawn_in(self._recipe.steps) for chosen in selections]
            return self._draw(requests, conditioning)
        return [chosen.as_samples() for chosen in selections]

    def _watch(
        self, groups: Sequence[Group], conditioning: Conditioning, step: int
    ) -> _Watched | None:
        """Compare some groups with redraws of all their candidates; None for most steps."""
        rows = watched_rows(self._config, step, self._shape(step).prompts)
        watched = sorted(
            (group for group in groups if group.request.row in rows),
            key=lambda group: group.request.row,
        )
        if not watched:
            return None
        requests = [group.request for group in watched]
        redrawn = self._draw(requests, conditioning, drawing=Phase.WATCH, scoring=Phase.WATCH)
        fidelity = fidelity_of(watched, redrawn, self._shape(step).keep_pairs)
        if not self._recipe.tune:
            return _Watched(fidelity)
        with self._clock.phase(Phase.WATCH):
            return _Watched(fidelity, ranks(list(self._scored_early(requests, step)), redrawn))

    def _scored_early(
        self, requests: Sequence[GroupRequest], step: int
    ) -> Iterator[Sequence[Group]]:
        """The groups of a step explored anew, scored after the first evaluation, the second, ..."""
        adapter = self._explorers[self._explorer_of(step)].adapter
        steps = self._recipe.explore_steps
        scored = range(1, steps + 1)
        for after in scored:
            early = ExploreSteps.after(after, steps).score_after
            asked = [replace(request, score_after=early) for request in requests]
            self._ahead.begin((step, after), asked, adapter)
        for after in scored:
            groups = self._ahead.groups((step, after))
            yield sorted(groups, key=lambda group: group.request.row)

    def _draw(
        self,
        requests: Sequence[GroupRequest],
        conditioning: Conditioning,
        *,
        drawing: Phase = Phase.REGENERATE,
        scoring: Phase = Phase.SCORE,
    ) -> list[Samples]:
        """Samples of the old policy in BF16 with all steps, rewarded by the server."""
        seeds, rows = _of_each_seed(requests)
        with self._clock.phase(drawing):
            latents, trajectory = self.parts.artist.rollout(
                seeds, conditioning, rows, self._recipe.steps
            )
        return Samples.of(requests, latents, self._score(requests, latents, scoring), trajectory)

    def _look_at(
        self, requests: Sequence[GroupRequest], conditioning: Conditioning
    ) -> list[Samples]:
        """Candidates of the old policy as the server would explore them, but in BF16."""
        seeds, rows = _of_each_seed(requests)
        first = requests[0]
        with self._clock.phase(Phase.EXPLORE):
            latents = self.parts.artist.draw(
                PolicyName.OLD,
                seeds,
                conditioning,
                rows,
                first.steps,
                score_after=first.score_after,
            )
        rewards = self._score(requests, latents, Phase.EXPLORE, first.decoder)
        return Samples.of(requests, latents, rewards, None)

    def _score(
        self,
        requests: Sequence[GroupRequest],
        latents: torch.Tensor,
        phase: Phase,
        decoder: DecoderName = DecoderName.FULL,
    ) -> NDArray[np.float64]:
        """rewards[B, R] of the requests' B seeds, by the server."""
        prompts = [request.prompt for request in requests for _ in request.seeds]
        with self._waiting(phase):
            return self.parts.server.score(
                latents, prompts, self._reward.names, decoder=decoder
            ).rewards

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
        self._hand_over(self.state.step, policy.weights[PolicyName.OLD].pack(policy.alpha))

    def _publish_restored(self) -> None:
        """Give the server back the older policies that a resumed run's next steps explore with."""
        for step, files in sorted(self.state.explorers.items()):
            self._hand_over(step, files)

    def _hand_over(self, step: int, files: AdapterFiles) -> None:
        tuned = self.state.decisions[-1].sentence if self.state.decisions else ""
        with self._clock.phase(Phase.PUBLISH):
            self._explorers[step] = Explorer(files, self.parts.server.publish(files, tuned))
        for old in [old for old in self._explorers if old < self._explorer_of(step + 1)]:
            del self._explorers[old]

    def _needed_explorers(self) -> dict[int, AdapterFiles]:
        """What the steps after this one are explored with, besides the policy of this one."""
        step = self.state.step
        oldest = self._explorer_of(step + 1)
        return {at: self._explorers[at].files for at in self._explorers if oldest <= at < step}

    def _encode(self, prompts: Sequence[str]) -> Conditioning:
        with self._waiting(Phase.EXPLORE):
            return self.parts.artist.prepare(self.parts.server.encode(prompts))

    @contextmanager
    def _waiting(self, phase: Phase) -> Iterator[None]:
        """Charge the block to `phase`, in which the server works for the trainer."""
        with self._clock.phase(phase), self._server_at_work.running():
            yield

    def _busy(self, seconds: Mapping[str, float], started: float) -> _Busy:
        """How busy both sides were since a step began."""
        wall = time.perf_counter() - started
        waited = seconds[Phase.EXPLORE] + seconds[Phase.SCORE]
        return _Busy(
            server=min(1.0, self._server_at_work.lap() / wall), trainer=max(0.0, 1 - waited / wall)
        )

    def _complete(self, result: _StepResult, started: float) -> None:
        """Record the step: from here on it is the state that a checkpoint would hold."""
        elapsed = time.monotonic() - self._began
        seconds = self._clock.lap()
        explorer = self._explorer_of(result.step)
        lag = result.step - 1 - explorer
        adapter = self._explorers[explorer].adapter if self._recipe.explores else None
        metrics = result.metrics(
            self._config,
            _Explored(adapter, lag if adapter else 0, self._busy(seconds, started)),
            seconds,
            elapsed,
        )
        groups = [chosen.group for chosen in result.selections]
        seen = sightings(self._config, self.state.sightings, groups, result.step)
        until = self._explorer_of(result.step + 1)
        spread = spreads(self._config, self.state.spreads, groups, result.step, until)
        metrics = replace(metrics, resting_prompts=resting(self._config, flats(seen, result.step)))
        ranked = replace(self.state, ranks=(*self.state.ranks, *result.ranks))
        decision = self.parts.tuner.decide(ranked, metrics)
        if decision is not None:
            metrics = replace(metrics, tuned=decision.sentence)
        parts, verdict = self.parts, self._verdict(result)
        with parts.interrupts.shielded():
            parts.metrics.append(metrics)
            self.state = replace(
                ranked,
                step=result.step,
                decisions=(*ranked.decisions, *filter(None, [decision])),
                elapsed_s=elapsed,
                metrics_bytes=parts.metrics.position,
                raised_at=self._raised_at(verdict),
                sightings=seen,
                spreads=spread,
                replay=remembered(self._config, ranked.replay, result.step, result.samples),
            )
        parts.progress.step(metrics, self.outlook)
        if self._config.run.minutes is not None and result.step == self._first_step:
            parts.progress.say(self.outlook.promise)
        parts.trackers.step(metrics)
        if verdict is not None and verdict.too_low:
            parts.progress.say(verdict.warning)
        if metrics.tuned is not None:
            parts.progress.say(f"step {result.step}: {metrics.tuned}")

    def _verdict(self, result: _StepResult) -> Verdict | None:
        if result.fidelity is None or self._recipe.tune:  # The tuner draws its own conclusions.
            return None
        return Verdict(self._config, self.state.raised_at, result.step, result.fidelity)

    def _raised_at(self, verdict: Verdict | None) -> tuple[int, ...]:
        raised_at = self.state.raised_at
        if verdict is None or verdict.raise_at is None:
            return raised_at
        return (*raised_at, verdict.raise_at)

    def _evaluate_if_due(self) -> None:
        """Evaluate the EMA every so many steps, at the first guidance scale."""
        step, settings = self.state.step, self._config.evaluation
        if not step or not settings.every or step % settings.every:
            return
        if self.parts.evaluator.is_done(step, settings.guidances[:1]):
            return
        if self.parts.evaluator.affords_another():
            self._evaluate_trained(settings.guidances[:1])
        else:
            self.parts.progress.say(
                f"step {step}: not evaluated, to leave time for the last evaluation "
                f"(evaluation.budget = {settings.budget:g} of run.minutes)"
            )

    def _evaluate_base(self) -> None:
        """Evaluate the base model, unless that was done with the settings as they are now."""
        guidances = self._config.evaluation.guidances
        self._fit_evaluation()
        if self.parts.evaluator.is_done(0, guidances):
            return
        if not self.state.step:
            self._keep_if_best(self._evaluate(0, PolicyName.BASE, guidances))
            return
        self.parts.progress.say(
            "the base model has not been evaluated with these settings: that is done now, and "
            "evaluations with others are not compared"
        )
        self._evaluate(0, PolicyName.BASE, guidances)

    def _evaluate_trained(self, guidances: Sequence[float]) -> None:
        """Evaluate the EMA, unless that was done with the settings as they are now."""
        step = self.state.step
        if self.parts.evaluator.is_done(step, guidances):
            return
        evaluation = self._evaluate(step, PolicyName.EMA, guidances)
        self._guard(evaluation)
        self._keep_if_best(evaluation)

    def _evaluate(self, step: int, policy: PolicyName, guidances: Sequence[float]) -> Evaluation:
        """Evaluate, and show what came of it; returns that at the first guidance scale."""
        began = time.monotonic()
        with self._clock.phase(Phase.EVALUATE):
            evaluations = self.parts.evaluator.run(step, policy, guidances)
        for evaluation in evaluations:
            self.parts.progress.evaluated(evaluation)
            self.parts.trackers.evaluated(evaluation, self.parts.evaluator.path(step))
        self._began += time.monotonic() - began
        return evaluations[0]

    def _fit_evaluation(self) -> None:
        """Evaluate what there is time for, and say how far the time goes on this machine."""
        evaluator, config = self.parts.evaluator, self._config
        began = time.monotonic()
        with self._clock.phase(Phase.EVALUATE):
            pace = evaluator.fit()
        self._began += time.monotonic() - began
        if pace is None:
            return
        self.parts.progress.say(
            f"a first guess for this machine: {pace.steps_in_time(config)} steps in the "
            f"{config.run.minutes:g} min of training"
        )
        if len(evaluator.prompts) < config.evaluation.prompts:
            self.parts.progress.say(
                f"{len(evaluator.prompts)} of {config.evaluation.prompts} held-out prompts are "
                f"evaluated: there is no time for more (evaluation.budget = "
                f"{config.evaluation.budget:g} of run.minutes)"
            )

    def _guard(self, evaluation: Evaluation) -> None:
        """Warn of what the reward does not show."""
        base = self.parts.evaluator.paired(0, evaluation)
        config = self._config
        if base is not None:
            for alarm in alarms(config.guards, config.reward, base, evaluation):
                self.parts.progress.say(alarm.sentence)

    def _keep_if_best(self, evaluation: Evaluation) -> None:
        """Keep the state if none that was evaluated in the same way is as good."""
        best, state = None, self.state
        if state.best_step is not None:
            best = self.parts.evaluator.paired(state.best_step, evaluation)
        known = replace(state, best_reward=None if best is None else self._standing(best))
        state = improved(known, self._standing(evaluation))
        if state != self.state:
            self.state = state
            self.save()

    def _standing(self, evaluation: Evaluation) -> float:
        """How good an evaluation is: the mean reward, or the gain in the sum of several."""
        base = self.parts.evaluator.paired(0, evaluation)
        if len(self._reward.names) == 1 or base is None:
            return evaluation.means[self._reward.names[0]].mean
        return mean_gain(evaluation, base, self._reward)


def _of_each_seed(requests: Sequence[GroupRequest]) -> tuple[list[int], list[int]]:
    """seeds[B] and rows[B] of requests with B seeds in all."""
    pairs = [(seed, request.row) for request in requests for seed in request.seeds]
    return [seed for seed, _ in pairs], [row for _, row in pairs]


@dataclass(frozen=True)
class _Busy:
    """Shares of a step's wall time."""

    server: float
    trainer: float


@dataclass(frozen=True)
class _Explored:
    """With what, and how well beside the training, a step was explored."""

    adapter: PublishedAdapter | None
    lag: int
    busy: _Busy


@dataclass(frozen=True)
class _Watched:
    """What redraws of whole groups say of their exploration."""

    fidelity: Fidelity | None
    ranks: tuple[tuple[float, ...], ...] = ()
    """rho of each group, by the steps that it was scored after, where the run tunes itself."""


@dataclass(frozen=True)
class _StepResult:
    """What a step did, for its metrics."""

    step: int
    selections: Sequence[Selection]
    samples: Sequence[Samples]
    replayed: Sequence[Samples]
    report: UpdateReport
    watched: _Watched | None

    @property
    def fidelity(self) -> Fidelity | None:
        return None if self.watched is None else self.watched.fidelity

    @property
    def ranks(self) -> tuple[tuple[float, ...], ...]:
        return () if self.watched is None else self.watched.ranks

    def metrics(
        self,
        config: TrainConfig,
        explored: _Explored,
        seconds: Mapping[str, float],
        elapsed_s: float,
    ) -> StepMetrics:
        # In prompt order: sums depend on the order in their last bits.
        selections = sorted(self.selections, key=lambda chosen: chosen.group.request.row)
        samples = sorted(self.samples, key=lambda group: group.row)
        rows = {group.row for group in samples}
        trained_on = [chosen for chosen in selections if chosen.group.request.row in rows]
        proxy = np.concatenate([chosen.group.rewards for chosen in selections])
        rewards = np.concatenate([group.rewards for group in samples])
        explore_s = max(selection.group.elapsed_s for selection in selections)
        adapter, request = explored.adapter, selections[0].group.request
        return StepMetrics(
            step=self.step,
            seconds=seconds,
            adapter_version=adapter.version if adapter else 0,
            version_lag=explored.lag,
            bound_modules=adapter.bound_modules if adapter else 0,
            explored=len(proxy),
            explore_images_per_s=len(proxy) / explore_s if explore_s else None,
            server_busy=explored.busy.server,
            trainer_busy=explored.busy.trainer,
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
            elapsed_s=elapsed_s,
            latent_diversity=float(np.mean([diversity(group.latents) for group in samples])),
            explore_steps=request.steps,
            score_after=request.score_after,
            prompts=len(selections),
            keep_pairs=len(selections[0].kept) // 2,
            fidelity=self.fidelity,
            skipped_groups=len(selections) - len(samples),
            rewards=_means(config.reward.trained, [group.parts for group in samples]),
            proxy_rewards=_means(
                config.reward.trained, [chosen.group.parts for chosen in selections]
            ),
            replayed=sum(len(group) for group in self.replayed),
        )


def _means(names: Sequence[str], parts: Sequence[NDArray[np.float64] | None]) -> dict[str, float]:
    """The mean of each reward over all groups' parts[N, R]."""
    rows = np.concatenate([part for part in parts if part is not None])
    return dict(zip(names, rows.mean(axis=0).tolist(), strict=True))

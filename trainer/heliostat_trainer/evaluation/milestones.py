"""When a run is evaluated, what is said of it, and which of its steps is the best so far."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from heliostat_trainer.clock import Phase
from heliostat_trainer.evaluation.guards import alarms
from heliostat_trainer.evaluation.results import mean_gain
from heliostat_trainer.folder.checkpoint import improved
from heliostat_trainer.policy.policy import PolicyName

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from heliostat_trainer.clock import RunClock
    from heliostat_trainer.evaluation.evaluate import Evaluator
    from heliostat_trainer.evaluation.results import Evaluation
    from heliostat_trainer.folder.checkpoint import RunState
    from heliostat_trainer.settings.config import TrainConfig


class Milestones:
    """Evaluates between steps; each call returns the state with what it has made of its best step."""

    def __init__(
        self,
        config: TrainConfig,
        evaluator: Evaluator,
        clock: RunClock,
        say: Callable[[str], None],
        show: Callable[[Evaluation], None],
    ) -> None:
        """`say` is told what the user should know, `show` is given each evaluation."""
        self._config = config
        self._evaluator = evaluator
        self._clock = clock
        self._say = say
        self._show = show

    def base(self, state: RunState) -> RunState:
        """Evaluate the base model, unless that was done with the settings as they are now."""
        guidances = self._config.evaluation.guidances
        self._fit()
        if self._evaluator.is_done(0, guidances):
            return state
        if not state.step:
            return self._with_best(state, self._evaluate(0, PolicyName.BASE, guidances))
        self._say(
            "the base model has not been evaluated with these settings: that is done now, and "
            "evaluations with others are not compared"
        )
        self._evaluate(0, PolicyName.BASE, guidances)
        return state

    def if_due(self, state: RunState) -> RunState:
        """Evaluate the EMA every so many steps, at the first guidance scale."""
        step, settings = state.step, self._config.evaluation
        if not step or not settings.every or step % settings.every:
            return state
        if self._evaluator.is_done(step, settings.guidances[:1]):
            return state
        if self._evaluator.affords_another():
            return self.trained(state, settings.guidances[:1])
        self._say(
            f"step {step}: not evaluated, to leave time for the last evaluation "
            f"(evaluation.budget = {settings.budget:g} of run.minutes)"
        )
        return state

    def trained(self, state: RunState, guidances: Sequence[float]) -> RunState:
        """Evaluate the EMA, unless that was done with the settings as they are now."""
        if self._evaluator.is_done(state.step, guidances):
            return state
        evaluation = self._evaluate(state.step, PolicyName.EMA, guidances)
        self._guard(evaluation)
        return self._with_best(state, evaluation)

    def _evaluate(self, step: int, policy: PolicyName, guidances: Sequence[float]) -> Evaluation:
        """Evaluate, and show what came of it; returns that at the first guidance scale."""
        with self._clock.beside_training():
            with self._clock.phase(Phase.EVALUATE):
                evaluations = self._evaluator.run(step, policy, guidances)
            for evaluation in evaluations:
                self._show(evaluation)
        return evaluations[0]

    def _fit(self) -> None:
        """Evaluate what there is time for, and say how far the time goes on this machine."""
        evaluator, config = self._evaluator, self._config
        with self._clock.beside_training(), self._clock.phase(Phase.EVALUATE):
            pace = evaluator.fit()
        if pace is None:
            return
        self._say(
            f"a first guess for this machine: {pace.steps_in_time(config)} steps in the "
            f"{config.run.minutes:g} min of training"
        )
        if len(evaluator.prompts) < config.evaluation.prompts:
            self._say(
                f"{len(evaluator.prompts)} of {config.evaluation.prompts} held-out prompts are "
                f"evaluated: there is no time for more (evaluation.budget = "
                f"{config.evaluation.budget:g} of run.minutes)"
            )

    def _guard(self, evaluation: Evaluation) -> None:
        """Warn of what the reward does not show."""
        base = self._evaluator.paired(0, evaluation)
        if base is not None:
            for alarm in alarms(self._config.guards, self._config.reward, base, evaluation):
                self._say(alarm.sentence)

    def _with_best(self, state: RunState, evaluation: Evaluation) -> RunState:
        """The state, whose step is the best if none that was evaluated in the same way is as good."""
        best = None
        if state.best_step is not None:
            best = self._evaluator.paired(state.best_step, evaluation)
        known = replace(state, best_reward=None if best is None else self._standing(best))
        return improved(known, self._standing(evaluation))

    def _standing(self, evaluation: Evaluation) -> float:
        """How good an evaluation is: the mean reward, or the gain in the sum of several."""
        reward = self._config.reward.sum
        base = self._evaluator.paired(0, evaluation)
        if len(reward.names) == 1 or base is None:
            return evaluation.means[reward.names[0]].mean
        return mean_gain(evaluation, base, reward)

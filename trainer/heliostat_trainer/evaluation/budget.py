"""`evaluation.budget`: which evaluations a run's time affords, at the pace of its machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat_trainer.forecast.work import plan_run, total

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_trainer.evaluation.results import Evaluation
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.settings.evaluation import EvaluationSection

TRIAL_STEPS = 2
FEWEST_PROMPTS = 2
"""Of a single one there is no interval."""
WHOLE_EVALUATIONS = 2
"""At all guidance scales: before the first step and after the last."""


@dataclass(frozen=True)
class DrawingPace:
    """How fast held-out images are drawn in full batches, and scored."""

    nfe_s: float
    """Seconds of one evaluation of the transformer for one image."""
    score_s: float
    """Seconds of decoding and rewarding one image."""

    def prompt_s(self, settings: EvaluationSection) -> float:
        """Seconds of one prompt's images at all guidance scales."""
        image_s = [
            self.nfe_s * settings.nfes(guidance) + self.score_s for guidance in settings.guidances
        ]
        return settings.seeds_per_prompt * sum(image_s)

    def steps_in_time(self, config: TrainConfig) -> int:
        """A first guess of the steps in run.minutes, by counting what a step evaluates.

        It takes an emulated NVFP4 evaluation to cost what one in BF16 does.
        """
        minutes = config.run.minutes
        if minutes is None:
            return config.run.steps
        a_step = total(plan_run(config).a_step.values())
        step_s = self.nfe_s * a_step.bf16_equivalents(1.0) + self.score_s * a_step.images
        return max(1, min(config.run.steps, round(60 * minutes / step_s)))


def allowed_s(config: TrainConfig) -> float | None:
    """Seconds that all evaluations together may take; None: as many as they need."""
    share, minutes = config.evaluation.budget, config.run.minutes
    return None if share is None or minutes is None else share * 60 * minutes


def affordable_prompts(settings: EvaluationSection, seconds: float, pace: DrawingPace) -> int:
    """How many held-out prompts can be evaluated at the start and at the end in so many seconds."""
    fitting = int(seconds / (WHOLE_EVALUATIONS * pace.prompt_s(settings)))
    return min(settings.prompts, max(FEWEST_PROMPTS, fitting))


def affords_another(seconds: float, evaluations: Sequence[Evaluation]) -> bool:
    """Whether there is time for one more in between, after these and before the last one."""
    base = [evaluation.seconds for evaluation in evaluations if evaluation.step == 0]
    spent = sum(evaluation.seconds for evaluation in evaluations)
    return spent + sum(base[:1]) + sum(base) <= seconds

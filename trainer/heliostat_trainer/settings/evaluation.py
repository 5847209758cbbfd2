"""[evaluation] and [guards]: how a policy is measured, and what it is warned of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from heliostat_engines.settings import Count, NotNegative, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping


class EvaluationSection(Settings):
    """[evaluation]: held-out prompts, drawn by the trainer in BF16 from fixed seeds."""

    every: Annotated[int, Field(ge=0)] = 20
    """Steps between evaluations; 0: only before the first step and after the last."""
    prompts: Count = 64
    """Held-out prompts, from the top of the file."""
    seeds_per_prompt: Count = 4
    """Images of each prompt."""
    steps: Count = 40
    """Denoising steps."""
    guidances: tuple[Annotated[float, Field(ge=1)], ...] = (1.0,)
    """Guidance scales compared before the first step and after the last; in between only the
    first one."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the evaluation's noise, apart from run.seed so that runs compare."""
    images: Annotated[int, Field(ge=0)] = 8
    """Prompts whose first images are kept with each evaluation."""
    budget: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share of run.minutes that all evaluations may take: on a machine that is too slow for
    them, fewer held-out prompts are evaluated (the same ones each time), and none in between."""

    def nfes(self, guidance: float) -> int:
        """Evaluations of the transformer that an image takes."""
        return self.steps * (1 if guidance == 1 else 2)

    @field_validator("guidances")
    @classmethod
    def _not_empty(cls, guidances: tuple[float, ...]) -> tuple[float, ...]:
        if not guidances:
            raise ValueError("name at least one guidance scale, e.g. [1.0]")
        return guidances


class GuardsSection(Settings):
    """[guards]: warnings of reward hacking, at each evaluation, against the base model's images.

    Each limit is a share of the base model's value: 100 turns one off. The run goes on in any case.
    """

    brightness: NotNegative = 0.25
    """By which share the mean brightness of held-out images may change before the run warns."""
    colour_entropy: NotNegative = 0.25
    """The same of the entropy of their colours."""
    edge_density: NotNegative = 0.5
    """The same of the share of pixels at an edge."""
    diversity: NotNegative = 0.5
    """The same of the mean distance between the images of one prompt."""
    heldout: bool = True
    """Warn if the reward that is trained on rises while every held-out one falls."""

    @property
    def limits(self) -> Mapping[str, float]:
        """By statistic, the largest relative change."""
        return self.model_dump(exclude={"heldout"})

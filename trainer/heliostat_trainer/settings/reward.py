"""[reward]: what is trained on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from heliostat_engines.settings import Number, Settings
from heliostat_trainer.rewards import Normalise, RewardSum


class RewardSection(Settings):
    """[reward]: names of the server's rewards; either `name` or `weights`."""

    name: str | None = None
    """The reward to train on, as it is."""
    weights: Annotated[dict[str, Number], Field(min_length=1)] | None = None
    """Several rewards to train on, each with its weight in their sum: { pickscore = 1.0, ocr = 0.5 }.
    A negative weight penalises."""
    normalise: Normalise = Normalise.GROUP_STD
    """How `weights` make rewards comparable, among the candidates of one prompt: group_std centres
    each and divides it by its standard deviation; none takes them as they are."""
    heldout: tuple[str, ...] = ()
    """Rewards that evaluation reports besides and training never sees."""

    @model_validator(mode="after")
    def _one_or_several(self) -> RewardSection:
        if (self.name is None) == (self.weights is None):
            raise ValueError(
                "say what to train on: either reward.name, or reward.weights with several rewards "
                "(to train on weights, leave reward.name out)"
            )
        if self.weights and not all(self.weights.values()):
            raise ValueError("reward.weights: a weight of 0 does nothing: leave that reward out")
        return self

    @property
    def sum(self) -> RewardSum:
        """What is trained on."""
        if self.weights is None:
            return RewardSum.single(str(self.name))
        return RewardSum(tuple(self.weights), tuple(self.weights.values()), self.normalise)

    @property
    def trained(self) -> tuple[str, ...]:
        """The rewards that are trained on."""
        return self.sum.names

    @property
    def label(self) -> str:
        """What is trained on, in words."""
        weights = self.weights or {}
        return self.name or " + ".join(f"{weight:g} {name}" for name, weight in weights.items())

    @property
    def all(self) -> tuple[str, ...]:
        """The rewards trained on, then the held-out ones."""
        return tuple(dict.fromkeys((*self.trained, *self.heldout)))

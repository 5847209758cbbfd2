"""Which prompts are worth drawing: those whose candidates differ in reward.

A group whose rewards hardly differ is flat: it teaches nothing, and is skipped before it is redrawn
(`exploring.selection`). Here a prompt that was found flat again and again is drawn less often. All
of it follows from what was seen and the seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from heliostat_trainer.prompts.sources import step_prompts
from heliostat_trainer.randomness import Purpose, stream
from heliostat_trainer.types import in_prompt_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.tuning import Decision
    from heliostat_trainer.types import Group


class Sighting(NamedTuple):
    """A prompt's group, seen to be flat or, of a prompt that had been flat, not to be."""

    step: int
    prompt: str
    flat: bool


class Spread(NamedTuple):
    """How far the rewards of a prompt's candidates spread, as smoothed after a step."""

    step: int
    prompt: str
    spread: float


KEPT_OF_SPREAD = 0.5
"""The weight of what a prompt's spread was, when it is seen again."""


def is_flat(config: TrainConfig, group: Group) -> bool:
    """Whether a group's rewards differ by less than prompts.min_spread."""
    return _spread_of(group) < config.prompts.min_spread


def sightings(
    config: TrainConfig, so_far: Sequence[Sighting], groups: Iterable[Group], step: int
) -> tuple[Sighting, ...]:
    """What is remembered after a step: as little as the draw of later ones needs."""
    if not config.prompts.min_spread:
        return ()
    known = flats(so_far, step)
    seen = (
        Sighting(step, group.request.prompt, is_flat(config, group))
        for group in in_prompt_order(groups)
    )
    return (*so_far, *(sight for sight in seen if sight.flat or sight.prompt in known))


def flats(seen: Sequence[Sighting], until: int) -> dict[str, int]:
    """How often each prompt was flat since it last was not, of what was seen until a step."""
    counts: dict[str, int] = {}
    for sight in seen:
        if sight.step > until:
            break
        if sight.flat:
            counts[sight.prompt] = counts.get(sight.prompt, 0) + 1
        else:
            counts.pop(sight.prompt, None)
    return counts


def spreads(
    config: TrainConfig, so_far: Sequence[Spread], groups: Iterable[Group], step: int, until: int
) -> tuple[Spread, ...]:
    """What is known of prompts' spreads after a step, as far as draws need it.

    They need it as it was after the step `until` or later: of what is older, each prompt's newest.
    """
    if not config.prompts.by_spread:
        return ()
    newest = known_spreads(so_far, step)
    found = []
    for group in in_prompt_order(groups):
        prompt, spread = group.request.prompt, _spread_of(group)
        before = newest.get(prompt, spread)
        found.append(Spread(step, prompt, before + (1 - KEPT_OF_SPREAD) * (spread - before)))
    everything = (*so_far, *found)
    last = {each.prompt: each.step for each in everything if each.step <= until}
    return tuple(each for each in everything if each.step >= last.get(each.prompt, 0))


def known_spreads(seen: Sequence[Spread], until: int) -> dict[str, float]:
    """The spread of each prompt that was seen until a step, as it was then."""
    return {each.prompt: each.spread for each in seen if each.step <= until}


def resting(config: TrainConfig, counts: Mapping[str, int]) -> int:
    """How many prompts are drawn less often."""
    return sum(count >= config.prompts.flat_after for count in counts.values())


def draw_prompts(
    config: TrainConfig,
    prompts: tuple[str, ...],
    counts: Mapping[str, int],
    step: int,
    decision: Decision,
    known: Mapping[str, float] | None = None,
) -> tuple[str, ...]:
    """The prompts of a step of the decided shape, of which those that were flat n times, n >= flat_after, mostly rest.

    One is kept with probability 2^-(n - flat_after + 1); else another takes its place, drawn from
    those that neither rest nor are in the step. Before that the share by_spread of them is drawn in
    proportion to their `known` spreads. With neither: `step_prompts`.
    """
    seed, after = config.run.seed, config.prompts.flat_after
    chosen = list(step_prompts(prompts, decision.shape.prompts, seed, step, decision.step))
    if config.prompts.by_spread:
        weights = _weights(prompts, known or {})
        weights[[counts.get(prompt, 0) >= after for prompt in prompts]] = 0
        _redraw(
            chosen, prompts, weights, config.prompts.by_spread, stream(seed, Purpose.SPREAD, step)
        )
    if not any(counts.get(prompt, 0) >= after for prompt in chosen):
        return tuple(chosen)
    taken = set(chosen)
    others = [p for p in prompts if p not in taken and counts.get(p, 0) < after]
    random = stream(seed, Purpose.CURRICULUM, step)
    for row, prompt in enumerate(chosen):
        count = counts.get(prompt, 0)
        if count < after or random.random() < 0.5 ** (count - after + 1) or not others:
            continue
        chosen[row] = others.pop(int(random.integers(len(others))))
    return tuple(chosen)


def _weights(prompts: Sequence[str], known: Mapping[str, float]) -> NDArray[np.float64]:
    """weights[P] of prompts: their spreads; of those not seen yet the mean of the others."""
    unseen = float(np.mean(list(known.values()))) if known else 1.0
    return np.array([known.get(prompt, unseen) for prompt in prompts])


def _redraw(
    chosen: list[str],
    prompts: Sequence[str],
    weights: NDArray[np.float64],
    share: float,
    random: np.random.Generator,
) -> None:
    """Draw the share of the chosen anew, each in proportion to weights[P] and none twice.

    Where all that are left have a weight of 0 they are as likely as one another.
    """
    is_redrawn = random.random(len(chosen)) < share
    stay = {prompt for prompt, goes in zip(chosen, is_redrawn, strict=True) if not goes}
    free = np.array([prompt not in stay for prompt in prompts])
    for row in np.flatnonzero(is_redrawn):
        likely = weights * free
        likely = likely if likely.any() else free.astype(np.float64)
        place = int(random.choice(len(prompts), p=likely / likely.sum()))
        chosen[row] = prompts[place]
        free[place] = False


def _spread_of(group: Group) -> float:
    assert group.parts is not None
    return group.request.reward.spread(group.parts)

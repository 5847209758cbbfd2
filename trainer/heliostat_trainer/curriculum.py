"""Which prompts are worth drawing: those whose candidates differ in reward.

A group without contrast teaches nothing. It is skipped before it is redrawn, and a prompt that was
found flat again and again is drawn less often. All of it follows from what was seen and the seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from heliostat_trainer.prompts import step_prompts
from heliostat_trainer.randomness import Purpose, stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from heliostat_trainer.config import TrainConfig
    from heliostat_trainer.tuning import Decision
    from heliostat_trainer.types import Group, Selection


class Sighting(NamedTuple):
    """A prompt's group, seen to be flat or, of a prompt that had been flat, not to be."""

    step: int
    prompt: str
    flat: bool


def is_flat(config: TrainConfig, group: Group) -> bool:
    """Whether a group's rewards differ by less than prompts.min_spread."""
    assert group.parts is not None
    return group.request.reward.spread(group.parts) < config.prompts.min_spread


def contrasted(config: TrainConfig, selections: Sequence[Selection]) -> list[Selection]:
    """The selections of groups that are not flat."""
    return [chosen for chosen in selections if not is_flat(config, chosen.group)]


def most_contrasted(selections: Sequence[Selection]) -> Selection:
    """What a step is trained on if all of its groups are flat: it cannot be on nothing."""
    return max(selections, key=lambda chosen: (chosen.spread, -chosen.group.request.row))


def sightings(
    config: TrainConfig, so_far: Sequence[Sighting], groups: Iterable[Group], step: int
) -> tuple[Sighting, ...]:
    """What is remembered after a step: as little as the draw of later ones needs."""
    if not config.prompts.min_spread:
        return ()
    known = flats(so_far, step)
    seen = (
        Sighting(step, group.request.prompt, is_flat(config, group))
        for group in sorted(groups, key=lambda group: group.request.row)
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


def resting(config: TrainConfig, counts: Mapping[str, int]) -> int:
    """How many prompts are drawn less often."""
    return sum(count >= config.prompts.flat_after for count in counts.values())


def draw_prompts(
    config: TrainConfig,
    prompts: tuple[str, ...],
    counts: Mapping[str, int],
    step: int,
    decision: Decision,
) -> tuple[str, ...]:
    """The prompts of a step of the decided shape, of which those that were flat n times, n >= flat_after, mostly rest.

    One is kept with probability 2^-(n - flat_after + 1); else another takes its place, drawn from
    those that neither rest nor are in the step. With no flat prompts: `step_prompts`.
    """
    seed, after = config.run.seed, config.prompts.flat_after
    chosen = list(step_prompts(prompts, decision.shape.prompts, seed, step, decision.step))
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

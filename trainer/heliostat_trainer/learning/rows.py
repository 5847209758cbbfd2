"""What a step trains at: its samples laid out in rows, each at a noise level.

Which rows there are depends on what the objective needs: every sample by itself (`each_sample`),
the best with the worst (`pairs`), all kept ones at one level (`whole_groups`), or the steps that a
sample came about by (`transitions`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from heliostat_engines.sampling.euler import as_column
from heliostat_engines.sampling.stochastic import Trajectory
from heliostat_trainer.learning.advantages import advantages_of, balanced
from heliostat_trainer.objectives.objective import GroupRows, NoisedRows, TransitionRows
from heliostat_trainer.randomness import Purpose, stream, torch_stream
from heliostat_trainer.settings.objectives import (
    DanceGrpoSettings,
    DgpoSettings,
    DiffusionDpoSettings,
    GrpoSettings,
    Levels,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from heliostat_trainer.objectives.objective import Rows
    from heliostat_trainer.settings.objectives import (
        AnyObjective,
        AwmSettings,
        DiffusionNftSettings,
        NoisedSettings,
        ObjectiveSettings,
    )
    from heliostat_trainer.types import Samples

    Shape = tuple[int, ...]
    """Of one sample's latents."""


@dataclass(frozen=True)
class Schedule:
    """Where in the run a step is, and the noise levels[T + 1] that its samples were drawn at."""

    run_seed: int
    step: int
    levels: NDArray[np.float32]
    levels_of: Mapping[Shape, NDArray[np.float32]] = field(default_factory=dict)
    """Of samples of other shapes than the run's own, theirs, as many."""

    def places(self, settings: ObjectiveSettings, available: int, count: int) -> NDArray[np.int64]:
        """places[count, L], counted from the highest of the levels `available`: L for each of `count`."""
        random = stream(self.run_seed, Purpose.TIMESTEPS, self.step)
        taken = settings.levels_taken(available)
        if settings.levels is Levels.STRATIFIED:
            return _one_of_each_stratum(random, available, (count, taken))
        among = settings.levels.among(available)
        return np.stack([random.permutation(among)[:taken] for _ in range(count)])


@dataclass(frozen=True, kw_only=True)
class Batch(ABC):
    """All R rows of a step, which belong to its groups' S samples, counted through the groups."""

    schedule: Schedule
    groups: Sequence[Samples]
    samples: NDArray[np.int64]
    """samples[R]: which sample a row belongs to."""
    sigmas: NDArray[np.float32]
    """sigmas[R]."""
    advantages: torch.Tensor
    """advantages[R]."""
    together: int = 1
    """So many neighbouring rows make one term of the loss."""

    @abstractmethod
    def take(self, rows: NDArray[np.int64]) -> Rows:
        """The given rows, on the device."""

    def terms(self) -> NDArray[np.int64]:
        """rows[R / together, together] of each term of the loss."""
        return np.arange(len(self.samples)).reshape(-1, self.together)

    def micro_batches(self, terms: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
        """rows[B] of each part: as many whole terms as `size` rows hold, at least one."""
        return self._parts_of(terms, max(1, size // self.together) * self.together)

    def _parts_of(self, terms: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
        """The rows of all terms in order, `size` at a time; those of one shape of latents after another."""
        shapes = [tuple(group.latents.shape[1:]) for group in self.groups]
        kinds = {shape: kind for kind, shape in enumerate(dict.fromkeys(shapes))}
        of_sample = np.repeat([kinds[shape] for shape in shapes], [len(g) for g in self.groups])
        rows = terms.reshape(-1)
        of_row = of_sample[self.samples[rows]]
        each = [rows[of_row == kind] for kind in kinds.values()]
        return [own[start : start + size] for own in each for start in range(0, len(own), size)]

    def prompts(self, rows: NDArray[np.int64]) -> list[int]:
        """Which of the step's prompts the rows are of."""
        of_sample = np.repeat([group.row for group in self.groups], [len(g) for g in self.groups])
        indices: list[int] = of_sample[self.samples[rows]].tolist()
        return indices

    def describe(self, row: int) -> str:
        """A row in words: seed, prompt and noise level."""
        sample = int(self.samples[row])
        for group in self.groups:
            if sample < len(group):
                where = f"seed {group.seeds[sample]} of {group.prompt!r}"
                return f"{where} at noise level {self.sigmas[row]:.2f}"
            sample -= len(group)
        raise IndexError(row)


@dataclass(frozen=True, kw_only=True)
class _NoisedBatch(Batch):
    """Clean samples on the device, noised anew."""

    clean: Sequence[torch.Tensor]
    """Each sample's latents[...], which need not have one shape."""
    draws: NDArray[np.int64]
    """draws[R]: which of the step's draws of noise a row has."""

    def take(self, rows: NDArray[np.int64]) -> NoisedRows:
        clean = torch.stack([self.clean[sample] for sample in self.samples[rows].tolist()])
        draws, of_row = np.unique(self.draws[rows], return_inverse=True)
        noise = torch.stack([self._noise(draw, clean.shape[1:]) for draw in draws.tolist()])
        noise = noise[torch.from_numpy(of_row)].to(clean.device)
        sigma = torch.from_numpy(self.sigmas[rows]).to(clean.device)
        column = as_column(sigma, clean)
        return NoisedRows(
            latents=(1 - column) * clean + column * noise,
            sigma=sigma,
            advantages=self.advantages[torch.from_numpy(rows)].to(clean.device),
            clean=clean,
            noise=noise,
        )

    def _noise(self, draw: int, shape: torch.Size) -> torch.Tensor:
        position = (self.schedule.step, draw)
        generator = torch_stream(self.schedule.run_seed, Purpose.TRAINING_NOISE, *position)
        return torch.randn(shape, generator=generator)


@dataclass(frozen=True, kw_only=True)
class GroupBatch(_NoisedBatch):
    """Terms of a group's samples at one level, which need not be in one micro-batch."""

    margins: torch.Tensor | None = None
    """margins[R] of each row's term, once they are known."""

    def splits(self, size: int) -> bool:
        """Whether a term has more rows than a micro-batch."""
        return size < self.together

    def micro_batches(self, terms: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
        """rows[B] of each part: of whole terms, or else `size` of them."""
        return (
            self._parts_of(terms, size) if self.splits(size) else super().micro_batches(terms, size)
        )

    def with_margins(self, shares: torch.Tensor) -> GroupBatch:
        """The same rows, with the margins that each row's share[R] gives."""
        margins = shares.view(-1, self.together).mean(dim=1).repeat_interleave(self.together)
        return replace(self, margins=margins)

    def take(self, rows: NDArray[np.int64]) -> GroupRows:
        """The given rows, on the device, with their terms' margins if these are known."""
        noised = super().take(rows)
        device = noised.clean.device
        _, term = np.unique(rows // self.together, return_inverse=True)
        margin = None
        if self.margins is not None:
            margin = self.margins[torch.from_numpy(rows)].to(device)
        return GroupRows(**vars(noised), term=torch.from_numpy(term).to(device), margin=margin)


@dataclass(frozen=True, kw_only=True)
class _TransitionBatch(Batch):
    """Steps of the samples' trajectories, which stay on the CPU."""

    trajectory: Trajectory
    steps: NDArray[np.int64]
    """steps[R]: which of its sample's stochastic steps a row is."""
    device: torch.device

    def take(self, rows: NDArray[np.int64]) -> TransitionRows:
        path, log_probs = self.trajectory.latents, self.trajectory.log_probs
        place = torch.from_numpy(self.samples[rows]), torch.from_numpy(self.steps[rows])
        levels = torch.from_numpy(self.schedule.levels)
        after = self.trajectory.first[place[0]] + place[1] + 1
        return TransitionRows(
            latents=path[place].to(self.device),
            sigma=torch.from_numpy(self.sigmas[rows]).to(self.device),
            advantages=self.advantages[torch.from_numpy(rows)].to(self.device),
            following=path[place[0], place[1] + 1].to(self.device),
            following_sigma=levels[after].to(self.device),
            log_probs=log_probs[place].to(self.device),
        )


def lay_out(
    settings: AnyObjective, schedule: Schedule, groups: Sequence[Samples], device: torch.device
) -> Batch:
    """The rows that the objective trains at, of a step's samples, a group a prompt.

    Replayed groups come last: those of the step itself have the levels and noise that they have without.
    """
    if isinstance(settings, DiffusionDpoSettings):
        return pairs(settings, schedule, groups, device)
    if isinstance(settings, DgpoSettings):
        return whole_groups(settings, schedule, groups, device)
    if isinstance(settings, GrpoSettings):
        return transitions(settings, schedule, groups, device)
    return each_sample(settings, schedule, groups, device)


def each_sample(
    settings: DiffusionNftSettings | AwmSettings,
    schedule: Schedule,
    groups: Sequence[Samples],
    device: torch.device,
) -> Batch:
    """A row for each sample at each of its levels."""
    values = advantages_of(settings, groups)
    levels, draws = _noised(settings, schedule, groups, [len(group) for group in groups])
    samples = np.repeat(np.arange(len(values)), levels.shape[1])
    return _NoisedBatch(
        schedule=schedule,
        groups=groups,
        samples=samples,
        sigmas=levels.reshape(-1),
        advantages=torch.from_numpy(values[samples]).float(),
        clean=_clean(groups, device),
        draws=draws.reshape(-1),
    )


def pairs(
    settings: DiffusionDpoSettings,
    schedule: Schedule,
    groups: Sequence[Samples],
    device: torch.device,
) -> Batch:
    """Two rows, better and worse, for each pair at each of its levels, with the same noise.

    The best of a group goes with its worst, the second best with the second worst, and so on.
    Advantages are +1 and -1; 0 where the rewards are equal.
    """
    of_each = list(_pairs_of_each(groups))
    levels, draws = _noised(settings, schedule, groups, [len(pairs) for pairs in of_each])
    samples = np.repeat(np.concatenate(of_each), levels.shape[1], axis=0)
    rewards = np.concatenate([group.rewards for group in groups])[samples]
    differ = np.sign(rewards[:, 0] - rewards[:, 1])
    return _NoisedBatch(
        schedule=schedule,
        groups=groups,
        samples=samples.reshape(-1),
        sigmas=levels.reshape(-1).repeat(2),
        advantages=torch.from_numpy(np.stack([differ, -differ], axis=1).reshape(-1)).float(),
        together=2,
        clean=_clean(groups, device),
        draws=draws.reshape(-1).repeat(2),
    )


def whole_groups(
    settings: DgpoSettings,
    schedule: Schedule,
    groups: Sequence[Samples],
    device: torch.device,
) -> GroupBatch:
    """A row for each of a group's K samples at each of its levels: K neighbours share a level.

    All groups have the same number of samples.
    """
    sizes = [len(group) for group in groups]
    kept, total = sizes[0], sum(sizes)
    values = advantages_of(settings, groups).reshape(-1, kept)
    weights = np.concatenate([balanced(own) for own in values])
    levels, draws = _noised(settings, schedule, groups, sizes)

    def level_by_level(each: NDArray[Any]) -> NDArray[Any]:
        return each.reshape(len(groups), kept, -1).swapaxes(1, 2).reshape(-1)

    samples = level_by_level(np.repeat(np.arange(total), levels.shape[1]))
    return GroupBatch(
        schedule=schedule,
        groups=groups,
        samples=samples,
        sigmas=level_by_level(levels),
        advantages=torch.from_numpy(weights[samples]).float(),
        together=kept,
        clean=_clean(groups, device),
        draws=level_by_level(draws),
    )


def transitions(
    settings: GrpoSettings,
    schedule: Schedule,
    groups: Sequence[Samples],
    device: torch.device,
) -> Batch:
    """A row for each of a share of the stochastic steps of each sample.

    Of DanceGRPO's only the best and the worst samples of each group; advantages are among all.
    """
    values = advantages_of(settings, groups)
    pairs = settings.subset_pairs if isinstance(settings, DanceGrpoSettings) else None
    chosen = np.concatenate(list(_extremes_of_each(groups, pairs)))
    trajectories = [group.trajectory for group in groups if group.trajectory is not None]
    assert len(trajectories) == len(groups), "the recipe gives no trajectories"
    trajectory = Trajectory.concat(trajectories)
    places = schedule.places(settings, trajectory.steps, len(chosen))
    steps = places.reshape(-1)
    samples = np.repeat(chosen, places.shape[1])
    return _TransitionBatch(
        schedule=schedule,
        groups=groups,
        samples=samples,
        sigmas=schedule.levels[trajectory.first.numpy()[samples] + steps],
        advantages=torch.from_numpy(values[samples]).float(),
        trajectory=trajectory,
        steps=steps,
        device=device,
    )


def _one_of_each_stratum(
    random: np.random.Generator, count: int, shape: tuple[int, int]
) -> NDArray[np.int64]:
    """places[..., L] among `count`: the i-th is uniform in the i-th of L equal parts of them.

    Each place is as likely as any other; one that lies in two parts may come of both.
    """
    start = np.arange(shape[1])
    places = ((start + random.random(shape)) * count / shape[1]).astype(np.int64)
    return np.minimum(places, count - 1)  # where the last one is rounded up


def _noised(
    settings: NoisedSettings,
    schedule: Schedule,
    groups: Sequence[Samples],
    sizes: Sequence[int],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """levels[U, L] and draws[U, L] of noise for all units of groups that have `sizes` of them.

    Units are what is trained at a level with one noise: samples or pairs. Levels and draws are their
    own, or those of their group's first unit.
    """
    available = len(schedule.levels) - 1
    if settings.share_levels:
        places = np.repeat(schedule.places(settings, available, len(sizes)), sizes, axis=0)
    else:
        places = schedule.places(settings, available, sum(sizes))
    draws = np.arange(places.size).reshape(places.shape)
    if settings.share_noise:
        draws = draws[np.repeat(np.cumsum([0, *sizes])[:-1], sizes)]
    own = [
        schedule.levels_of.get(tuple(group.latents.shape[1:]), schedule.levels) for group in groups
    ]
    ends = np.cumsum(sizes)[:-1]
    levels = [each[at] for each, at in zip(own, np.split(places, ends), strict=True)]
    return np.concatenate(levels), draws


def _extremes_of_each(groups: Sequence[Samples], pairs: int | None) -> Iterator[NDArray[np.int64]]:
    """samples[2 pairs] of each group: its best and worst; None: all."""
    first = 0
    for group in groups:
        order = first + np.argsort(group.rewards, kind="stable")
        yield np.sort(order if pairs is None else np.concatenate([order[:pairs], order[-pairs:]]))
        first += len(group)


def _pairs_of_each(groups: Sequence[Samples]) -> Iterator[NDArray[np.int64]]:
    """samples[K / 2, 2] of each group: the i-th best and the i-th worst."""
    first = 0
    for group in groups:
        order = first + np.argsort(group.rewards, kind="stable")
        count = len(order) // 2
        yield np.stack([order[::-1][:count], order[:count]], axis=1)
        first += len(group)


def _clean(groups: Sequence[Samples], device: torch.device) -> list[torch.Tensor]:
    return [latents for group in groups for latents in group.latents.to(device)]

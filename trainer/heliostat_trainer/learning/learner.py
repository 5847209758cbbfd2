"""One training step's optimisation: clean samples and rewards in, new policies out."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from heliostat_engines.progress import Stages
from heliostat_trainer.errors import DIVERGED, DivergedError
from heliostat_trainer.learning.optimiser import build_optimiser, restore_tensors
from heliostat_trainer.learning.rows import GroupBatch, Schedule, lay_out
from heliostat_trainer.learning.updates import Restore, Update
from heliostat_trainer.objectives.norm import norm_ratio
from heliostat_trainer.objectives.objective import Velocities, mean_of_each
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.randomness import Purpose, stream
from heliostat_trainer.ranks.calls import announced
from heliostat_trainer.ranks.ranks import Ranks
from heliostat_trainer.types import UpdateReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from heliostat_engines.conditioning import Conditioning
    from heliostat_trainer.learning.rows import Batch
    from heliostat_trainer.objectives.objective import Loss, Objective, Rows
    from heliostat_trainer.policy.policy import Policy
    from heliostat_trainer.ranks.interrupts import Interrupts
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.types import Samples


class Learner:
    """Holds the optimiser; moves the trained policy, and the old one and the EMA after it.

    On several ranks the leader has all make its calls with the same samples. Each takes every size-th
    micro-batch, the gradients are summed, and every rank makes the same optimiser step: that of a
    single rank but for the order of a sum in float32.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        objective: Objective[Any],
        sigmas: torch.Tensor,
        interrupts: Interrupts,
        ranks: Ranks | None = None,
        undisturbed: Callable[[], AbstractContextManager[object]] = nullcontext,
        stages: Stages | None = None,
        sigmas_of: Callable[[tuple[int, ...]], torch.Tensor] | None = None,
        turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`sigmas` are the noise levels[steps + 1] that the samples were drawn at, or `sigmas_of` the shape
        of a sample's latents, where sizes have levels of their own.

        Each micro-batch is trained on within `undisturbed`, and told to `stages`, as `Artist` draws, and all of
        an update is within `turn`.
        """
        self._config = config
        self._policy = policy
        self._objective = objective
        self._levels = sigmas.numpy().astype(np.float32)
        self._sigmas_of = sigmas_of or (lambda _: sigmas)
        self._interrupts = interrupts
        self._ranks = ranks or Ranks()
        self._undisturbed = undisturbed
        self._turn = turn
        self._stages = stages or Stages()
        parameters = list(policy.trained.tensors.values())
        self.optimiser = build_optimiser(config.optimiser, parameters)
        self.step: int | None = 0
        """The training step whose results the weights are; None in the middle of one."""

    def update(
        self,
        samples: Sequence[Samples],
        conditioning: Conditioning,
        step: int,
        replayed: Sequence[Samples] = (),
    ) -> UpdateReport:
        """Train on a step's samples, which come a prompt each, in any order, and on replayed ones.

        Raises:
            DivergedError: a loss or gradient is not finite; the policies are as they were, unless
                updates_per_step is above 1. Or the update's weights are not: `step` is then None.
        """
        call = Update(samples, conditioning, step, replayed)
        with self._turn(), announced(self._ranks, call):
            return call.do(self)

    def train(self, samples: Sequence[Samples], conditioning: Conditioning, step: int) -> Sums:
        """`update` as each rank makes it: sums over all ranks' rows."""
        batch = self._lay_out(samples, step)
        sums = Sums()
        shares = self._mini_batches(batch)
        for number, terms in enumerate(shares):
            self._accumulate(batch, terms, conditioning, sums)
            self._sum_gradients()
            last = number == len(shares) - 1
            if last:
                sums.over(self._ranks)
            with self._interrupts.shielded():
                self._descend(sums, step)
                if last:
                    self._follow(step)
                    self.step = step
        return sums

    def gradient(
        self, samples: Sequence[Samples], conditioning: Conditioning, step: int
    ) -> dict[str, torch.Tensor]:
        """Each LoRA weight's gradient of the mean loss over a step's samples, in float32, unclipped.

        It is what `update` would descend along if updates_per_step is 1. Nothing is changed by it.

        Raises:
            DivergedError: a loss is not finite.
        """
        batch = self._lay_out(samples, step)
        self._accumulate(batch, batch.terms(), conditioning, Sums())
        self._sum_gradients()
        gradients = {
            name: weight.grad
            for name, weight in self._policy.trained.tensors.items()
            if weight.grad is not None
        }
        self.optimiser.zero_grad()
        return gradients

    def restore(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Go on from a checkpoint's tensors, after `step`."""
        call = Restore(tensors, step)
        with self._turn(), announced(self._ranks, call):
            call.do(self)

    def take_over(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """`restore` as each rank makes it."""
        restore_tensors(tensors, self._policy, self.optimiser)
        self.step = step

    def _lay_out(self, samples: Sequence[Samples], step: int) -> Batch:
        """The rows that the objective trains at, in the prompts' order."""
        groups = sorted(samples, key=lambda group: group.row)
        shapes = {tuple(group.latents.shape[1:]) for group in groups}
        levels_of = {shape: self._sigmas_of(shape).numpy().astype(np.float32) for shape in shapes}
        schedule = Schedule(self._config.run.seed, step, self._levels, levels_of)
        return lay_out(self._config.objective, schedule, groups, self._policy.device)

    def _mini_batches(self, batch: Batch) -> list[NDArray[np.int64]]:
        """Terms of each optimiser step: all of them, or a random equal share."""
        terms = batch.terms()
        updates = self._config.optimiser.updates_per_step
        if updates == 1:
            return [terms]
        step = batch.schedule.step
        shuffled = stream(self._config.run.seed, Purpose.MINI_BATCHES, step).permutation(terms)
        return np.array_split(shuffled, updates)

    def _accumulate(
        self, batch: Batch, terms: NDArray[np.int64], conditioning: Conditioning, sums: Sums
    ) -> None:
        """Add up the gradient of the mean loss over the terms, a micro-batch at a time."""
        on_policy = self._is_on_policy(batch.schedule.step)
        if isinstance(batch, GroupBatch) and batch.splits(self._config.optimiser.micro_batch):
            batch = self._with_margins(batch, terms, conditioning, on_policy=on_policy)
        problem = ""
        for part, wanted in self._micro_batches(batch, terms):
            with self._undisturbed():
                result, velocities = self._evaluate(batch, part, conditioning, on_policy=on_policy)
                self._policy.backward(result.loss.sum() * wanted / terms.size)
            sums.add(result, velocities, wanted=wanted)
            if wanted:
                problem = problem or self._not_finite(result.loss, batch, part)
        self._require_finite(problem)

    @torch.no_grad()
    def _with_margins(
        self,
        batch: GroupBatch,
        terms: NDArray[np.int64],
        conditioning: Conditioning,
        *,
        on_policy: bool,
    ) -> GroupBatch:
        """The batch with the margins of terms that no micro-batch holds, under the present weights."""
        shares = torch.zeros(len(batch.samples))
        for part, wanted in self._micro_batches(batch, terms):
            with self._undisturbed():
                result, _ = self._evaluate(batch, part, conditioning, on_policy=on_policy)
            assert result.share is not None
            if wanted:
                shares[torch.from_numpy(part)] = result.share.cpu()
        self._ranks.sum(shares)
        return batch.with_margins(shares)

    def _evaluate(
        self,
        batch: Batch,
        part: NDArray[np.int64],
        conditioning: Conditioning,
        *,
        on_policy: bool,
    ) -> tuple[Loss, Velocities]:
        """The loss at a micro-batch's rows, and the velocities that it is of."""
        rows, own = batch.take(part), conditioning.take(batch.prompts(part))
        velocities = self._velocities(rows, own, on_policy=on_policy)
        return self._objective.loss(rows, velocities), velocities

    def _micro_batches(
        self, batch: Batch, terms: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], bool]]:
        """Rows of each of this rank's micro-batches, and whether their results are wanted."""
        parts = batch.micro_batches(terms, self._config.optimiser.micro_batch)
        for number in self._ranks.shares(len(parts)):
            if number is not None:
                self._stages.count(number, len(parts), "micro-batches")
            self._ranks.meet()
            yield parts[number or 0], number is not None

    def _sum_gradients(self) -> None:
        """Make every rank's gradient that of all ranks' terms."""
        if self._ranks.size == 1:
            return
        gradients = [
            weight.grad
            for weight in self._policy.trained.tensors.values()
            if weight.grad is not None
        ]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self._ranks.sum(flat)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, total in zip(gradients, torch.split(flat, sizes), strict=True):
            gradient.copy_(total.view_as(gradient))

    def _is_on_policy(self, step: int) -> bool:
        """Whether the old policy's velocities are the trained one's, to the bit.

        Equal weights give equal velocities, except where the graph with a gradient and the one without
        are compiled apart.
        """
        if self._config.model.compile or not self._config.old_policy.is_trained_before(step):
            return False
        return self._policy.weights[PolicyName.OLD].equals(self._policy.trained)

    def _velocities(self, rows: Rows, conditioning: Conditioning, *, on_policy: bool) -> Velocities:
        """What the objective needs; on policy the old one is the trained one, and not evaluated."""

        def of(name: PolicyName) -> torch.Tensor:
            return self._policy.velocity(name, rows.latents, rows.sigma, conditioning)

        needs_old, old = self._objective.needs_old, None
        if needs_old and not on_policy:
            old = of(PolicyName.OLD)
        reference = of(PolicyName.BASE) if self._objective.needs_reference else None
        trained = of(PolicyName.TRAINED)
        if needs_old and on_policy:
            old = trained.detach()
        return Velocities(trained=trained, old=old, reference=reference)

    def _descend(self, sums: Sums, step: int) -> None:
        """One optimiser step with the gradient that has been added up."""
        parameters = list(self._policy.trained.tensors.values())
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._config.optimiser.max_grad_norm)
        if not torch.isfinite(norm):
            self.optimiser.zero_grad()
            raise DivergedError(f"step {step}: the gradient's norm is {norm.item()}; {DIVERGED}")
        self.step = None
        for group in self.optimiser.param_groups:
            group["lr"] = self._config.optimiser.lr_at(step, self._config.lr_steps)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self._require_finite_weights(step)
        self._policy.refresh(PolicyName.TRAINED)
        sums.grad_norm = norm.item()

    def _follow(self, step: int) -> None:
        """Let the old policy and the moving average follow the trained one."""
        weights, trained = self._policy.weights, self._policy.trained
        weights[PolicyName.OLD].decay_towards(trained, self._config.old_policy.decay(step))
        weights[PolicyName.EMA].decay_towards(trained, self._config.ema.decay_at(step))
        self._policy.refresh(PolicyName.OLD, PolicyName.EMA)

    def _require_finite_weights(self, step: int) -> None:
        """Stop in the middle of a step whose update overflows: nothing saves or publishes it."""
        if not self._policy.trained.finite:
            raise DivergedError(
                f"step {step}: the update makes weights NaN or infinite; {DIVERGED}"
            )

    def _not_finite(self, loss: torch.Tensor, batch: Batch, rows: NDArray[np.int64]) -> str:
        """Which row's loss is not finite, in words; empty if all are."""
        bad = torch.nonzero(~torch.isfinite(loss.detach()))
        if not len(bad):
            return ""
        position = int(bad[0])
        return (
            f"step {batch.schedule.step}: the loss of {batch.describe(rows[position])} is "
            f"{loss[position].item()}"
        )

    def _require_finite(self, problem: str) -> None:
        """Stop on every rank if any of them has a problem."""
        for sentence in filter(None, self._ranks.exchange(problem)):
            self.optimiser.zero_grad()
            raise DivergedError(f"{sentence}; {DIVERGED}")


class Sums:
    """Running sums over a step's rows."""

    def __init__(self) -> None:
        self._rows = 0
        self._sums: dict[str, float] = {}
        self.grad_norm = 0.0

    def add(self, result: Loss, velocities: Velocities, *, wanted: bool) -> None:
        """Count a micro-batch; of one that is not wanted, only what there is to sum."""
        rows = slice(None) if wanted else slice(0)
        self._rows += len(result.loss[rows])
        self._add("loss", result.loss.detach()[rows])
        if result.kl is not None:
            self._add("kl", result.kl[rows])
        if velocities.old is not None:
            difference = velocities.trained.detach() - velocities.old
            self._add("drift", mean_of_each(difference.square())[rows])
        if velocities.reference is not None:
            trained = velocities.trained.detach()
            self._add("velocity_norm", norm_ratio(trained, velocities.reference)[rows])
        if result.ratio is not None and result.clipped is not None:
            self._add("ratio_error", (result.ratio - 1).abs()[rows])
            self._add("clip_fraction", result.clipped.float()[rows])

    def over(self, ranks: Ranks) -> None:
        """Make them the sums over all ranks' rows."""
        names = sorted(self._sums)
        own = [self._rows, *(self._sums[name] for name in names)]
        totals = torch.tensor(own, dtype=torch.float64)
        ranks.sum(totals)
        self._rows = int(totals[0])
        self._sums = dict(zip(names, totals[1:].tolist(), strict=True))

    def report(self, zero_contrast_groups: int) -> UpdateReport:
        """The means over the rows."""
        means = {name: total / self._rows for name, total in self._sums.items()}
        return UpdateReport(
            loss=means["loss"],
            kl=means.get("kl"),
            drift=means.get("drift"),
            ratio_error=means.get("ratio_error"),
            clip_fraction=means.get("clip_fraction"),
            velocity_norm=means.get("velocity_norm"),
            grad_norm=self.grad_norm,
            zero_contrast_groups=zero_contrast_groups,
        )

    def _add(self, name: str, values: torch.Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + values.sum().item()

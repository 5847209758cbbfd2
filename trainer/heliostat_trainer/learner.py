"""One training step's optimisation: clean samples and rewards in, new policies out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from heliostat_trainer.advantages import advantages, has_contrast
from heliostat_trainer.errors import DivergedError
from heliostat_trainer.objectives.objective import Rows, Velocities
from heliostat_trainer.policy import PolicyName
from heliostat_trainer.randomness import Purpose, stream, torch_stream
from heliostat_trainer.types import UpdateReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from heliostat_engines.conditioning import Conditioning
    from heliostat_trainer.config import TrainConfig
    from heliostat_trainer.interrupts import Interrupts
    from heliostat_trainer.objectives.objective import Objective
    from heliostat_trainer.policy import Policy
    from heliostat_trainer.types import Samples


@dataclass(frozen=True)
class Batch:
    """All samples of a step, S of them, and the R (sample, noise level) rows to train at."""

    step: int
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    clean: torch.Tensor
    """clean[S, ...]."""
    advantages: torch.Tensor
    """advantages[S]."""
    prompt_rows: NDArray[np.int64]
    """prompt_rows[S]: into the step's conditioning."""
    row_samples: NDArray[np.int64]
    """row_samples[R]: which sample a row noises."""
    row_sigmas: NDArray[np.float32]
    """row_sigmas[R]."""


class Learner:
    """Holds the optimiser; moves the trained policy, and the old one and the EMA after it."""

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        objective: Objective,
        sigmas: torch.Tensor,
        interrupts: Interrupts,
    ) -> None:
        """`sigmas` are the noise levels[steps + 1] that the samples were drawn at."""
        self._config = config
        self._policy = policy
        self._objective = objective
        self._levels = sigmas[:-1].numpy().astype(np.float32)
        self._interrupts = interrupts
        settings = config.optimiser
        self.optimiser = torch.optim.AdamW(
            list(policy.trained.tensors.values()),
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            eps=settings.eps,
        )
        self.step: int | None = 0
        """The training step whose results the weights are; None in the middle of one."""

    def update(
        self, samples: Sequence[Samples], conditioning: Conditioning, step: int
    ) -> UpdateReport:
        """Train on a step's samples, which come a prompt each, in any order.

        Raises:
            DivergedError: a loss or gradient is not finite; the policies are as they were, unless
                updates_per_step is above 1.
        """
        batch = self._gather(sorted(samples, key=lambda group: group.row), step)
        sums = _Sums()
        shares = self._mini_batches(batch)
        for number, rows in enumerate(shares):
            self._accumulate(batch, rows, conditioning, sums)
            with self._interrupts.shielded():
                self._descend(sums, step)
                if number == len(shares) - 1:
                    self._follow(step)
                    self.step = step
        contrast = sum(has_contrast(group.rewards) for group in samples)
        return sums.report(len(samples) - contrast)

    def _gather(self, samples: Sequence[Samples], step: int) -> Batch:
        """Lay out the samples, and draw for each in which order and at which levels it trains."""
        clip = self._config.objective.advantage_clip
        values = np.concatenate(advantages([group.rewards for group in samples], clip))
        levels = max(1, int(self._config.objective.timestep_fraction * len(self._levels) + 1e-9))
        random = stream(self._config.run.seed, Purpose.TIMESTEPS, step)
        chosen = np.stack([random.permutation(self._levels)[:levels] for _ in values])
        device = self._policy.device
        return Batch(
            step=step,
            prompts=tuple(group.prompt for group in samples for _ in group.seeds),
            seeds=tuple(seed for group in samples for seed in group.seeds),
            clean=torch.cat([group.latents for group in samples]).to(device),
            advantages=torch.from_numpy(values).float().to(device),
            prompt_rows=np.repeat([group.row for group in samples], [len(g) for g in samples]),
            row_samples=np.repeat(np.arange(len(values)), levels),
            row_sigmas=chosen.reshape(-1),
        )

    def _mini_batches(self, batch: Batch) -> list[NDArray[np.int64]]:
        """Rows of each optimiser step: all of them, or a random equal share."""
        rows = np.arange(len(batch.row_samples))
        updates = self._config.optimiser.updates_per_step
        if updates == 1:
            return [rows]
        shuffled = stream(self._config.run.seed, Purpose.MINI_BATCHES, batch.step).permutation(rows)
        return np.array_split(shuffled, updates)

    def _accumulate(
        self, batch: Batch, rows: NDArray[np.int64], conditioning: Conditioning, sums: _Sums
    ) -> None:
        """Add up the gradient of the mean loss over the rows, a micro-batch at a time."""
        size = self._config.optimiser.micro_batch
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            noised = self._noised(batch, part)
            embeddings = conditioning.take(batch.prompt_rows[batch.row_samples[part]].tolist())
            velocities = self._velocities(noised, embeddings)
            result = self._objective.loss(noised, velocities)
            self._require_finite(result.loss, batch, part)
            (result.loss.sum() / len(rows)).backward()  # type: ignore[no-untyped-call]
            self._policy.collect_gradient()
            sums.add(result.loss, result.kl, velocities)

    def _noised(self, batch: Batch, rows: NDArray[np.int64]) -> Rows:
        """Noise the rows' samples, each row from a generator of its own."""
        index = torch.from_numpy(batch.row_samples[rows])
        clean = batch.clean[index]
        noise = torch.stack(list(self._noise(batch, rows, clean.shape[1:]))).to(clean.device)
        sigma = torch.from_numpy(batch.row_sigmas[rows]).to(clean.device)
        column = sigma.view(-1, *[1] * (clean.ndim - 1))
        return Rows(
            clean=clean,
            noise=noise,
            noised=(1 - column) * clean + column * noise,
            sigma=sigma,
            advantages=batch.advantages[index],
        )

    def _noise(
        self, batch: Batch, rows: NDArray[np.int64], shape: torch.Size
    ) -> Iterator[torch.Tensor]:
        seed = self._config.run.seed
        for row in rows.tolist():
            yield torch.randn(
                shape, generator=torch_stream(seed, Purpose.TRAINING_NOISE, batch.step, row)
            )

    def _velocities(self, rows: Rows, conditioning: Conditioning) -> Velocities:
        def of(name: PolicyName) -> torch.Tensor:
            return self._policy.velocity(name, rows.noised, rows.sigma, conditioning)

        old = of(PolicyName.OLD)
        reference = of(PolicyName.BASE) if self._objective.needs_reference else None
        return Velocities(trained=of(PolicyName.TRAINED), old=old, reference=reference)

    def _descend(self, sums: _Sums, step: int) -> None:
        """One optimiser step with the gradient that has been added up."""
        parameters = list(self._policy.trained.tensors.values())
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._config.optimiser.max_grad_norm)
        if not torch.isfinite(norm):
            self.optimiser.zero_grad()
            raise DivergedError(
                f"step {step}: the gradient's norm is {norm.item()}; the last checkpoint is kept: "
                "lower optimiser.lr and resume from it"
            )
        self.step = None
        self.optimiser.step()
        self.optimiser.zero_grad()
        self._policy.refresh(PolicyName.TRAINED)
        sums.grad_norm = norm.item()

    def _follow(self, step: int) -> None:
        """Let the old policy and the moving average follow the trained one."""
        weights, trained = self._policy.weights, self._policy.trained
        weights[PolicyName.OLD].decay_towards(trained, self._config.old_policy.decay(step))
        weights[PolicyName.EMA].decay_towards(trained, self._config.ema.decay_at(step))
        self._policy.refresh(PolicyName.OLD, PolicyName.EMA)

    def _require_finite(self, loss: torch.Tensor, batch: Batch, rows: NDArray[np.int64]) -> None:
        bad = torch.nonzero(~torch.isfinite(loss.detach()))
        if not len(bad):
            return
        position = int(bad[0])
        sample = int(batch.row_samples[rows[position]])
        self.optimiser.zero_grad()
        raise DivergedError(
            f"step {batch.step}: the loss of seed {batch.seeds[sample]} of "
            f"{batch.prompts[sample]!r} at noise level {batch.row_sigmas[rows[position]]:.2f} is "
            f"{loss[position].item()}; the last checkpoint is kept: lower optimiser.lr and resume "
            "from it"
        )


class _Sums:
    """Running sums over a step's rows."""

    def __init__(self) -> None:
        self._rows = 0
        self._loss = self._kl = self._drift = 0.0
        self._has_kl = False
        self.grad_norm = 0.0

    def add(self, loss: torch.Tensor, kl: torch.Tensor | None, velocities: Velocities) -> None:
        drift = (velocities.trained.detach() - velocities.old).square().flatten(1).mean(dim=1)
        self._rows += len(loss)
        self._loss += loss.detach().sum().item()
        self._drift += drift.sum().item()
        if kl is not None:
            self._has_kl = True
            self._kl += kl.sum().item()

    def report(self, zero_contrast_groups: int) -> UpdateReport:
        return UpdateReport(
            loss=self._loss / self._rows,
            kl=self._kl / self._rows if self._has_kl else None,
            drift=self._drift / self._rows,
            grad_norm=self.grad_norm,
            zero_contrast_groups=zero_contrast_groups,
        )

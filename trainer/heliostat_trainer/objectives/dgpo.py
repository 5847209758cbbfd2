"""DGPO: the good samples of a group, taken together, should be preferred to its bad ones.

Rectified flow: x_t = (1 - t) x0 + t e, velocity v = e - x0. For the K samples of one prompt, noised
to the same t with the same e (unless share_noise = false), and their advantages A:

    d_theta = mean (v_theta - (e - x0))^2                of each sample
    s = beta / K sum A (d_ref - d_theta)                 of the group: its margin
    L = -log sigmoid(s) / beta + lambda mean (v_theta - v_ref)^2

Means are over a sample's elements; the term of lambda is each sample's own. A is a reward less the
group's mean, over the group's deviation, clipped; then both sides, A > 0 and A < 0, are scaled to
the same sum: only so does what all the group's likelihoods have in common, an unknown normaliser,
cancel. The reference is the base model. A group of equal rewards has a constant loss.

A group need not fit into a micro-batch. The gradient of -log sigmoid(s) is -sigmoid(-s) that of s,
which is a sum over samples: a row needs its own gradient, and of the others the number s alone.
Where all rows of a group are evaluated at once, s is at hand; else the learner first evaluates all
of them without a gradient. Both give the same gradient, to the rounding of a sum.

Division by beta leaves to it one thing, how soon a group counts as won: where s = 0, as in an
untrained policy, the gradient is the same under any. Low levels, at which a policy would learn the
flaws of samples drawn in few steps, are left out by `levels`.

Source: Luo et al., "Reinforcing Diffusion Models by Direct Group Preference Optimization"
(arXiv 2510.08425) and its public code, whose clip of a likelihood ratio, added later, is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid

from heliostat_trainer.objectives.objective import Loss, matching_error, mean_of_each

if TYPE_CHECKING:
    from heliostat_trainer.objectives.objective import GroupRows, Velocities
    from heliostat_trainer.settings.objectives import DgpoSettings


class Dgpo:
    """The loss above, with beta and lambda from [objective]."""

    def __init__(self, settings: DgpoSettings) -> None:
        self._beta = settings.beta
        self._kl_weight = settings.kl_weight
        self.needs_old = settings.needs_old
        self.needs_reference = settings.needs_reference

    def loss(self, rows: GroupRows, velocities: Velocities) -> Loss:
        """loss[B]: of a group, at each of its rows; the gradient is of each row's own part in it.

        Where a group is not whole and its margin is not given, `share` alone has a meaning.
        """
        trained, reference = velocities.trained, velocities.reference
        assert reference is not None
        gain = matching_error(rows, reference) - matching_error(rows, trained)
        share = self._beta * rows.advantages * gain.detach()
        margin = _mean_of_each_term(share, rows.term) if rows.margin is None else rows.margin
        pull = -torch.sigmoid(-margin) * rows.advantages * gain
        # The value is the group's, the gradient the row's: their mean over the rows is the group's.
        loss = pull - (pull + logsigmoid(margin) / self._beta).detach()
        kl = mean_of_each((trained - reference).square())
        return Loss(loss + self._kl_weight * kl, kl.detach(), share=share)


def _mean_of_each_term(values: torch.Tensor, term: torch.Tensor) -> torch.Tensor:
    """mean[B] of values[B] over the rows of the same term[B]."""
    sums = torch.zeros_like(values).index_add(0, term, values)
    counts = torch.zeros_like(values).index_add(0, term, torch.ones_like(values))
    return sums[term] / counts[term]

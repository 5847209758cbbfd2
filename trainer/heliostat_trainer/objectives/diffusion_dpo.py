"""Diffusion-DPO: the trained policy should fit the better sample of a pair more than the worse.

Rectified flow: x_t = (1 - t) x0 + t e, velocity v = e - x0; w and l are the better (winner) and
the worse (loser) sample of one prompt, noised with the same e and t:

    d_theta = mean (v_theta - (e - x0))^2           of each sample
    L = -log sigmoid(-beta / 2 ((d_theta^w - d_ref^w) - (d_theta^l - d_ref^l)))

Means are over a sample's elements. The reference is the base model, as published: beta says how
far the policy may leave it. The pairs are the step's own: the best kept sample of a group with its
worst, the second best with the second worst, and so on, by the rewards of the samples themselves.
A pair of equal rewards says nothing, and its loss is 0.

Source: Wallace et al., "Diffusion Model Alignment Using Direct Preference Optimization"
(arXiv 2311.12908); for rectified flow, the velocity's error in place of the noise's, as in Esser
et al., "Scaling Rectified Flow Transformers" (arXiv 2403.03206), appendix C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.functional import logsigmoid

from heliostat_trainer.objectives.objective import Loss, matching_error, mean_of_each

if TYPE_CHECKING:
    from heliostat_trainer.objectives.objective import NoisedRows, Velocities
    from heliostat_trainer.settings.objectives import DiffusionDpoSettings


class DiffusionDPO:
    """The loss above, with beta from [objective]; rows are winner, loser, winner, loser, ..."""

    def __init__(self, settings: DiffusionDpoSettings) -> None:
        self._beta = settings.beta
        self.needs_old = settings.needs_old
        self.needs_reference = settings.needs_reference

    def loss(self, rows: NoisedRows, velocities: Velocities) -> Loss:
        """loss[B]: of a pair, at both of its rows; advantages are +1, -1, or 0 for a tie."""
        trained, reference = velocities.trained, velocities.reference
        assert reference is not None
        gain = matching_error(rows, reference) - matching_error(rows, trained)
        margin = self._beta / 2 * (gain[0::2] - gain[1::2])
        differ = (rows.advantages[0::2] > rows.advantages[1::2]).float()
        pairs = -logsigmoid(margin) * differ
        kl = mean_of_each((trained - reference).square())
        return Loss(pairs.repeat_interleave(2), kl.detach())

"""How much of a gradient is signal, from independent draws of it.

A draw is g_i = s + e_i, with E e_i = 0 and the e_i independent. Then s.s is estimated without bias
by the mean of g_i.g_j over i != j, and E |e|^2 by the mean of |g_i|^2 less that. The noise scale
B = E |e|^2 / |s|^2 is how many times the signal's squared length the noise's is: at a tuned
learning rate, steps to a given progress go as 1 + B (McCandlish et al., arXiv 1812.06162).

All of it follows from the draws' inner products, gram[D, D], or gram[R, D, R, D] of R settings that
were drawn with the same prompts and seeds. Intervals are Student's, at 95 %, with the jackknife's
deviation over draws; that is never too small on average, and too large where there is no signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Gram = NDArray[np.float64]
LEAST_DRAWS = 3
"""Of which one can be left out, and a pair is left."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, whose ends may be infinite."""

    value: float
    low: float
    high: float


def signal(gram: Gram) -> float:
    """|s|^2, unbiased: it may be below 0."""
    draws = len(gram)
    return float((gram.sum() - np.trace(gram)) / (draws * (draws - 1)))


def power(gram: Gram) -> float:
    """|s|^2 + E |e|^2, unbiased."""
    return float(np.trace(gram) / len(gram))


def mean_cosine(gram: Gram) -> float:
    """Mean cosine between two draws."""
    lengths = np.sqrt(np.diag(gram))
    return signal(gram / np.outer(lengths, lengths))


def cosine(gram: Gram) -> Estimate:
    """Mean cosine between two draws of gram[D, D]."""
    return jackknife(lambda draws: mean_cosine(_of(gram, draws)), len(gram))


def noise_scale(gram: Gram) -> Estimate:
    """B of gram[D, D]; infinite where the signal may be none.

    The interval is that of |s|^2 / (|s|^2 + E |e|^2) = 1 / (1 + B), which is nearly normal where B
    is not.
    """
    share = jackknife(lambda draws: _share(_of(gram, draws)), len(gram))
    return Estimate(_scale(share.value), _scale(share.high), _scale(share.low))


def common_noise_scale(gram: NDArray[np.float64], row: int) -> Estimate:
    """B of a row of gram[R, D, R, D] along the signal that all rows have in common.

    Rows that train the same policy on the same reward push it nearly the same way, and all draws of
    all rows say which way that is: where a row's own draws are too few, this is far less uncertain.
    It is larger than the row's own B by what its signal has across that direction.
    """
    found = jackknife(lambda draws: alignments(gram, draws)[row], gram.shape[1])
    return Estimate(*(_scale(_square(end)) for end in (found.value, found.high, found.low)))


def cost_ratio(
    gram: NDArray[np.float64], rows: tuple[int, int], costs: tuple[float, float]
) -> Estimate:
    """(1 + B) cost of the first of two rows of gram[R, D, R, D] over that of the second.

    That is what equal progress costs, with B along the common signal. The draws are paired, so that
    what rows have in common cancels; the interval is of the logarithm, and unbounded where some of
    the draws leave a row without a signal.
    """

    def log_ratio(draws: NDArray[np.int64]) -> float:
        one, other = alignments(gram, draws)[[*rows]]
        return 2 * math.log(other / one) if min(one, other) > 0 else math.nan

    found, factor = jackknife(log_ratio, gram.shape[1]), costs[0] / costs[1]
    if math.isnan(found.low):
        return Estimate(math.exp(found.value) * factor, 0.0, math.inf)
    return Estimate(*(math.exp(end) * factor for end in (found.value, found.low, found.high)))


def alignments(gram: NDArray[np.float64], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """cosines[R] of each row's draws with the common signal: the sum of all rows' at equal lengths.

    1 / cosine^2 is 1 + B along it. Only different draws are compared: of one draw, rows share noise.
    NaN where the draws show no common signal.
    """
    some = gram[:, draws][:, :, :, draws]
    everything, same = some.sum(axis=(1, 3)), np.einsum("adbd->ab", some)
    count = len(draws)
    lengths = np.sqrt(np.diag(same) / count)
    signals = (everything - same) / (count * (count - 1)) / np.outer(lengths, lengths)
    towards: NDArray[np.float64] = signals.sum(axis=1)
    total = towards.sum()
    return towards / math.sqrt(total) if total > 0 else np.full(len(gram), np.nan)


def jackknife(statistic: Callable[[NDArray[np.int64]], float], draws: int) -> Estimate:
    """A statistic of some of the draws, of all of them, with its interval.

    Raises:
        ValueError: there are fewer than three.
    """
    from scipy import stats  # half a second to import

    if draws < LEAST_DRAWS:
        raise ValueError(f"{draws} draws: an interval needs {LEAST_DRAWS}")
    everything = np.arange(draws)
    without = np.array([statistic(np.delete(everything, draw)) for draw in everything])
    variance = (draws - 1) * float(np.var(without))
    half = float(stats.t.ppf(0.975, draws - 1)) * math.sqrt(variance)
    value = statistic(everything)
    return Estimate(value, value - half, value + half)


def _of(gram: Gram, draws: NDArray[np.int64]) -> Gram:
    chosen: Gram = gram[np.ix_(draws, draws)]
    return chosen


def _share(gram: Gram) -> float:
    """1 / (1 + B)."""
    return signal(gram) / power(gram)


def _square(cosine: float) -> float:
    """With its sign."""
    return cosine * abs(cosine)


def _scale(share: float) -> float:
    """B of 1 / (1 + B)."""
    return 1 / min(share, 1.0) - 1 if share > 0 else math.inf  # NaN too: nothing is known

"""95 % intervals for scores and for paired differences of scores. Pure, numpy only.

Which method, and why (`benchmarks/intervals.py` counts how often each contains the truth):

right-or-wrong scores, paired    Tango's score interval (Statistics in Medicine 1998, 17:891): the percentile bootstrap
                                 is far too narrow near 0 and 1 (88 % at 50 rows when nothing was answered worse)
right-or-wrong scores, one share Wilson's score interval (JASA 1927, 22:209), repaired near 0 and 1
                                 (Brown, Cai and DasGupta, Statistical Science 2001, 16:101)
graded scores and losses         studentised (bootstrap-t) interval of the paired differences (Efron 1979; Hall 1988):
                                 it follows skew, which the percentile and BCa bootstraps do not at these sizes
graded, almost all rows equal    a t interval with one made-up row at each end of the scale (the idea of Agresti and
                                 Caffo 2000); wide on purpose: a bootstrap cannot see a row that was not drawn
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959963984540054  # 97.5th percentile of the normal distribution
Z80 = 0.8416212335729143  # 80th: the power that needed_rows plans for
RESAMPLES = 4000
FEW = 10  # below so many rows Tango's limits alone would show a difference that is none up to 12 times of 100
START_WITH = 50  # rows that a person with FEW is told to bring
SPARSE = 8  # with fewer rows than this off the commonest value, resampling sees too little


class Interval(NamedTuple):
    """Both ends of a 95 % interval, in the units of the scores."""

    low: float
    high: float


def is_binary(scores: Sequence[float]) -> bool:
    """True when every score is 0 or 1."""
    return all(value in (0, 1) for value in scores)


def mean_interval(scores: Sequence[float], *, bounded: bool = True, seed: int = 0) -> Interval:
    """95 % interval of the mean of per-row scores (0 to 1 where bounded).

    >>> [round(x, 2) for x in mean_interval([1.0] * 50)]
    [0.93, 1.0]
    """
    if bounded and is_binary(scores):
        return wilson(int(sum(scores)), len(scores))
    return _graded(np.asarray(scores, dtype=float), (0.0, 1.0) if bounded else None, seed)


def difference_interval(
    scores_a: Sequence[float], scores_b: Sequence[float], *, bounded: bool = True, seed: int = 0
) -> Interval:
    """95 % interval of mean(a) - mean(b), the two scored on the same rows.

    >>> [round(x, 2) for x in difference_interval([1] * 40 + [0] * 10, [1] * 20 + [0] * 30)]
    [0.28, 0.54]
    """
    if len(scores_a) != len(scores_b):
        raise ValueError(f"{len(scores_a)} scores against {len(scores_b)}: they are not paired")
    if bounded and is_binary(scores_a) and is_binary(scores_b):
        gained = sum(a > b for a, b in zip(scores_a, scores_b, strict=True))
        lost = sum(a < b for a, b in zip(scores_a, scores_b, strict=True))
        return paired_interval(gained, lost, len(scores_a))
    difference = np.asarray(scores_a, dtype=float) - np.asarray(scores_b, dtype=float)
    return _graded(difference, (-1.0, 1.0) if bounded else None, seed)


def statistic_interval(
    statistic: Callable[[np.ndarray], float], n: int, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of anything computed from row numbers, for scores that are no mean (macro-F1)."""
    if n == 0:
        return Interval(0.0, 1.0)
    generator = np.random.default_rng(seed)
    values = [statistic(generator.integers(0, n, n)) for _ in range(resamples)]
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(low), float(high))


def wilson(successes: int, n: int) -> Interval:
    """Wilson's score interval of a share, with the repair near 0 and 1 of Brown, Cai and DasGupta.

    >>> [round(x, 3) for x in wilson(0, 50)]
    [0.0, 0.071]
    """
    if n == 0:
        return Interval(0.0, 1.0)
    share = successes / n
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return Interval(_near_zero(successes, n, middle - half), 1.0 - _near_zero(n - successes, n, 1 - middle - half))


def _near_zero(successes: int, n: int, low: float) -> float:
    """Wilson's lower end is too high for one to three successes; the Poisson limit is right there."""
    poisson = (0.0, 0.0512933, 0.3553615, 0.8176914)  # half the 5th percentile of chi-square with 2x degrees of freedom
    return min(low, poisson[successes] / n) if successes <= min(3, n - 1) else max(0.0, low)


def tango(gained: int, lost: int, n: int) -> Interval:
    """Tango's score interval for the difference of two paired shares.

    `gained` rows are right only in the first, `lost` only in the second, of `n`. The limits are the differences that
    a score test of level 5 % does not refuse; found by bisection, since the test falls steadily.

    >>> [round(x, 3) for x in tango(12, 2, 50)]
    [0.061, 0.345]
    """
    if n == 0:
        return Interval(-1.0, 1.0)

    def test(difference: float) -> float:
        linear = -gained - lost + (2 * n - gained + lost) * difference
        constant = -lost * difference * (1 - difference)
        share = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
        spread = n * (2 * share + difference * (1 - difference))
        distance = gained - lost - n * difference
        if spread <= 1e-14:
            return 0.0 if abs(distance) < 1e-9 else math.copysign(math.inf, distance)
        return distance / math.sqrt(spread)

    def where(level: float, low: float, high: float) -> float:
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if test(middle) > level else (low, middle)
        return (low + high) / 2

    estimate = (gained - lost) / n
    return Interval(
        -1.0 if estimate <= -1 else where(Z, -1.0, estimate),
        1.0 if estimate >= 1 else where(-Z, estimate, 1.0),
    )


def paired_interval(gained: int, lost: int, n: int) -> Interval:
    """The interval of a paired difference of shares: Tango's; below FEW rows it also holds zero where the exact sign
    test shows nothing.

    >>> paired_interval(4, 0, 4)
    Interval(low=0.0, high=1.0)
    """
    low, high = tango(gained, lost, n)
    if n < FEW and sign_test(gained, lost) > 0.05:
        low, high = min(0.0, low), max(0.0, high)
    return Interval(low, high)


def sign_test(gained: int, lost: int) -> float:
    """Two-sided exact probability of so lopsided a split of the rows that differ, if neither side were better.

    >>> sign_test(5, 0), sign_test(6, 0)
    (0.0625, 0.03125)
    """
    n = gained + lost
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(max(gained, lost), n + 1)) / 2**n)


def needed_rows(difference: float, deviation: float) -> int | None:
    """Rows with which a difference of this size would show four times out of five; None when it is hopeless.

    `deviation` is the standard deviation of the paired differences of single rows.

    >>> needed_rows(0.05, 0.5), needed_rows(0.0, 0.5)
    (785, None)
    """
    if difference == 0 or deviation == 0:
        return None
    rows = math.ceil(((Z + Z80) * deviation / difference) ** 2)
    return rows if rows <= 100_000 else None


def _graded(values: np.ndarray, ends: tuple[float, float] | None, seed: int) -> Interval:
    n = len(values)
    if n < 2:
        return Interval(*ends) if ends else Interval(-math.inf, math.inf)
    commonest = np.unique(values, return_counts=True)[1].max()
    if ends and n - commonest < SPARSE:
        return _clip(_student(np.append(values, ends)), ends)
    if n < 10 or n - commonest < SPARSE:
        return _clip(_student(values), ends)
    return _clip(_bootstrap_t(values, seed), ends)


def _bootstrap_t(values: np.ndarray, seed: int) -> Interval:
    n, mean, deviation = len(values), values.mean(), values.std(ddof=1)
    generator = np.random.default_rng(seed)
    studentised: list[np.ndarray] = []
    chunk = max(1, 2_000_000 // n)  # 16 MB of draws at a time, however many rows
    for start in range(0, RESAMPLES, chunk):
        drawn = values[generator.integers(0, n, (min(chunk, RESAMPLES - start), n))]
        spread = drawn.std(axis=1, ddof=1)
        floor = 1e-9 * deviation
        studentised.append((drawn.mean(axis=1) - mean) / np.maximum(spread, floor))
    low, high = np.quantile(np.concatenate(studentised), [0.025, 0.975])
    return Interval(float(mean - high * deviation), float(mean - low * deviation))


def _student(values: np.ndarray) -> Interval:
    half = student_quantile(len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return Interval(float(values.mean() - half), float(values.mean() + half))


def student_quantile(freedom: int) -> float:
    """97.5th percentile of Student's t: exact up to 6 degrees of freedom, then Cornish-Fisher (error below 0.001).

    >>> round(student_quantile(1), 3), round(student_quantile(9), 3)
    (12.706, 2.262)
    """
    if freedom <= 6:
        return (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912)[freedom - 1]
    z, v = Z, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def _clip(interval: Interval, ends: tuple[float, float] | None) -> Interval:
    if ends is None:
        return interval
    return Interval(max(ends[0], interval.low), min(ends[1], interval.high))

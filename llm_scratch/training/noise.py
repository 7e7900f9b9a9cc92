"""Differences between groups of runs, compared with their noise: Student's t for few runs.

No torch is imported here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """The difference between the means of two groups.

    Args:
        value: the mean of the second group minus that of the first.
        low: the lower end of the 95 % confidence interval of the difference; None where the noise
            is not known.
        high: the upper end of that interval.
        freedom: degrees of freedom of the interval.
        method: a description of how the interval was computed.
    """

    value: float
    low: float | None
    high: float | None
    freedom: float | None
    method: str

    @property
    def is_real(self) -> bool | None:
        """Whether the difference exceeds the noise; None where the noise is not known."""
        if self.low is None or self.high is None:
            return None
        return not self.low <= 0 <= self.high


def difference_of(one: Sequence[float], other: Sequence[float]) -> Difference:
    """Return the difference of a second group from a first one, with its interval.

    With two or more runs in both groups this is Welch's interval, which allows them different
    noise. A group of a single run is assumed to have the noise of the other one; if both have a
    single run, the noise is not known.

    Raises:
        ValueError: if a group is empty.

    Source:
        Welch 1947, "The generalization of 'Student's' problem when several different population
        variances are involved".
    """
    if not one or not other:
        raise ValueError("a group without a run has no mean; give at least one")
    value = statistics.fmean(other) - statistics.fmean(one)
    m, n = len(one), len(other)
    if m == n == 1:
        return Difference(value, None, None, None, "one seed: noise unknown")
    if min(m, n) == 1:
        many = one if m > 1 else other
        error = statistics.stdev(many) * math.sqrt(1 + 1 / len(many))
        freedom: float = len(many) - 1
        method = (
            "Student's t interval; the group of one run is taken to have the noise of the other"
        )
    else:
        a, b = statistics.variance(one) / m, statistics.variance(other) / n
        error = math.sqrt(a + b)
        weights = a**2 / (m - 1) + b**2 / (n - 1)
        freedom = (a + b) ** 2 / weights if weights else m + n - 2
        method = "Welch's t interval"
    reach = t_quantile(freedom) * error
    return Difference(value, value - reach, value + reach, freedom, method)


def interval_of(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's interval for the mean of a group; None with a single value."""
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    reach = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - reach, mean + reach


def t_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """Return the t for which Student's distribution lies between -t and t with this confidence.

    Args:
        freedom: degrees of freedom, above 0, not necessarily whole.
        confidence: above 0 and below 1.

    Raises:
        ValueError: if either is out of range.
    """
    if not 0 < freedom < math.inf or not 0 < confidence < 1:
        raise ValueError(f"{freedom=} must be above 0, and {confidence=} between 0 and 1")
    low, high = 0.0, 1.0
    while t_outside(high, freedom) > 1 - confidence:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:  # until no float lies between them
        if t_outside(middle, freedom) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def t_outside(t: float, freedom: float) -> float:
    """Return the probability that Student's distribution lies below -t or above t, for t >= 0."""
    return _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), for x from 0 to 1.

    Source:
        NIST Digital Library of Mathematical Functions, 8.17.22 (its continued fraction) and
        8.17.4 (the mirrored form, where that converges faster).
    """
    if x <= 0 or x >= 1:
        return float(x > 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x) - math.log(a)
    log_front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_front) / _continued_fraction(x, a, b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """Return 1 + d1 / (1 + d2 / (1 + ...)), computed from its end.

    The number of terms is enough for every x that `_incomplete_beta` passes: it grows with the
    square root of the larger parameter.
    """
    terms = 60 + 4 * math.isqrt(int(max(a, b)))
    found = 1.0
    for m in range(terms, 0, -1):
        k, odd = divmod(m, 2)
        if odd:
            term = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1))
        else:
            term = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k))
        found = 1 + term / found
    return found

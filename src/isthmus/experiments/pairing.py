"""Means and differences over pairs of networks, with Student's interval.

A study of several pairs has one number a pair and treatment. What is claimed is about the differences within
pairs, so those are what the interval is of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal

from isthmus.errors import SettingError

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Mean:
    """A mean over pairs.

    Attributes:
        value: the mean; not a number where a pair has none.
        low: lower end of its interval; not a number below two pairs.
        high: upper end of its interval; likewise.
        count: how many pairs.
        level: the interval's nominal coverage.
    """

    value: float
    low: float
    high: float
    count: int
    level: float


@dataclass(frozen=True)
class Contrast:
    """One quantity before and after a treatment, over the same pairs.

    Attributes:
        name: of the quantity.
        split: the data that it is of; empty where it needs none.
        better: which direction is an improvement.
        before: one number a pair; infinite where what is counted did not happen.
        after: likewise, in the same order.
        before_mean: over the pairs; not a number if one of them is not finite.
        after_mean: likewise.
        difference: of after − before, over the pairs.
        improved: in how many pairs `after` is better.
        worsened: in how many it is worse; the rest are equal.
    """

    name: str
    split: str
    better: Better
    before: tuple[float, ...]
    after: tuple[float, ...]
    before_mean: Mean
    after_mean: Mean
    difference: Mean
    improved: int
    worsened: int

    @property
    def decided(self) -> int:
        """1 if the interval of the difference lies on the better side of 0, −1 on the worse, else 0."""
        sign = 1 if self.better == "higher" else -1
        if sign * self.difference.low > 0 and sign * self.difference.high > 0:
            return 1
        return -1 if sign * self.difference.low < 0 and sign * self.difference.high < 0 else 0


def contrast(
    name: str,
    before: Sequence[float],
    after: Sequence[float],
    better: Better,
    split: str = "",
    most: float = math.inf,
    level: float = 0.95,
) -> Contrast:
    """Compare two treatments of the same pairs by a quantity that is never negative.

    Args:
        name: of the quantity.
        before: one number a pair.
        after: likewise, in the same order.
        better: which direction is an improvement.
        split: the data that it is of.
        most: what the quantity cannot exceed; intervals of its means are cut there, and at 0.
        level: nominal coverage of the intervals.

    Example:
        >>> found = contrast("length", [3.0, 5.0], [2.0, 3.0], "lower")
        >>> found.difference.value, found.improved, found.worsened
        (-1.5, 2, 0)
    """
    sign = 1 if better == "higher" else -1
    changes = [two - one for one, two in zip(before, after, strict=True)]  # nan where both are infinite
    return Contrast(
        name, split, better, tuple(before), tuple(after), _cut(mean_over(before, level), most),
        _cut(mean_over(after, level), most),
        mean_over(changes, level), sum(sign * x > 0 for x in changes), sum(sign * x < 0 for x in changes),
    )  # fmt: skip


def mean_over(values: Sequence[float], level: float = 0.95) -> Mean:
    """The mean of some numbers with Student's interval, mean ± t s / √n.

    Limits: the interval takes the numbers to be independent and about normal. Pairs that share a network are
    not independent, and the interval of their mean is then too narrow.

    Example:
        >>> found = mean_over([1.0, 2.0, 3.0])
        >>> found.value, round(found.low, 3), round(found.high, 3)
        (2.0, -0.484, 4.484)

    Source: Student 1908, "The probable error of a mean".
    """
    count = len(values)
    if not count or not all(map(math.isfinite, values)):
        return Mean(math.nan, math.nan, math.nan, count, level)
    centre = fmean(values)
    if count == 1:
        return Mean(centre, math.nan, math.nan, 1, level)
    margin = student_quantile(0.5 + level / 2, count - 1) * stdev(values) / math.sqrt(count)
    return Mean(centre, centre - margin, centre + margin, count, level)


def student_quantile(share: float, freedom: int) -> float:
    """The quantile of Student's t distribution, by bisection of its distribution function.

    Args:
        share: in [0.5, 1).
        freedom: degrees of freedom, at least 1.

    Example:
        >>> [round(student_quantile(0.975, n), 3) for n in (1, 2, 5, 30)]
        [12.706, 4.303, 2.571, 2.042]

    Source: Abramowitz & Stegun 1964, 26.7.3 and 26.7.4: finite sums in θ = arctan(t / √n).
    """
    if not 0.5 <= share < 1 or freedom < 1:
        raise SettingError(f"expected a share in [0.5, 1) and a freedom of 1 or more, got {share}, {freedom}")
    low, high = 0.0, math.pi / 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 2 * share - 1 else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """The probability that |t| lies below √n tan(angle)."""
    cosine, square = math.cos(angle), math.cos(angle) ** 2
    odd = freedom % 2 == 1
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= square * k / (k + 1)
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total


def _cut(mean: Mean, most: float) -> Mean:
    """The same mean, its interval within [0, most]."""
    if math.isnan(mean.low):
        return mean
    return replace(mean, low=max(0.0, mean.low), high=min(most, mean.high))

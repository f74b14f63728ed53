"""Means and variances that merge: exact over any division of the samples into batches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of samples, channel by channel.

    Attributes:
        count: how many samples.
        mean: shape (channels,), float64.
        deviation: Σ (x − mean)², shape (channels,), float64.
    """

    count: int
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of_batch(cls, count: int, mean: Tensor, unbiased_variance: Tensor) -> Moments:
        """The moments of one batch from its mean and its variance with divisor count − 1."""
        return cls(count, mean.double(), unbiased_variance.double() * (count - 1))

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of samples together.

        Source: Chan, Golub, LeVeque 1983, eq. 2.1: the cross term carries the variance between the sets.
        """
        count = self.count + other.count
        gap = other.mean - self.mean
        return Moments(
            count,
            self.mean + gap * (other.count / count),
            self.deviation + other.deviation + gap.square() * (self.count * other.count / count),
        )

    @property
    def variance(self) -> Tensor:
        """The unbiased variance over all samples, shape (channels,); zero for a single sample."""
        return self.deviation / max(self.count - 1, 1)

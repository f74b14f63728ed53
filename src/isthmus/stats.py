"""Means and variances that merge: exact over any division of the samples into batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
        mean = mean.to(torch.float64, copy=True)  # what is given may be a buffer that changes
        return cls(count, mean, unbiased_variance.double() * (count - 1))

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


@dataclass(frozen=True)
class CrossMoments:
    """How the units of two networks vary together over the same samples.

    Attributes:
        first: moments of the first network's units, shape (n,) each.
        second: moments of the second's, shape (m,) each.
        cross: Σ (x − mean x)(y − mean y)ᵀ, shape (n, m), float64.
    """

    first: Moments
    second: Moments
    cross: Tensor

    @classmethod
    def of_rows(cls, first: Tensor, second: Tensor) -> CrossMoments:
        """The moments of one batch, shapes (n, samples) and (m, samples)."""
        (one, centred_one), (two, centred_two) = (_centred(rows) for rows in (first, second))
        return cls(one, two, (centred_one @ centred_two.T).double())

    def merge(self, other: CrossMoments) -> CrossMoments:
        """The moments of both sets of samples together.

        Source: Chan, Golub, LeVeque 1983, eq. 2.1, for a product of two variables.
        """
        count = self.first.count + other.first.count
        share = self.first.count * other.first.count / count
        gaps = (other.first.mean - self.first.mean) * share, other.second.mean - self.second.mean
        return CrossMoments(
            self.first.merge(other.first),
            self.second.merge(other.second),
            self.cross + other.cross + torch.outer(*gaps),
        )

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, shape (n, m); zero for a single sample."""
        return self.cross / max(self.first.count - 1, 1)

    @property
    def correlation(self) -> Tensor:
        """Pearson's correlation, shape (n, m), in [-1, 1]; 0 where a unit does not vary."""
        scale = torch.outer(self.first.deviation.sqrt(), self.second.deviation.sqrt())
        return torch.where(scale > 0, self.cross / scale, 0).clamp(-1, 1)

    @property
    def product(self) -> Tensor:
        """The mean of x yᵀ, not centred, shape (n, m)."""
        return self.cross / self.first.count + torch.outer(self.first.mean, self.second.mean)


def _centred(rows: Tensor) -> tuple[Moments, Tensor]:
    """The moments of units given as rows, and the rows without their means."""
    mean = rows.mean(1, dtype=torch.float64)
    centred = rows - mean.to(rows.dtype)[:, None]
    deviation = centred.square().sum(1, dtype=torch.float64)
    return Moments(rows.shape[1], mean, deviation), centred

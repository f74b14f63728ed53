"""Interpolation of a smooth surface from scattered nodes, with an interval at every other place.

Universal kriging (a Gaussian process with a linear trend) with a Matérn 5/2 covariance. Its length and its
nugget are those under which every known value is best predicted from all others. The same leave-one-out
residuals, in the neighbourhood of a place, calibrate the interval there: a surface is not equally smooth
everywhere, and an interval from one global variance would be too wide in its plains and too narrow at its
edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_LENGTHS = (0.12, 0.2, 0.3, 0.45, 0.7, 1.1, 2.0, 4.0)
"""Correlation lengths to choose from, in units of the longer side."""
_NUGGETS = (1e-6, 1e-3, 1e-2)
"""Shares of the variance that are not smooth, to choose from."""
_NEIGHBOURHOOD = 0.12
"""How far the leave-one-out residuals count for an interval, in units of the longer side."""
_PRIOR = 0.3
"""The weight of the global variance beside the neighbourhood's, in residuals."""
WIDTH = 2.5
"""Half-widths in standard deviations: 99 % of a normal law, nearer 95 % of what losses do."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """Interpolated heights.

    Attributes:
        mean: shape (places,).
        half: half-width of the interval, shape (places,).
    """

    mean: Tensor
    half: Tensor


def krige(places: Tensor, heights: Tensor, wanted: Tensor) -> Predicted:
    """Predict heights at other places.

    Args:
        places: where the heights are known, shape (n, 2), in units of the longer side; four or more, not all
            on one line, no two the same.
        heights: shape (n,).
        wanted: where they are predicted, shape (m, 2).

    Returns:
        The prediction and its half-width at each wanted place.

    Limits: the interval is an estimate: it supposes that the surface between the places is as rough as it is
    at them. A basin narrower than the distance between places, and seen by none of them, is not foreseen.
    Cost: O(n³) for each of 24 settings, and O(m n²).

    Source: Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, eq. 2.41 to 2.42 (linear
    trend), 4.17 (Matérn 5/2), 5.10 to 5.12 (leave-one-out by the inverse).
    """
    spread = float(heights.max() - heights.min())
    if spread == 0:
        return Predicted(
            heights[:1].expand(len(wanted)).clone(), torch.zeros(len(wanted), dtype=heights.dtype)
        )
    trend = _trend(places)
    scaled = (heights - heights.mean()) / spread
    apart = torch.cdist(places, places)
    fit = max(
        (_Fit.of(apart, trend, scaled, length, nugget) for length in _LENGTHS for nugget in _NUGGETS),
        key=lambda found: found.score,
    )
    across = _matern(torch.cdist(wanted, places), fit.length)
    solved = across @ fit.inverse
    rest = _trend(wanted) - solved @ trend
    mean = _trend(wanted) @ fit.slope + solved @ (scaled - trend @ fit.slope)
    left = 1 - (solved * across).sum(dim=1)
    grown = (rest @ torch.linalg.pinv(fit.trended) * rest).sum(dim=1)
    variance = (left + grown).clamp_min(0)
    half = WIDTH * (variance * _local(places, wanted, fit.residuals, fit.variance)).sqrt()
    return Predicted(mean * spread + heights.mean(), half * spread)


@dataclass(frozen=True, eq=False)
class _Fit:
    """One choice of length and nugget, with its leave-one-out residuals in their own standard deviations."""

    length: float
    inverse: Tensor
    trended: Tensor
    slope: Tensor
    residuals: Tensor
    variance: float
    score: float

    @classmethod
    def of(cls, apart: Tensor, trend: Tensor, heights: Tensor, length: float, nugget: float) -> _Fit:
        """The fit, and the log probability of every height given all the others."""
        covariance = _matern(apart, length) + nugget * torch.eye(len(apart), dtype=apart.dtype)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
        trended = trend.T @ inverse @ trend
        slope = torch.linalg.pinv(trended) @ (trend.T @ inverse @ heights)
        kept = inverse - inverse @ trend @ torch.linalg.pinv(trended) @ trend.T @ inverse
        alone = kept.diagonal().clamp_min(1e-12)  # one over the variance of a height given the others
        residuals = (kept @ heights) / alone.sqrt()
        variance = max(float(residuals.square().mean()), 1e-24)
        score = 0.5 * float(alone.log().sum()) - 0.5 * len(heights) * math.log(variance)
        return cls(length, inverse, trended, slope, residuals, variance, score)


def _local(places: Tensor, wanted: Tensor, residuals: Tensor, variance: float) -> Tensor:
    """The variance around each wanted place: squared residuals, the near ones counting most."""
    weights = torch.exp(-0.5 * (torch.cdist(wanted, places) / _NEIGHBOURHOOD).square())
    return (weights @ residuals.square() + _PRIOR * variance) / (weights.sum(dim=1) + _PRIOR)


def _matern(distance: Tensor, length: float) -> Tensor:
    r = math.sqrt(5) * distance / length
    return (1 + r + r * r / 3) * torch.exp(-r)


def _trend(places: Tensor) -> Tensor:
    return torch.cat([torch.ones(len(places), 1, dtype=places.dtype), places], dim=1)

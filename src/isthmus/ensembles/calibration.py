"""Calibration: whether predictions made with confidence c are right a share c of the time.

Source: Guo et al. 2017, arXiv 1706.04599, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.errors import SettingError


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often predictions of some confidence are right: the points of a reliability diagram.

    Attributes:
        share: of all predictions, those in each bin of confidence, shape (bins,).
        confidence: their mean confidence, shape (bins,); nan in an empty bin.
        accuracy: the share of them that is right, shape (bins,); nan in an empty bin.
    """

    share: Tensor
    confidence: Tensor
    accuracy: Tensor


@dataclass(frozen=True, eq=False)
class Binned:
    """Predictions sorted into bins of confidence.

    Attributes:
        gap: of each example, in each bin, what is right minus the confidence, shape (examples, bins). The
            calibration error is Σ_bins |mean over examples|.
        sums: in each bin the sums of weight, of confidence and of what is right, shape (bins, 3), float64.
    """

    gap: Tensor
    sums: Tensor


def binned(confidence: Tensor, right: Tensor, counted: Tensor, bins: int) -> Binned:
    """Sort predictions by their confidence.

    Every example has the weight one; the positions that count share it evenly.

    Args:
        confidence: probabilities of the predicted classes, shape (examples, positions), float64.
        right: whether each prediction is right, shape (examples, positions).
        counted: whether a position counts, shape (examples, positions).
        bins: of equal width; the m-th is ((m − 1)/bins, m/bins].
    """
    weight = counted.double() / counted.sum(dim=1, keepdim=True).clamp_min(1)
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    where = torch.bucketize(confidence.contiguous(), edges)
    gap = torch.zeros(len(right), bins, dtype=torch.float64, device=confidence.device)
    gap.scatter_add_(1, where, weight * (right.double() - confidence))
    parts = torch.stack([weight, weight * confidence, weight * right.double()], dim=-1).flatten(0, 1)
    sums = parts.new_zeros(bins, 3).index_add_(0, where.flatten(), parts)
    return Binned(gap, sums)


def reliability(sums: Tensor) -> Reliability:
    """The diagram's points from the sums of `Binned`."""
    weight = sums[:, 0]
    return Reliability(weight / weight.sum(), sums[:, 1] / weight, sums[:, 2] / weight)


def calibration_error(probabilities: Tensor, target: Tensor, bins: int = 15) -> float:
    """The expected calibration error of the predicted class.

    Σ_m n_m/n |accuracy_m − mean confidence_m| over bins of equal width, ((m − 1)/bins, m/bins].

    Args:
        probabilities: of every class, shape (examples, classes).
        target: the right classes, shape (examples,).
        bins: how many.

    Returns:
        A number in [0, 1].

    Raises:
        SettingError: shapes that do not fit, or fewer than one bin.

    Example:
        >>> said = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.9, 0.1]]
        >>> sure = torch.tensor(said, dtype=torch.float64)
        >>> round(calibration_error(sure, torch.tensor([0, 0, 1, 1]), bins=5), 6)
        0.325

    Limits: an absolute value of noise is above zero, so few examples in a bin raise the error; a perfectly
    calibrated model does not get 0. It sees the predicted class alone.

    Source: Guo et al. 2017, arXiv 1706.04599, eq. 3; Roelofs et al. 2022, arXiv 2012.08668 (the bias).
    """
    if probabilities.dim() != 2 or target.shape != probabilities.shape[:1] or bins < 1:
        raise SettingError(
            "expected probabilities of shape (examples, classes), targets of shape (examples,) and at least "
            f"1 bin, got {list(probabilities.shape)}, {list(target.shape)} and {bins}"
        )
    confidence, chosen = probabilities.double().max(dim=1, keepdim=True)
    found = binned(confidence, chosen == target[:, None], torch.ones_like(chosen, dtype=torch.bool), bins)
    return float(found.gap.mean(dim=0).abs().sum())

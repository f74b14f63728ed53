"""How good one set of weights is, with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.landscape import AbstractLandscape, Evaluation
from isthmus.landscape.abstract import SPLITS
from isthmus.progress import Progress
from isthmus.weights import Weights


@dataclass(frozen=True)
class Score:
    """Loss and error of one set of weights on one split.

    Attributes:
        split: "train" or "test".
        examples: how many examples.
        loss: mean loss, in the loss's unit (nats for cross-entropy).
        loss_low: lower end of its interval.
        loss_high: upper end of its interval.
        error: error rate, in [0, 1].
        error_low: lower end of its interval.
        error_high: upper end of its interval.
        level: coverage of both intervals.
        batchnorm: where the batch-norm statistics came from.
    """

    split: str
    examples: int
    loss: float
    loss_low: float
    loss_high: float
    error: float
    error_low: float
    error_high: float
    level: float
    batchnorm: str

    @property
    def accuracy(self) -> float:
        """One minus the error rate."""
        return 1.0 - self.error


def scores(
    weights: Weights, landscape: AbstractLandscape, progress: Progress | None = None
) -> tuple[Score, ...]:
    """The scores of one set of weights on train and test."""
    return tuple(score(landscape.evaluate([weights], split, progress=progress)) for split in SPLITS)


def score(evaluation: Evaluation, point: int = 0, level: float = 0.95) -> Score:
    """The score of one point of an evaluation.

    The loss's interval is the normal one of a mean. The error's is Wilson's where every example is simply
    right or wrong (it stays sensible at 0 errors), and the normal one otherwise.

    Source: Wilson 1927, eq. 5.
    """
    loss, error = evaluation.loss[point].double(), evaluation.error[point].double()
    z = float(torch.special.ndtri(torch.tensor(0.5 + level / 2, dtype=torch.float64)))
    low, high = _normal(loss, z)
    binary = bool(((error == 0) | (error == 1)).all())
    error_low, error_high = _wilson(error, z) if binary else _normal(error, z)
    return Score(
        evaluation.split, evaluation.examples, float(loss.mean()), low, high,
        float(error.mean()), error_low, error_high, level, evaluation.batchnorm,
    )  # fmt: skip


def _normal(values: Tensor, z: float) -> tuple[float, float]:
    mean = float(values.mean())
    margin = z * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return mean - margin, mean + margin


def _wilson(values: Tensor, z: float) -> tuple[float, float]:
    count, rate = len(values), float(values.mean())
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    margin = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return max(0.0, centre - margin), min(1.0, centre + margin)

"""Profiles along a path, barriers with intervals, and verdicts.

A barrier is how far the loss (or error) rises along a path above what its ends have. Every barrier here
says what it is measured above, on which split, on how many examples, and within which interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.fanout import Fanout
from isthmus.landscape import AbstractLandscape, Evaluation
from isthmus.path import AbstractPath
from isthmus.path.arc import positions_at_shares
from isthmus.progress import Progress
from isthmus.seeds import seeded

_RESAMPLE_BLOCK = 1 << 22
"""Resampled counts held at a time (numbers)."""

Quantity = Literal["loss", "error"]
Above = Literal["mean", "chord"]


@dataclass(frozen=True, eq=False, repr=False)
class Profile:
    """Loss and error of every example at points along a path.

    Attributes:
        kind: of the path: "segment", "chain", "bezier".
        t: positions, shape (points,), ascending, with 0 and 1 among them.
        distance: the arc length from the start to each position, shape (points,).
        endpoint_distance: the straight distance between the ends.
        evaluation: per-example loss and error, split and batch-norm policy.
    """

    kind: str
    t: Tensor
    distance: Tensor
    endpoint_distance: float
    evaluation: Evaluation

    def __repr__(self) -> str:
        return (
            f"Profile({self.kind}, {len(self.t)} points × {self.evaluation.examples} {self.split} examples, "
            f"loss {self.loss.min():.4g} to {self.loss.max():.4g}, "
            f"error {self.error.min():.2%} to {self.error.max():.2%})"
        )

    @property
    def split(self) -> str:
        """The data split that was evaluated."""
        return self.evaluation.split

    @property
    def loss(self) -> Tensor:
        """The mean loss at each position, shape (points,)."""
        return self.evaluation.mean_loss

    @property
    def error(self) -> Tensor:
        """The error rate at each position, shape (points,), in [0, 1]."""
        return self.evaluation.mean_error

    @property
    def length(self) -> float:
        """The arc length of the path."""
        return float(self.distance[-1])

    def arc_mean(self, of: Quantity = "loss") -> float:
        """The mean weighted by arc length, ∫ L dl / ∫ dl, by the trapezoid rule."""
        values = self.loss if of == "loss" else self.error
        along = self.distance if self.length > 0 else self.t
        return float(torch.trapezoid(values, along) / (along[-1] - along[0]))

    def band(self, of: Quantity = "loss", level: float = 0.95) -> tuple[Tensor, Tensor]:
        """A normal-approximation interval of the mean at each position: (low, high), each of shape (points,).

        For each point by itself; the points share their examples, so a *difference* along the path is known
        more closely than the bands suggest: `barrier` uses that.
        """
        each = (self.evaluation.loss if of == "loss" else self.evaluation.error).double()
        half = torch.special.ndtri(torch.tensor(0.5 + level / 2, dtype=torch.float64))
        spread = each.std(dim=1) if each.shape[1] > 1 else torch.zeros(len(each), dtype=torch.float64)
        margin = half * spread / math.sqrt(each.shape[1])
        return each.mean(dim=1) - margin, each.mean(dim=1) + margin


@dataclass(frozen=True)
class Barrier:
    """How far a path rises above its ends.

    Attributes:
        height: the barrier, in nats (loss) or as a share of examples (error).
        low: lower end of its interval.
        high: upper end of its interval.
        at: the position t of the maximum.
        of: "loss" or "error".
        above: "mean" of the two ends, or "chord", the line between them.
        split: "train" or "test".
        examples: how many examples it rests on.
        points: how many positions were evaluated.
        level: the interval's coverage.
        kind: the path's kind.
    """

    height: float
    low: float
    high: float
    at: float
    of: str
    above: str
    split: str
    examples: int
    points: int
    level: float
    kind: str

    def verdict(self, tolerance: float = 0.02) -> Verdict:
        """What the interval says at a tolerance above 0: see `Verdict`."""
        if not tolerance > 0:
            raise SettingError(f"the tolerance must be above 0, got {tolerance}")
        if math.isnan(self.low) or math.isnan(self.high):
            return Verdict.UNDECIDED
        if self.high < tolerance:
            return Verdict.CONNECTED
        return Verdict.BARRIER if self.low > tolerance else Verdict.UNDECIDED


class Verdict(Enum):
    """What the data say about a barrier at a tolerance (Frankle et al. 2020: error, 2 %).

    A verdict is about these examples and this tolerance. It says nothing about generalisation.
    """

    CONNECTED = "connected: the barrier's interval lies below the tolerance"
    BARRIER = "a barrier: its interval lies above the tolerance"
    UNDECIDED = "undecided: the interval contains the tolerance; more examples would narrow it"


def profile(
    path: AbstractPath,
    landscape: AbstractLandscape,
    points: int = 25,
    split: str = "test",
    *,
    refine: int = 2,
    spacing: Literal["uniform", "arc"] = "uniform",
    fanout: Fanout | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Evaluate a path at evenly spaced positions, then more closely around its highest one.

    Args:
        path: any path of one dimension.
        landscape: where to evaluate.
        points: positions of the even grid, the ends included; at least 3.
        split: "train" or "test".
        refine: rounds of refinement; each halves the two intervals that meet at the highest mean loss, so
            adds up to two points.
        spacing: even in t ("uniform") or in arc length ("arc").
        fanout: spreads the points.
        progress: shows how many points are done; silent by default.

    Returns:
        A profile of `points` + up to 2 `refine` positions.

    Raises:
        SettingError: fewer than three points, or a negative number of rounds.

    Cost: each point costs one pass over the split, and under "recalibrate" one over the recalibration
    examples besides.

    Source: Ainsworth et al. 2023 (25 points); Garipov et al. 2018 (61, uniform in t).
    """
    if points < 3:
        raise SettingError(f"a profile needs at least 3 points (the ends and one between), got {points}")
    if refine < 0:
        raise SettingError(f"the rounds of refinement must be 0 or more, got {refine}")
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    if spacing == "arc":
        t = _even_in_arc_length(path, points)
    found = landscape.evaluate(path.at(t), split, fanout, progress)
    for _ in range(refine):
        fresh = _around_maximum(t, found.mean_loss)
        t, found = _insert(t, found, fresh, landscape.evaluate(path.at(fresh), split, fanout))
    return Profile(path.kind, t, path.distances(t), path.endpoint_distance, found)


def barrier(
    profile: Profile,
    above: Above = "mean",
    *,
    of: Quantity = "loss",
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Barrier:
    """The height of a path above its ends, with a paired-bootstrap interval.

    above="mean":  max_t L(θ(t)) − ½ (L(θ(0)) + L(θ(1)))
    above="chord": max_t [L(θ(t)) − (1 − t) L(θ(0)) − t L(θ(1))]

    The examples are resampled, the same resample for all points (they are paired), and the maximum is taken
    anew in each. A maximum over noisy points is biased upward, and a resample's maximum twice over. So the
    interval is the union of two: the percentile one, [q_low, q_high] of the resamples, which keeps the bias,
    and the basic one, reflected at the height, [2h − q_high, 2h − q_low], which takes it out; cut off at 0,
    for the ends are on the grid and no barrier is negative. It errs towards "undecided": a verdict of
    "connected" has to hold with the bias, one of "barrier" without it.

    Limits: the height keeps the upward bias, the more the more points and the fewer examples; how often the
    interval holds the truth where that is hardest is measured by `tests/test_barriers.py`. Where no example
    tells any two points apart (error 0 everywhere, say) the interval has no width, and only `examples` says
    how much that is worth. An infinite loss inside the path gives an infinite barrier; at an end, one that
    is not a number.

    Args:
        profile: from `profile`.
        above: what the height is measured above.
        of: "loss" or "error".
        level: nominal coverage of each of the two intervals, in (0, 1).
        resamples: bootstrap resamples.
        seed: of the resampling.

    Source: Frankle et al. 2020, arXiv 1912.05671, section 2 (mean); Entezari et al. 2022, arXiv 2110.06296,
    definition 2.1 (chord); Davison & Hinkley 1997, Bootstrap Methods, section 5.2 (basic interval).
    """
    if above not in ("mean", "chord") or of not in ("loss", "error"):
        raise SettingError(f"expected above='mean'|'chord' and of='loss'|'error', got {above!r} and {of!r}")
    if not 0 < level < 1 or resamples < 2:
        raise SettingError(f"expected 0 < level < 1 and at least 2 resamples, got {level} and {resamples}")
    each = profile.evaluation.loss if of == "loss" else profile.evaluation.error
    each = each.double().nan_to_num(nan=math.inf, posinf=math.inf)
    means = each.mean(dim=1)
    rises = _rises(means[None], profile.t, above)[0]
    height, where = rises.max(dim=0)
    draws = _rises(_resampled_means(each, resamples, seed), profile.t, above).max(dim=1).values
    tail = (1 - level) / 2
    low, high = _interval(float(height), _quantile(draws, tail), _quantile(draws, 1 - tail))
    return Barrier(
        float(height), low, high, float(profile.t[where]), of, above, profile.split,
        profile.evaluation.examples, len(profile.t), level, profile.kind,
    )  # fmt: skip


def _rises(means: Tensor, t: Tensor, above: Above) -> Tensor:
    """Heights above the ends' mean or chord: from (…, points) to (…, points)."""
    first, last = means[:, :1], means[:, -1:]
    floor = (first + last) / 2 if above == "mean" else (1 - t) * first + t * last
    return means - floor


def _resampled_means(each: Tensor, resamples: int, seed: int) -> Tensor:
    """Means of paired bootstrap resamples: from (points, examples) to (resamples, points).

    A resample is a vector of counts, so that all means are one matrix product. A point with an infinite
    loss somewhere counts as infinite in every resample.
    """
    count = each.shape[1]
    generator = seeded(seed, "bootstrap")
    infinite = each.isinf().any(dim=1)
    finite = each.masked_fill(infinite[:, None], 0.0).T.contiguous()
    rows = max(1, _RESAMPLE_BLOCK // count)
    blocks = []
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        draws = torch.randint(count, (size, count), generator=generator)
        draws += torch.arange(size)[:, None] * count
        counts = torch.bincount(draws.view(-1), minlength=size * count).view(size, count)
        blocks.append(counts.double() @ finite / count)
    return torch.cat(blocks).masked_fill(infinite, math.inf)


def _interval(height: float, low: float, high: float) -> tuple[float, float]:
    """The union of the percentile and the basic interval of a height that cannot be negative.

    Args:
        height: the estimate.
        low: lower quantile of the resamples' heights.
        high: upper quantile.
    """
    if not math.isfinite(height):
        return height, height
    return max(0.0, min(low, 2 * height - high)), max(high, 2 * height - low)


def _quantile(draws: Tensor, q: float) -> float:
    """A quantile without interpolation, so that infinities stay infinities."""
    return float(draws.quantile(q, interpolation="nearest"))


def _around_maximum(t: Tensor, loss: Tensor) -> Tensor:
    """The middles of the intervals on both sides of the highest position."""
    top = int(loss.nan_to_num(nan=math.inf, posinf=math.inf).argmax())
    sides = [(top - 1, top), (top, top + 1)]
    return torch.stack([(t[i] + t[j]) / 2 for i, j in sides if i >= 0 and j < len(t)])


def _insert(t: Tensor, found: Evaluation, fresh: Tensor, more: Evaluation) -> tuple[Tensor, Evaluation]:
    """Both sets of positions and their evaluations, in ascending order."""
    every, order = torch.cat([t, fresh]).sort()
    loss = torch.cat([found.loss, more.loss])[order]
    error = torch.cat([found.error, more.error])[order]
    return every, Evaluation(loss, error, found.split, found.batchnorm)


def _even_in_arc_length(path: AbstractPath, points: int) -> Tensor:
    """Positions that cut the path into pieces of equal length."""
    grid = torch.linspace(0, 1, 40 * points + 1, dtype=torch.float64)
    shares = torch.linspace(0, 1, points, dtype=torch.float64)
    t = positions_at_shares(grid, path.distances(grid), shares)
    t[0], t[-1] = 0, 1
    return t

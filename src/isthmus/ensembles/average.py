"""Ensembles: the average of the predictions of several points, against each of them and against their mean.

Several models of low loss can be used together in two ways: average what they *say* (an ensemble; it costs
one forward pass a model), or average their *weights* (one forward pass in all, if the land between them is
low). This module measures both, with the single models beside them, on the same examples.

Source: Garipov et al. 2018, arXiv 1802.10026, section 4 (points found along paths of low loss); Benton et al.
2021, arXiv 2102.13042, section 6 (points of a simplex).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor

from isthmus.ensembles.calibration import reliability
from isthmus.ensembles.mixtures import Averaged, Tally, as_rows, predicted, resampled_means
from isthmus.ensembles.records import AVERAGE, BEST, ENSEMBLE, SINGLE, Ensemble, Estimate, Gain, Quality
from isthmus.errors import SettingError
from isthmus.fanout import Fanout
from isthmus.landscape import AbstractLandscape, Evaluation, Landscape, Task
from isthmus.landscape.abstract import SPLITS, require_split, serial
from isthmus.path import AbstractPath, PathPoints, Plane
from isthmus.path.arc import positions_at_shares
from isthmus.path.simplex import AbstractRegion
from isthmus.progress import Progress, Silent
from isthmus.scores import score
from isthmus.weights import Weights, combine


def ensemble(
    models: AbstractPath | Sequence[Weights],
    landscape: AbstractLandscape,
    *,
    points: int = 5,
    spacing: Literal["uniform", "arc"] = "uniform",
    splits: Sequence[str] = SPLITS,
    names: Sequence[str] | None = None,
    averaged: Averaged | None = None,
    bins: int = 15,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    fanout: Fanout | None = None,
    progress: Progress | None = None,
) -> Ensemble:
    """Average the predictions of several points, and compare that with each of them and with their mean.

    The ensemble of members θ_1 … θ_n gives the class probabilities p̄(y|x) = 1/n Σ_m softmax(f(x; θ_m))_y; its
    loss is −log p̄(y|x), at most the mean of the members' losses (Jensen). For sequences this is done at every
    position. A task with a loss of its own must say which average suits it.

    The expected calibration error is that of the predicted class's confidence c, over `bins` bins of equal
    width, ((m − 1)/bins, m/bins]:  Σ_m n_m/n |accuracy_m − mean confidence_m|. Every example counts as one;
    the positions of a sequence share it evenly, so that the accuracies add up to one minus the error.

    A predictor's loss and error have the intervals of `isthmus.scores.score`. Those of differences resample
    the examples, the same resample for all predictors (they are paired), by percentiles. A calibration error
    is a sum of absolute values: noise in the bins raises it, in a small sample by much, and in a resample
    twice over. So its interval (and that of its differences) is the union of the percentile interval, which
    keeps that bias, and the basic one, which reflects it; that of the error itself is cut off at 0.

    Args:
        models: weights of the task's layout; or a path (segment, curve, chain), of which `points` points are
            taken, the ends included; or a simplex, from which `points` points are drawn; or any lazy sequence
            of points, such as `path.at(t)`.
        landscape: the network's, with the batch-norm policy that suits the members: "keep" for trained
            models, "recalibrate" for points of a path.
        points: how many points of a path or a simplex; at least 1.
        spacing: of points on a path: even in t ("uniform") or in arc length ("arc").
        splits: "train" and "test", or one of them.
        names: of the members; by default "member 1" and so on, and on a path "t = 0.25".
        averaged: "probabilities" (needs class scores as outputs and whole numbers as targets; the default
            where the task's loss is the default) or "outputs" (the plain mean of output tensors, judged by
            the task's own loss and error: for regression).
        bins: of confidence.
        level: nominal coverage of the intervals, in (0, 1).
        resamples: bootstrap resamples.
        seed: of the resampling, and of the points drawn from a simplex.
        fanout: spreads the examples; each piece measures batch-norm statistics by itself.
        progress: shows how many batches are done; silent by default.

    Returns:
        An `Ensemble`.

    Raises:
        SettingError: a setting out of range, no members, or a landscape without predictions.
        TaskError: the task's outputs and targets are not such as can be averaged.

    Example:
        >>> import torch
        >>> x = torch.tensor([[2.0], [-1.0], [1.0], [-2.0]])
        >>> data = (x, torch.tensor([1, 0, 1, 0]))
        >>> task = Task(model=lambda: torch.nn.Linear(1, 2, bias=False), train=data, test=data)
        >>> good = Weights.from_state_dict({"weight": torch.tensor([[-3.0], [3.0]])})
        >>> found = ensemble([good, good * -0.1], Landscape(task), splits=["test"])
        >>> found.quality("member 2").error.value, found.quality().error.value, found.disagreement["test"]
        (1.0, 0.0, 1.0)

    Limits: the best single member is chosen on the very examples that it is judged on, so it looks better
    than it is, and the ensemble's gain over it is understated. Where no example tells two predictors apart
    (no errors at all, say), an interval has no width, and only `examples` says how much that is worth.
    Memory: one member's outputs on some batches (64 MiB of them), three times that for sums, and `bins` + 2
    numbers for each example and predictor.

    Cost: one pass over each split a member, and one for the weight average; the statistics of batch norm
    besides.

    Source: Garipov et al. 2018, arXiv 1802.10026, section 4; Guo et al. 2017, arXiv 1706.04599, eq. 3 (15
    bins); Roelofs et al. 2022, arXiv 2012.08668 (bias of the calibration error).
    """
    if not isinstance(landscape, Landscape):
        raise SettingError(
            "an ensemble averages a network's predictions: expected a Landscape of a task, got "
            f"{type(landscape).__name__}"
        )
    if bins < 1 or not 0 < level < 1 or resamples < 2:
        raise SettingError(
            "expected at least 1 bin, 0 < level < 1 and at least 2 resamples, got "
            f"{bins}, {level} and {resamples}"
        )
    asked = tuple(dict.fromkeys(require_split(split) for split in splits))
    if not asked:
        raise SettingError("there is no split to measure: give 'train', 'test' or both")
    members, t = _members(models, points, spacing, seed)
    titles = _titles(names, members, t)
    way = average_of(landscape.task, averaged)
    mean = weight_average(members, landscape)
    tallies = {
        split: _both(members, mean, landscape, split, way, bins, serial(fanout), progress or Silent())
        for split in asked
    }
    return _record(tallies, titles, t, landscape.policy, way, level, resamples, seed, bins)


def weight_average(points: Sequence[Weights], landscape: Landscape) -> Weights:
    """The mean of the points' weights, as a model of its own: batch-norm statistics measured anew.

    Args:
        points: weights of the task's layout, or `path.at(t)`.
        landscape: measures the statistics, whatever its own policy.

    Source: Izmailov et al. 2018, arXiv 1803.05407, section 3.2 (the statistics).
    """
    if isinstance(points, PathPoints):
        mean = combine(points.coefficients.mean(dim=0).tolist(), points.path.controls)
    else:
        mean = combine([1 / len(points)], [points[0]])
        for index in range(1, len(points)):
            mean = mean + points[index] * (1 / len(points))
    return replace(landscape, batchnorm="recalibrate").settled([mean])


def _members(
    models: AbstractPath | Sequence[Weights], points: int, spacing: str, seed: int
) -> tuple[Sequence[Weights], Tensor]:
    """The members, made when they are asked for where they lie on a path, and their positions there."""
    nowhere = torch.zeros(0, dtype=torch.float64)
    if points < 1 or spacing not in ("uniform", "arc"):
        raise SettingError(
            f"expected at least 1 point, spaced 'uniform' or 'arc', got {points} and {spacing!r}"
        )
    if isinstance(models, AbstractRegion):
        return models.sample(points, seed), nowhere
    if isinstance(models, Plane):
        raise SettingError(
            "a plane has no positions of its own: give the points, plane.at(positions) with shape (n, 2)"
        )
    if isinstance(models, AbstractPath):
        t = _even(models, points, spacing)
        return models.at(t), t
    if isinstance(cast(object, models), Mapping):
        raise SettingError("ensemble takes a list of models or a path; for one model, give [weights]")
    if not len(models):
        raise SettingError("there are no models to average; give at least one")
    return models, models.t if isinstance(models, PathPoints) and models.t.dim() == 1 else nowhere


def _even(path: AbstractPath, points: int, spacing: str) -> Tensor:
    """Positions even in t, or such that they cut the path into pieces of equal length."""
    t = torch.linspace(0, 1, points, dtype=torch.float64) if points > 1 else torch.tensor([0.5]).double()
    if spacing == "uniform":
        return t
    grid = torch.linspace(0, 1, 40 * points + 1, dtype=torch.float64)
    return positions_at_shares(grid, path.distances(grid), t).clamp(0, 1)


def _titles(names: Sequence[str] | None, members: Sequence[Weights], t: Tensor) -> tuple[str, ...]:
    """What the members are called."""
    if names is None:
        if len(t):
            return tuple(f"t = {position:.3g}" for position in t.tolist())
        return tuple(f"member {number}" for number in range(1, len(members) + 1))
    taken = {ENSEMBLE, AVERAGE, SINGLE, BEST}
    if len(names) != len(members) or len(set(names)) != len(names) or taken & set(names):
        raise SettingError(
            f"expected {len(members)} different names of members, none of them {' or '.join(sorted(taken))}, "
            f"got {', '.join(names)}"
        )
    return tuple(names)


def average_of(task: Task, averaged: str | None = None) -> Averaged:
    """What is averaged: what was asked for, or what the task's default loss means.

    Raises:
        SettingError: the task has a loss of its own and nothing was asked for, or something unknown was.
    """
    if averaged is None and task.loss is not None:
        raise SettingError(
            f"the task {task.name} has a loss of its own, so it is not known what its outputs mean: say "
            "averaged='probabilities' if they are class scores (logits), or averaged='outputs' to average "
            "the outputs themselves (regression)"
        )
    if averaged not in (None, "probabilities", "outputs"):
        raise SettingError(f"expected averaged='probabilities' or 'outputs', got {averaged!r}")
    return "outputs" if averaged == "outputs" else "probabilities"


def _both(
    members: Sequence[Weights],
    mean: Weights,
    landscape: Landscape,
    split: str,
    way: Averaged,
    bins: int,
    fanout: Fanout,
    progress: Progress,
) -> Tally:
    """Every member, then the ensemble, then the weight average, on a split."""
    workers = max(1, fanout.workers)
    shown = progress if workers == 1 else Silent()
    saved = replace(landscape, batchnorm="keep")

    def measured(number: int) -> list[Tally]:
        share = (number, workers)
        many = predicted(landscape, members, split, share, way, bins, shown)
        single = predicted(saved, [mean], split, share, way, bins, shown)
        return [a.with_first_of(b) for a, b in zip(many, single, strict=True)]

    pieces = fanout.map(measured, range(workers))
    total = sum(map(len, pieces))
    return Tally.joined([pieces[at % workers][at // workers] for at in range(total)])


def _record(
    tallies: Mapping[str, Tally],
    names: tuple[str, ...],
    t: Tensor,
    policy: str,
    way: Averaged,
    level: float,
    resamples: int,
    seed: int,
    bins: int,
) -> Ensemble:
    """What the tallies say."""
    members = len(names)
    judged = tallies.get("test", next(iter(tallies.values())))
    loss = judged.loss[:members].mean(dim=1).nan_to_num(nan=math.inf, posinf=math.inf)
    best = int(loss.argmin())
    qualities, gains = list[Quality](), list[Gain]()
    for split, tally in tallies.items():
        view = _View.of(tally, members, split, level, resamples, seed)
        qualities += view.qualities(names)
        gains += [view.gain(over, best) for over in (BEST, SINGLE, AVERAGE)]
    apart = {split: float(tally.apart.mean()) for split, tally in tallies.items()}
    return Ensemble(names, t, best, tuple(qualities), tuple(gains), apart, way, level, bins, policy)


@dataclass(frozen=True, eq=False)
class _View:
    """Estimates on one split: rows are the members, the ensemble, the weight average and the mean member.

    Attributes:
        tally: what they rest on.
        members: how many.
        values: loss, error and calibration error on the examples as they are, shape (rows, 3).
        draws: the same of every resample, shape (resamples, rows, 3).
        split: which data.
        level: coverage of the intervals.
    """

    tally: Tally
    members: int
    values: Tensor
    draws: Tensor
    split: str
    level: float

    @classmethod
    def of(cls, tally: Tally, members: int, split: str, level: float, resamples: int, seed: int) -> _View:
        """The view of a tally, resampled."""
        plain = torch.stack([tally.row(row).mean(dim=0) for row in range(len(tally.loss))])
        draws = resampled_means(tally, resamples, seed)
        return cls(tally, members, as_rows(plain, members), as_rows(draws, members), split, level)

    @property
    def calibrated(self) -> bool:
        """Whether there is a calibration error."""
        return len(self.tally.gap) > 0

    def qualities(self, names: tuple[str, ...]) -> Iterator[Quality]:
        """The ensemble, the weight average, the mean member, and every member."""
        n = self.members
        order = [(ENSEMBLE, n), (AVERAGE, n + 1), (SINGLE, n + 2), *((x, i) for i, x in enumerate(names))]
        evaluation = Evaluation(_with_mean(self.tally.loss, n), _with_mean(self.tally.error, n), self.split)
        for name, row in order:
            one = score(evaluation, row, self.level)
            loss = Estimate(one.loss, one.loss_low, one.loss_high)
            error = Estimate(one.error, one.error_low, one.error_high)
            spread = self._spread(self.values[row, 2], self.draws[:, row, 2], least=0.0)
            curve = reliability(self.tally.curve[row]) if self.calibrated and row < n + 2 else None
            yield Quality(name, self.split, self.tally.loss.shape[1], loss, error, spread, curve)

    def gain(self, over: str, best: int) -> Gain:
        """What the ensemble gains over a row."""
        row = {BEST: best, SINGLE: self.members + 2, AVERAGE: self.members + 1}[over]
        values = self.values[row] - self.values[self.members]
        draws = self.draws[:, row] - self.draws[:, self.members]
        loss, error = (self._estimate(values[of], draws[:, of]) for of in (0, 1))
        return Gain(over, self.split, loss, error, self._spread(values[2], draws[:, 2], least=-math.inf))

    def _estimate(self, value: Tensor, draws: Tensor) -> Estimate:
        """A mean, with the percentile interval; none where something is not finite."""
        if not bool(draws.isfinite().all()):
            return Estimate(float(value), float(value), float(value))
        tail = (1 - self.level) / 2
        return Estimate(float(value), float(draws.quantile(tail)), float(draws.quantile(1 - tail)))

    def _spread(self, value: Tensor, draws: Tensor, least: float) -> Estimate | None:
        """A calibration error or a difference of two: the union of the percentile and the basic interval."""
        if not self.calibrated:
            return None
        found = self._estimate(value, draws)
        low, high = 2 * found.value - found.high, 2 * found.value - found.low
        return Estimate(found.value, max(least, min(found.low, low)), max(found.high, high))


def _with_mean(each: Tensor, members: int) -> Tensor:
    """Values of every predictor on every example, and the mean of the members' as one more."""
    return torch.cat([each, each[:members].mean(dim=0, keepdim=True)])

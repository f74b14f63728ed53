"""The records of curves before and after alignment, and how one path becomes such a record.

They hold means along paths and no losses of single examples, so that a study of many pairs stays small; the
intervals that need the examples are computed here, while the examples are at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.barriers import Barrier, Profile, barrier, profile
from isthmus.experiments.pairing import Better, Contrast, contrast
from isthmus.experiments.records import End, Fit, Matching
from isthmus.experiments.watching import Watch
from isthmus.landscape import AbstractLandscape
from isthmus.landscape.abstract import SPLITS
from isthmus.path import AbstractPath
from isthmus.progress import Progress
from isthmus.seeds import seeded

_LEVEL, _RESAMPLES = 0.95, 1000
_BLOCK = 1 << 22
"""Resampled counts held at a time (numbers)."""


LENGTH, RATIO = "length", "length / straight line"
MAXIMUM, MINIMUM, MEAN = "maximum loss", "minimum accuracy", "mean loss"
STEPS, STEPS_TO_END = "steps to the level", "steps to the unaligned fit's lowest"
LINE_LOSS, LINE_ERROR = "loss barrier of the line", "error barrier of the line"


@dataclass(frozen=True)
class Extreme:
    """The highest loss or the lowest accuracy on a path, among the positions evaluated.

    Attributes:
        value: the mean over the examples, at that position.
        low: lower end of its interval.
        high: upper end of its interval.
        at: the position t.
    """

    value: float
    low: float
    high: float
    at: float


@dataclass(frozen=True, eq=False)
class Along:
    """One path on one split.

    Attributes:
        split: "train" or "test".
        examples: how many.
        batchnorm: the policy in force, or "none".
        t: positions, shape (points,), ascending.
        loss: mean loss at each.
        error: error rate at each, in [0, 1].
        maximum_loss: with its interval.
        minimum_accuracy: with its interval, in [0, 1].
        mean_loss: weighted by arc length, ∫ L dl / ∫ dl.
        barriers: of loss and of error, above the mean of the ends.
    """

    split: str
    examples: int
    batchnorm: str
    t: Tensor
    loss: Tensor
    error: Tensor
    maximum_loss: Extreme
    minimum_accuracy: Extreme
    mean_loss: float
    barriers: tuple[Barrier, ...]

    def barrier(self, of: str) -> Barrier:
        """The barrier of loss or error."""
        return next(found for found in self.barriers if found.of == of)


@dataclass(frozen=True, eq=False)
class Measured:
    """One path, measured on both splits.

    Attributes:
        kind: "segment", "bezier" or "chain".
        points: of the even grid that every path has; more lie around the highest loss.
        length: its arc length.
        endpoint_distance: the straight distance between its ends.
        splits: train and test.
    """

    kind: str
    points: int
    length: float
    endpoint_distance: float
    splits: tuple[Along, ...]

    def on(self, split: str) -> Along:
        """The path on one split."""
        return next(found for found in self.splits if found.split == split)


@dataclass(frozen=True, eq=False)
class Treated:
    """A pair as it is, or after alignment.

    Attributes:
        line: the straight line between the ends.
        curve: the fitted curve; None if the fit diverged.
        fit: how it was fitted.
        watch: its highest training loss while it was.
    """

    line: Measured
    curve: Measured | None
    fit: Fit
    watch: Watch


@dataclass(frozen=True, eq=False)
class CurvePair:
    """Two networks, with the curves between them.

    Attributes:
        first: the name of the network that stays.
        second: of the one that is aligned to it.
        matching: how.
        unaligned: lines and curves to the second network as it is.
        aligned: lines and curves to the aligned one.
    """

    first: str
    second: str
    matching: Matching
    unaligned: Treated
    aligned: Treated

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.first} – {self.second}"

    @property
    def fitted(self) -> bool:
        """Whether both fits came to their end."""
        return self.unaligned.curve is not None and self.aligned.curve is not None


@dataclass(frozen=True, eq=False, repr=False)
class CurveComparison:
    """Curves before and after alignment, over several pairs.

    Attributes:
        task: the task's name.
        note: what the task says of its data.
        method: of the matching.
        multiple: the level that steps are counted to, over the loss of a pair's higher end.
        ends: the networks, as saved.
        pairs: one a pair.
        contrasts: every quantity, unaligned against aligned, over the pairs whose fits both ended.
        failures: a sentence for each fit that diverged; such a pair is in no contrast.
        shared: whether some network is in more than one pair, so that the pairs are not independent.
        provenance: versions, seeds, settings, the command.
    """

    task: str
    note: str
    method: str
    multiple: float
    ends: tuple[End, ...]
    pairs: tuple[CurvePair, ...]
    contrasts: tuple[Contrast, ...]
    failures: tuple[str, ...]
    shared: bool
    provenance: dict[str, str]

    def __repr__(self) -> str:
        told = (
            f"{each.name}{f' ({each.split})' if each.split else ''} {each.difference.value:+.4g}"
            for each in self.contrasts[:4]
        )
        return (
            f"CurveComparison({self.task}, {len(self.pairs)} pairs; aligned − unaligned: {', '.join(told)})"
        )

    def contrast(self, name: str, split: str = "") -> Contrast:
        """One quantity over the pairs."""
        return next(each for each in self.contrasts if (each.name, each.split) == (name, split))


def measure_path(
    path: AbstractPath,
    landscape: AbstractLandscape,
    points: int = 25,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measured:
    """Evaluate a path on both splits: extremes and barriers with intervals, and its length.

    Args:
        path: of one coordinate.
        landscape: where to evaluate.
        points: of the even grid, which is refined around the highest loss.
        seed: of the resampling of the examples.
        progress: shows how many points are done.

    Cost: `points` + 4 passes over each split.
    """
    found = tuple(
        _along(profile(path, landscape, points, split, progress=progress), seed) for split in SPLITS
    )
    return Measured(path.kind, points, path.length, path.endpoint_distance, found)


def contrasts_of(pairs: Sequence[CurvePair], multiple: float) -> tuple[Contrast, ...]:
    """Every quantity of the curves, unaligned against aligned, over the pairs whose fits both ended.

    Args:
        pairs: the pairs.
        multiple: of the higher end's training loss: the level that steps are counted to.
    """
    whole = [pair for pair in pairs if pair.fitted]
    if not whole:
        return ()
    found = [_contrast(whole, LENGTH, "lower", _length), _contrast(whole, RATIO, "lower", _ratio)]
    each: tuple[tuple[str, Better, Callable[[Along], float]], ...] = (
        (MAXIMUM, "lower", lambda along: along.maximum_loss.value),
        (MINIMUM, "higher", lambda along: along.minimum_accuracy.value),
        (MEAN, "lower", lambda along: along.mean_loss),
    )
    for name, better, value in each:
        found += [_contrast(whole, name, better, _on(split, value), split) for split in ("test", "train")]
    for name, levels in (
        (STEPS, [multiple * max(pair.unaligned.watch.ends, pair.aligned.watch.ends) for pair in whole]),
        (STEPS_TO_END, [pair.unaligned.watch.lowest for pair in whole]),
    ):
        sides = ([p.unaligned.watch for p in whole], [p.aligned.watch for p in whole])
        before, after = ([w.steps_to(x) for w, x in zip(ws, levels, strict=True)] for ws in sides)
        found.append(contrast(name, before, after, "lower", "train"))
    for name, of in ((LINE_LOSS, "loss"), (LINE_ERROR, "error")):
        found += [_contrast(whole, name, "lower", _rise(split, of), split) for split in ("test", "train")]
    return tuple(found)


def _contrast(
    pairs: Sequence[CurvePair], name: str, better: Better, value: Callable[[Treated], float], split: str = ""
) -> Contrast:
    before, after = ([value(side) for side in sides] for sides in _sides(pairs))
    most = 1.0 if name in (MINIMUM, LINE_ERROR) else math.inf
    return contrast(name, before, after, better, split, most)


def _sides(pairs: Sequence[CurvePair]) -> tuple[list[Treated], list[Treated]]:
    return [pair.unaligned for pair in pairs], [pair.aligned for pair in pairs]


def _curve(side: Treated) -> Measured:
    if side.curve is None:
        raise ValueError("the fit of this curve diverged")
    return side.curve


def _length(side: Treated) -> float:
    return _curve(side).length


def _ratio(side: Treated) -> float:
    """The length over the straight distance; not a number where the ends are one point."""
    curve = _curve(side)
    return curve.length / curve.endpoint_distance if curve.endpoint_distance else math.nan


def _on(split: str, value: Callable[[Along], float]) -> Callable[[Treated], float]:
    return lambda side: value(_curve(side).on(split))


def _rise(split: str, of: str) -> Callable[[Treated], float]:
    return lambda side: side.line.on(split).barrier(of).height


def extreme_of(each: Tensor, t: Tensor, seed: int = 0, level: float = _LEVEL) -> Extreme:
    """The highest mean over examples along a path, with an interval of the paired bootstrap.

    All positions share a resample, and the maximum is taken anew in each. A maximum over noisy points is
    biased upward; as for barriers, the interval is the union of the percentile one, which keeps the bias, and
    the basic one, which takes it out.

    Args:
        each: one value a position and example, shape (points, examples).
        t: positions, shape (points,).
        seed: of the resampling.
        level: nominal coverage of either interval.

    Source: Davison & Hinkley 1997, Bootstrap Methods, section 5.2; see `barriers.barrier`.
    """
    each = each.double()
    means = each.nan_to_num(nan=math.inf).mean(dim=1)
    height, where = float(means.max()), float(t[means.argmax()])
    if not math.isfinite(height):
        return Extreme(height, height, height, where)
    draws = torch.cat([(counts @ each.T).max(dim=1).values for counts in _resamples(each.shape[1], seed)])
    low, high = (float(draws.quantile(share)) for share in ((1 - level) / 2, (1 + level) / 2))
    return Extreme(height, min(low, 2 * height - high), max(high, 2 * height - low), where)


def _along(found: Profile, seed: int) -> Along:
    """A profile's means and extremes, without its examples."""
    each = found.evaluation
    error = extreme_of(each.error, found.t, seed)
    bounds = (1 - error.value, max(0.0, 1 - error.high), min(1.0, 1 - error.low))
    return Along(
        found.split, each.examples, each.batchnorm, found.t, found.loss, found.error,
        extreme_of(each.loss, found.t, seed), Extreme(*bounds, error.at), found.arc_mean("loss"),
        (barrier(found, of="loss", seed=seed), barrier(found, of="error", seed=seed)),
    )  # fmt: skip


def _resamples(examples: int, seed: int) -> Iterator[Tensor]:
    """Shares of each example in resamples with replacement, some rows at a time, shape (rows, examples)."""
    generator = seeded(seed, "extremes")
    rows = max(1, _BLOCK // examples)
    for start in range(0, _RESAMPLES, rows):
        size = min(rows, _RESAMPLES - start)
        draws = torch.randint(examples, (size, examples), generator=generator)
        draws += examples * torch.arange(size)[:, None]
        counts = torch.bincount(draws.view(-1), minlength=size * examples).view(size, examples)
        yield counts.double() / examples

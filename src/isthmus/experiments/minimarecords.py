"""The records of a tree of minima: all that its report shows, and nothing that it has to compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from isthmus.connect.abstract import Saddle
from isthmus.connect.spanning import Edge, MinimaTree
from isthmus.experiments.pairing import mean_over
from isthmus.scores import Score

_LEVEL = 0.95


@dataclass(frozen=True)
class Minimum:
    """One of the given networks.

    Attributes:
        name: how it is called.
        source: the file it came from.
        sha256: of the file.
        notes: what was unwrapped or filled in while reading it.
        scores: on train and test, under the batch-norm policy of the paths.
    """

    name: str
    source: str
    sha256: str
    notes: tuple[str, ...]
    scores: tuple[Score, ...]

    def score(self, split: str) -> Score:
        """The score on this split."""
        return next(found for found in self.scores if found.split == split)


@dataclass(frozen=True)
class EdgeStudy:
    """A tested pair with what was measured on its path.

    Attributes:
        edge: as the tree has it; its saddle is the highest point on the training data.
        kind: of the path.
        scores: of that point, on train and test; empty if the fit diverged.
        held_out: the highest point of the path on held-out data; None if the fit diverged.
        settings: of the fit, by name.
    """

    edge: Edge
    kind: str
    scores: tuple[Score, ...]
    held_out: Saddle | None
    settings: dict[str, str | int | float]

    def score(self, split: str) -> Score | None:
        """The score of the saddle on this split; None if the fit diverged."""
        return next((found for found in self.scores if found.split == split), None)


@dataclass(frozen=True)
class Ratio:
    """How much higher the tree's saddles lie than the minima, on one split.

    Attributes:
        split: "train" or "test".
        minimum: the mean loss of the minima.
        minimum_spread: the standard deviation among them.
        saddle: the mean loss of the tree's saddles.
        saddle_spread: the standard deviation among them.
        overall: the ratio of the two means, as published.
        each: the mean over the tree's edges of the saddle's loss over the mean loss of its two ends.
        low: lower end of the interval of `each`.
        high: upper end.
        level: the interval's coverage: Student's, over the tree's edges.
        edges: how many edges the tree has.
    """

    split: str
    minimum: float
    minimum_spread: float
    saddle: float
    saddle_spread: float
    overall: float
    each: float
    low: float
    high: float
    level: float
    edges: int


@dataclass(frozen=True, eq=False, repr=False)
class MinimaStudy:
    """Many minima and their tree.

    Attributes:
        task: the task's name.
        note: what the task says of its data.
        kind: of the paths.
        minima: in the order given.
        tree: of the saddles on the training data, which the paths were fitted to.
        held_out: the tree of the highest held-out losses along the same paths.
        tested: every tested pair, in order.
        ratios: on train and test, of the tree's saddles.
        provenance: versions, seeds, device, settings, the command: what is needed to repeat it.
    """

    task: str
    note: str
    kind: str
    minima: tuple[Minimum, ...]
    tree: MinimaTree
    held_out: MinimaTree
    tested: tuple[EdgeStudy, ...]
    ratios: tuple[Ratio, ...]
    provenance: dict[str, str]

    def __repr__(self) -> str:
        return f"MinimaStudy({self.task}; {self.tree})"

    def ratio(self, split: str) -> Ratio:
        """The ratio on this split."""
        return next(found for found in self.ratios if found.split == split)

    @property
    def tree_tested(self) -> tuple[EdgeStudy, ...]:
        """The tested pairs that make the tree, the lowest saddle first."""
        return tuple(self.tested[position] for position in self.tree.spanning)


def ratio_of(minima: Sequence[Minimum], tree: Sequence[EdgeStudy], split: str) -> Ratio:
    """How much higher the saddles of a tree lie than its minima.

    Args:
        minima: all of them.
        tree: its edges; none diverged.
        split: the data. The saddles are where the training loss is highest on each path, so that held-out
            losses there are free of the bias that the search for a maximum has.
    """
    bottom = [each.score(split).loss for each in minima]
    found = [(each.edge, each.score(split)) for each in tree]
    tops = [scored.loss for _, scored in found if scored is not None]
    each = [
        scored.loss / bed if (bed := (bottom[edge.first] + bottom[edge.second]) / 2) else math.nan
        for edge, scored in found if scored is not None
    ]  # fmt: skip
    over = mean_over(each, _LEVEL)
    low, top = fmean(bottom), fmean(tops) if tops else math.nan
    return Ratio(
        split, low, _spread(bottom), top, _spread(tops), top / low if low else math.nan,
        over.value, over.low, over.high, _LEVEL, len(tops),
    )  # fmt: skip


def _spread(values: Sequence[float]) -> float:
    """The standard deviation; not a number of fewer than two values."""
    return stdev(values) if len(values) > 1 else math.nan

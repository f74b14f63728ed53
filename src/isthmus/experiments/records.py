"""The records of a pair's story: all that a report shows, and nothing that it has to compute."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from isthmus.barriers import Barrier, Profile
from isthmus.connect import Saddle
from isthmus.scores import Score
from isthmus.surfaces import Surface


@dataclass(frozen=True)
class End:
    """One of the two given networks.

    Attributes:
        name: "A" or "B".
        source: the file it came from, or how it was made.
        sha256: of the file, or of the weights.
        notes: what was unwrapped or filled in while reading it.
        scores: as its owner saved it (batch-norm statistics kept), on train and test.
    """

    name: str
    source: str
    sha256: str
    notes: tuple[str, ...]
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class AxisRow:
    """One hidden axis, as matched.

    Attributes:
        name: of the axis.
        size: how many units it has.
        free: how many of them may move.
        places: the parameters that carry it, with the dimension.
        moved: the share of its units that the matching moved, in [0, 1].
        before: the inner product of A's slices at its units and B's; nan if it was not recorded.
        after: the inner product with the aligned B's slices.
        most: the product of the norms of these slices, which no order of units can exceed.
    """

    name: str
    size: int
    free: int
    places: tuple[str, ...]
    moved: float
    before: float = math.nan
    after: float = math.nan
    most: float = math.nan


@dataclass(frozen=True)
class Matching:
    """What weight matching found.

    Attributes:
        method: "weight".
        outcome: how it ended, a sentence.
        objective: the inner product ⟨A, π(B)⟩ reached.
        objective_before: ⟨A, B⟩.
        distance: ‖A − π(B)‖.
        distance_before: ‖A − B‖.
        log2_order: log2 of the size of the group that was searched.
        coverage: the share of parameters in tensors that can move.
        verified: what the numerical verification of the symmetry found, a sentence.
        axes: one row a hidden axis.
        pinned: what may not move and why: pairs (parameter and dimension, reason).
    """

    method: str
    outcome: str
    objective: float
    objective_before: float
    distance: float
    distance_before: float
    log2_order: float
    coverage: float
    verified: str
    axes: tuple[AxisRow, ...]
    pinned: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Fit:
    """How a curve was fitted.

    Attributes:
        history: mean training loss of each epoch of the fit, shape (epochs,).
        outcome: how it ended, a sentence.
        steps: gradient steps taken.
        settings: every setting, by name.
        saddle: the highest point that the procedure itself evaluated, on training data; None for a curve,
            whose fit evaluates none.
    """

    history: Tensor
    outcome: str
    steps: int
    settings: dict[str, str | int | float]
    saddle: Saddle | None = None


@dataclass(frozen=True, eq=False)
class PathStudy:
    """One path, measured.

    Attributes:
        name: "naive line", "aligned line", "curve" or "aligned curve" (or band, or string).
        kind: "segment", "bezier" or "chain".
        aligned: whether its far end is the aligned B.
        profiles: on train and on test.
        barriers: loss and error, above mean and chord, train and test.
        length: its arc length.
        endpoint_distance: the straight distance between its ends.
        fit: how it was fitted; None for a line.
    """

    name: str
    kind: str
    aligned: bool
    profiles: tuple[Profile, ...]
    barriers: tuple[Barrier, ...]
    length: float
    endpoint_distance: float
    fit: Fit | None

    def barrier(self, of: str = "error", split: str = "test", above: str = "mean") -> Barrier:
        """The barrier of this quantity on this split."""
        return next(b for b in self.barriers if (b.of, b.split, b.above) == (of, split, above))

    def profile(self, split: str = "test") -> Profile:
        """The profile on this split."""
        return next(p for p in self.profiles if p.split == split)


@dataclass(frozen=True)
class Merge:
    """The midpoint of a line as a model of its own.

    Attributes:
        name: "naive midpoint" or "aligned midpoint".
        file: where it was written in the run's folder; empty if it was not.
        scores: on train and test, with the batch-norm statistics that it was given.
    """

    name: str
    file: str
    scores: tuple[Score, ...]


@dataclass(frozen=True, eq=False, repr=False)
class PairStudy:
    """The whole story of two networks.

    Attributes:
        task: the task's name.
        note: what the task says of its data.
        ends: A and B.
        paths: naive line, aligned line, curve, aligned curve: those that were asked for.
        matching: how B was aligned to A; None if it was not.
        merges: the midpoint of each line as a model of its own.
        surfaces: planes through three models.
        tolerance: the error barrier below which two networks count as connected.
        provenance: versions, seeds, device, settings, the command: what is needed to repeat it.
    """

    task: str
    note: str
    ends: tuple[End, End]
    paths: tuple[PathStudy, ...]
    matching: Matching | None
    merges: tuple[Merge, ...]
    surfaces: tuple[Surface, ...]
    tolerance: float
    provenance: dict[str, str]

    def __repr__(self) -> str:
        told = (f"{path.name} {path.barrier().height:.2%}" for path in self.paths)
        return f"PairStudy({self.task}; held-out error barriers: {', '.join(told)})"

    def path(self, name: str) -> PathStudy | None:
        """The path of this name, if it was studied."""
        return next((path for path in self.paths if path.name == name), None)

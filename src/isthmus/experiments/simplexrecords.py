"""The records of a region of low loss: all that its report shows, and nothing that it has to compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from isthmus.ensembles import Ensemble
from isthmus.experiments.records import End, Fit, PathStudy
from isthmus.scores import Score
from isthmus.surfaces import Surface

RegionKind = Literal["simplex", "complex", "simplexes"]
"""One simplex around one network; simplexes that share connectors; a simplex around each network."""

COLLAPSED = 0.1
"""A vertex this much lower than the first one, over the plane of the others, adds no dimension."""


@dataclass(frozen=True, eq=False)
class Inside:
    """Points drawn inside a region, on one split.

    Attributes:
        score: loss and error of an average point: each example's mean over the points, with intervals over
            the examples.
        loss: the mean loss of every point, shape (points,).
        error: the error rate of every point, shape (points,), in [0, 1].
        gap: the average point's error rate minus that of the given networks, on the same examples.
        gap_low: lower end of its interval, paired by example.
        gap_high: upper end.
    """

    score: Score
    loss: Tensor
    error: Tensor
    gap: float
    gap_low: float
    gap_high: float


@dataclass(frozen=True, eq=False)
class Stage:
    """The region when each simplex had so many new vertices.

    Attributes:
        dimension: of each simplex: how many vertices were added to the network it belongs to.
        log_volume: log of the volume, every simplex counted; of different dimensions they do not compare.
        normalised_volume: over that of the regular simplex with the same root mean square edge, in [0, 1];
            the mean over the simplexes.
        height: the distance of the newest vertex from the plane of the older ones of its simplex; the least
            over the simplexes.
        edge: the mean length of an edge.
        inside: on train and on test.
    """

    dimension: int
    log_volume: float
    normalised_volume: float
    height: float
    edge: float
    inside: tuple[Inside, ...]

    def on(self, split: str) -> Inside:
        """What was found on this split."""
        return next(found for found in self.inside if found.score.split == split)


@dataclass(frozen=True, eq=False)
class Grown:
    """What the growth gave, beside the vertices' files.

    Attributes:
        simplexes: the vertices of each simplex, by their numbers, in the order in which they were added.
        length: the total length of all edges.
        saddle: the highest mean training loss of the points that the fit drew at its end; nan without.
        fit: how it was grown.
    """

    simplexes: tuple[tuple[int, ...], ...]
    length: float
    saddle: float
    fit: Fit


@dataclass(frozen=True)
class Dimension:
    """How many dimensions the region of low loss has, as far as it was grown.

    Attributes:
        value: the dimension of the last stage before one failed; 0 if the first one did.
        ended: what the first failing stage failed by, in words; empty if none failed, so that the true
            number is at least `value`.
    """

    value: int
    ended: str


@dataclass(frozen=True, eq=False)
class SimplexStudy:
    """A region of low loss, measured.

    Attributes:
        task: its name.
        note: about the data, and about a fit that stopped.
        kind: "simplex", "complex" or "simplexes".
        networks: the given networks, as saved.
        simplexes: the vertices of each simplex, by their numbers; the files `vertices/NUMBER.safetensors`.
        stages: one for each number of new vertices; the last is the whole.
        dimension: estimated from the stages.
        length: the total length of all edges.
        saddle: the highest mean training loss of the points that the fit drew at its end; nan without.
        fit: how it was grown.
        paths: the line between the first network and each other, and the route through the complex.
        surfaces: planes through vertices of one simplex.
        ensembles: by name: of points drawn inside, and of the given networks where they are several.
        tolerance: the error above the given networks' up to which a region counts as low.
        provenance: files, versions, settings and the command.
    """

    task: str
    note: str
    kind: str
    networks: tuple[End, ...]
    simplexes: tuple[tuple[int, ...], ...]
    stages: tuple[Stage, ...]
    dimension: Dimension
    length: float
    saddle: float
    fit: Fit
    paths: tuple[PathStudy, ...]
    surfaces: tuple[Surface, ...]
    ensembles: dict[str, Ensemble]
    tolerance: float
    provenance: dict[str, str]


def estimated_dimension(stages: Sequence[Stage], tolerance: float) -> Dimension:
    """The low-loss dimension: how many vertices can be added before the loss inside rises or one falls flat.

    A stage fails if the error of an average point inside exceeds the given networks' by more than the
    tolerance, on train or held-out data, or if the newest vertex stands lower over the plane of the older
    ones than a tenth of what the first one did. The estimate is the dimension of the last stage before the
    first that fails.

    Limits: a lower bound, of what this procedure with this weight of the volume reaches: it takes directions
    as it finds them, and directions that do not matter count.
    Source: Benton et al. 2021, arXiv 2102.13042, section 4.3 (vertices are added until the volume collapses).
    """
    value = 0
    for stage in stages:
        worst = max(stage.inside, key=lambda found: found.gap)
        if not worst.gap <= tolerance:
            data = "train" if worst.score.split == "train" else "held-out"
            return Dimension(value, f"the error inside rises above the tolerance on {data} data")
        if not stage.height >= COLLAPSED * stages[0].height or stage.log_volume == -math.inf:
            return Dimension(value, "the newest vertex lies almost in the plane of the others")
        value = stage.dimension
    return Dimension(value, "")

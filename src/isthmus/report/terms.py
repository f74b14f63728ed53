"""The words of the page: definitions, and what they leave open."""

from __future__ import annotations

from isthmus.barriers import Quantity
from isthmus.experiments.records import PairStudy
from isthmus.report.formats import count, coverage, split_name, tolerance
from isthmus.surfaces import Surface

QUANTITIES: tuple[Quantity, ...] = ("error", "loss")

BANDS = (
    "The bands are 95 % intervals of each point by itself. All points share their examples, so a difference "
    "along a path is known more closely than the bands suggest: the barriers' own intervals use that. "
    "The largest marker is the highest point of a path. Drag to zoom, double-click to return."
)
AXIS = (
    "Filled: held-out data; open: train. The axis is linear near zero and logarithmic beyond, so that none, "
    "a small and a large barrier can be read from one figure."
)
LENGTHS = (
    "The arc length of each path in weight space; the upright mark is the straight line between its ends."
)

_BATCHNORM = {
    "recalibrate": (
        "The running statistics of a blend of two networks are wrong. At every point they are measured anew "
        "on training examples before it is evaluated."
    ),
    "interpolate": "At every point the running statistics are the blend of those of the two ends.",
    "keep": "Every point keeps the running statistics that its weights came with.",
    "none": "The network has no batch-norm statistics, so nothing has to be done about them.",
}


def study_terms(study: PairStudy) -> tuple[tuple[str, str], ...]:
    """What the words of a study's page mean."""
    pairs = [("Barrier", _BARRIER), ("Interval", _interval(study)), ("Verdict", _verdict(study))]
    pairs.append(("Train and held-out", _SPLITS))
    if study.matching is not None:
        pairs.append(("Aligned", _ALIGNED))
    if any(path.fit for path in study.paths):
        pairs.append(("Curve", _CURVE))
    policies = {profile.evaluation.batchnorm for path in study.paths for profile in path.profiles}
    told = [_BATCHNORM.get(policy, f"The policy was {policy!r}.") for policy in sorted(policies)]
    if policies - {"none"}:
        told.append("The two networks as saved keep their own.")
    if told:
        pairs.append(("Batch norm", " ".join(told)))
    pairs.append(("What this does not say", _LIMITS))
    return tuple(pairs)


def plane_sentence(surface: Surface) -> str:
    """How to read a map."""
    a, b, c = surface.names
    return (
        f"Mean over {count(surface.examples)} {split_name(surface.split)} examples at "
        f"{count(surface.loss.numel())} points of the plane through {a}, {b} and {c}, batch norm: "
        f"{surface.batchnorm}. Both axes are distances in weight space, drawn to one scale; {a} is the "
        "origin. Levels are even on a logarithmic scale, which ends four powers of ten below the highest "
        "value; an error of none is drawn as half an example."
    )


_BARRIER = (
    "The highest loss (or error) on a path minus the mean of its two ends: "
    "max L(θ(t)) − ½ (L(θ(0)) + L(θ(1))), over the points that were evaluated. Above the chord, the line "
    "between the ends' values is taken instead of their mean."
)
_SPLITS = (
    "Train: the examples that the networks were fitted to. Held-out: examples that they never saw. Verdicts "
    "are on held-out data unless they say otherwise."
)
_ALIGNED = (
    "B with its hidden units put in another order, chosen to lie close to A. It computes exactly what B "
    "computes; only the path between the two differs."
)
_CURVE = (
    "A path whose inner control points were trained so that the loss is low at random points of it. It is "
    "fitted to the training data; the ends stay."
)
_LIMITS = (
    "A verdict is about the examples and the tolerance named. It says nothing about generalisation, nothing "
    "about points between those evaluated, and a barrier that remains says nothing about paths not tried."
)


def _interval(study: PairStudy) -> str:
    levels = sorted({barrier.level for path in study.paths for barrier in path.barriers}) or [0.95]
    named = " and ".join(coverage(level) for level in levels)
    return (
        f"Of a barrier: {named} nominally, by the paired bootstrap. The examples are drawn again with "
        "replacement, the same draw for all points of a path, and the maximum is taken anew in each. A "
        "maximum over noisy points is biased upward, the more the more points and the fewer examples there "
        "are; the interval joins the percentile one, which keeps that bias, and the basic one, which takes "
        "it out. Where no "
        "example tells any two points apart the interval has no width, and only the number of examples says "
        "how much that is worth. Of an error: Wilson's interval. Of a loss: the normal interval of a mean."
    )


def _verdict(study: PairStudy) -> str:
    at = tolerance(study.tolerance)
    return (
        f"Connected: the interval of the error barrier lies below {at}. Barrier: it lies above {at}. "
        f"Undecided: it contains {at}; more examples would narrow it."
    )

"""What a matching did, axis by axis, and what each axis gained by it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from isthmus.match.slices import inner_product, real, slices
from isthmus.symmetry import Alignment, Axis
from isthmus.weights import Weights


@dataclass(frozen=True)
class MatchedAxis:
    """One hidden axis before and after a matching.

    The sums run over the slices that the axis' own units have in the parameters. A slice lies along other
    axes too, so that the sums of different axes overlap, and `after` counts what others gained as well.

    Attributes:
        name: of the axis.
        size: how many units it has.
        free: how many of them may move.
        places: the parameters and buffers that carry it, with the dimension.
        moved: how many units the matching moved.
        before: the inner product of A's slices and B's.
        after: the inner product of A's slices and the aligned B's.
        most: the product of their norms, which no order of units can exceed (Cauchy-Schwarz).
    """

    name: str
    size: int
    free: int
    places: tuple[str, ...]
    moved: int
    before: float
    after: float
    most: float

    @property
    def gain(self) -> float:
        """What the inner product rose by."""
        return self.after - self.before

    @property
    def cosine_before(self) -> float:
        """The cosine of A's slices and B's; nan if either are zero, or there are none."""
        return self.before / self.most if self.most else math.nan

    @property
    def cosine(self) -> float:
        """The cosine of A's slices and the aligned B's; nan if either are zero, or there are none."""
        return self.after / self.most if self.most else math.nan


def matched_axes(a: Weights, b: Weights, alignment: Alignment) -> tuple[MatchedAxis, ...]:
    """The hidden axes of a network as a matching left them, one record each, in the symmetry's order.

    Args:
        a: the weights that stayed.
        b: the weights that were brought to `a`, as they were before.
        alignment: what brings `b` to `a`, from any matcher.

    Raises:
        SymmetryError: the weights do not fit the alignment's network.

    Example:
        >>> import torch, isthmus as im
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> symmetry, a = im.discover(net, torch.zeros(1, 2)), im.Weights.from_module(net)
        >>> turned = im.Alignment(symmetry, {"0.weight[0]": torch.tensor([1, 2, 0])}).apply(a)
        >>> (axis,) = matched_axes(a, turned, im.match_weights(a, turned, symmetry))
        >>> axis.moved, round(axis.cosine, 6), axis.gain > 0
        (3, 1.0, True)
    """
    alignment.symmetry.check(a)
    image = alignment.apply(b)
    return tuple(
        MatchedAxis(
            axis.name,
            axis.size,
            axis.free,
            tuple(f"{place.parameter}[{place.dim}]" for place in axis.places),
            round(alignment.moved[axis.name] * axis.size),
            _inner_product(axis, a, b),
            _inner_product(axis, a, image),
            math.sqrt(_inner_product(axis, a, a)) * math.sqrt(_inner_product(axis, image, image)),
        )
        for axis in alignment.symmetry.axes
    )


def _inner_product(axis: Axis, first: Weights, second: Weights) -> float:
    """Over the slices that an axis' own units have in the parameters; buffers do not count."""
    return math.fsum(
        inner_product(*(slices(real(weights[place.parameter]), place) for weights in (first, second)))
        for place in axis.places
        if place.parameter in first.layout.index
    )

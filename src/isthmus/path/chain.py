"""A polygonal chain: straight pieces from control to control."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from isthmus.path.abstract import AbstractPath
from isthmus.weights import Weights, combine


class Chain(AbstractPath):
    """c_k(t) = max(0, 1 − |t n − k|) with n + 1 controls: every control lies on the path, at t = k / n.

    Args:
        controls: two or more weights; the first and last are the ends.

    Example:
        >>> import torch
        >>> from isthmus.weights import Weights
        >>> corners = ([0.0, 0.0], [3.0, 0.0], [3.0, 4.0])
        >>> chain = Chain(tuple(Weights.from_state_dict({"w": torch.tensor(w)}) for w in corners))
        >>> chain.length, chain.endpoint_distance
        (7.0, 5.0)

    Source: Garipov et al. 2018, arXiv 1802.10026, eq. 3, for any number of bends.
    """

    kind: ClassVar[str] = "chain"

    @classmethod
    def between(cls, a: Weights, b: Weights, bends: int = 1) -> Chain:
        """A chain along the segment from a to b with this many inner controls, evenly spaced."""
        return cls(inner_on_segment(a, b, bends))

    def coefficients(self, t: Tensor) -> Tensor:
        """Hat functions, shape (n, controls)."""
        last = len(self.controls) - 1
        knots = torch.arange(last + 1, dtype=t.dtype, device=t.device)
        return (1 - (t[:, None] * last - knots).abs()).clamp_min(0)

    @cached_property
    def pieces(self) -> Tensor:
        """The lengths of the straight pieces, shape (controls − 1,), float64."""
        return torch.tensor([a.distance(b) for a, b in pairwise(self.controls)], dtype=torch.float64)

    def distances(self, t: Tensor) -> Tensor:
        """The arc length from the first position to each, shape (n,): exact, corners included.

        The positions ascend, as those of a profile do. Cost: one distance a piece, and no inner products of
        controls that are no neighbours.
        """
        along = torch.cat([self.pieces.new_zeros(1), self.pieces.cumsum(0)])
        place = t.double() * len(self.pieces)
        piece = place.floor().long().clamp(0, len(self.pieces) - 1)
        reached = along[piece] + (place - piece) * self.pieces[piece]
        return reached - reached[0]

    @cached_property
    def length(self) -> float:
        """The arc length: the sum of the straight pieces."""
        return float(self.pieces.sum())


def inner_on_segment(a: Weights, b: Weights, bends: int) -> tuple[Weights, ...]:
    """The ends with `bends` evenly spaced points of the segment between them."""
    inner = [combine((1 - k / (bends + 1), k / (bends + 1)), (a, b)) for k in range(1, bends + 1)]
    return (a, *inner, b)

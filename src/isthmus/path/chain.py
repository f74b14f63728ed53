"""A polygonal chain: straight pieces from control to control."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from isthmus.path.abstract import AbstractPath
from isthmus.weights import Weights, combine


class Chain(AbstractPath):
    """c_k(t) = max(0, 1 − |t n − k|) with n + 1 controls: every control lies on the path, at t = k / n.

    Args:
        controls: two or more weights; the first and last are the ends.

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


def inner_on_segment(a: Weights, b: Weights, bends: int) -> tuple[Weights, ...]:
    """The ends with `bends` evenly spaced points of the segment between them."""
    inner = [combine((1 - k / (bends + 1), k / (bends + 1)), (a, b)) for k in range(1, bends + 1)]
    return (a, *inner, b)

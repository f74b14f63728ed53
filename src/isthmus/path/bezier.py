"""Bézier curves of any degree."""

from __future__ import annotations

from math import comb
from typing import ClassVar

import torch
from torch import Tensor

from isthmus.path.abstract import AbstractPath
from isthmus.path.chain import inner_on_segment
from isthmus.weights import Weights


class Bezier(AbstractPath):
    """c_k(t) = C(n, k) t^k (1 − t)^(n−k): only the first and last control lie on the curve.

    Args:
        controls: two or more weights; the degree n is one less than their number.

    Source: Garipov et al. 2018, arXiv 1802.10026, eq. 4 (degree 2), for any degree.
    """

    kind: ClassVar[str] = "bezier"

    @classmethod
    def between(cls, a: Weights, b: Weights, bends: int = 1) -> Bezier:
        """A curve whose inner controls, `bends` of them, start evenly spaced on the segment from a to b."""
        return cls(inner_on_segment(a, b, bends))

    def coefficients(self, t: Tensor) -> Tensor:
        """Bernstein polynomials, shape (n, controls)."""
        degree = len(self.controls) - 1
        columns = [comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)]
        return torch.stack(columns, dim=1)

"""Bézier curves of any degree."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

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
        """Bernstein polynomials, shape (n, controls).

        By de Casteljau's recursion, degree by degree: b_k ← (1 − t) b_k + t b_{k−1}. Nothing is subtracted
        and no binomial coefficient is formed, so they are right to a few last places at any degree.

        Source: Farin 2002, Curves and Surfaces for CAGD, section 5.1.
        """
        found = torch.ones_like(t)[:, None]
        for _ in range(len(self.controls) - 1):
            found = pad((1 - t[:, None]) * found, (0, 1)) + pad(t[:, None] * found, (1, 0))
        return found

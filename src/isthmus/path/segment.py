"""The straight line between two networks."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from isthmus.path.abstract import AbstractPath
from isthmus.weights import Weights


class Segment(AbstractPath):
    """θ(t) = (1 − t) a + t b.

    Args:
        a: the weights at t = 0.
        b: the weights at t = 1.

    Example:
        >>> import torch
        >>> from isthmus.weights import Weights
        >>> a, b = (Weights.from_state_dict({"w": torch.tensor([x])}) for x in (0.0, 4.0))
        >>> Segment(a, b)(0.25)["w"].item(), Segment(a, b).length
        (1.0, 4.0)
    """

    kind: ClassVar[str] = "segment"

    def __init__(self, a: Weights, b: Weights) -> None:
        super().__init__((a, b))

    def coefficients(self, t: Tensor) -> Tensor:
        """(1 − t, t), shape (n, 2)."""
        return torch.stack([1 - t, t], dim=1)

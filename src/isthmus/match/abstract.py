"""What every matcher does: find the group element that brings one model to another."""

from __future__ import annotations

from abc import ABC, abstractmethod

from isthmus.symmetry import Alignment
from isthmus.weights import Weights


class AbstractMatcher(ABC):
    """A method of alignment, its settings held as fields of a frozen dataclass."""

    @abstractmethod
    def match(self, fixed: Weights, moving: Weights) -> Alignment:
        """The alignment that brings `moving` to `fixed`: use `alignment.apply(moving)`."""

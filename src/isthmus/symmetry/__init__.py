"""The symmetry of a network: which hidden units may be reordered, found from its traced graph."""

from isthmus.symmetry.discovery import discover
from isthmus.symmetry.group import AbstractGroup, Alignment, Axis, Outcome, Place, Symmetry
from isthmus.symmetry.verify import Control, Verification

__all__ = [
    "AbstractGroup",
    "Alignment",
    "Axis",
    "Control",
    "Outcome",
    "Place",
    "Symmetry",
    "Verification",
    "discover",
]

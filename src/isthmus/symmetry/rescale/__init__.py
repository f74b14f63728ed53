"""Rescalings: by which positive factors, or signs, the units of a network may be multiplied."""

from isthmus.symmetry.rescale.discovery import discover_rescalings
from isthmus.symmetry.rescale.group import Ending, Rescaling, Scaling

__all__ = ["Ending", "Rescaling", "Scaling", "discover_rescalings"]

"""Matching: the group element that brings one trained network to another."""

from isthmus.match.abstract import AbstractMatcher
from isthmus.match.assignment import maximising_assignment
from isthmus.match.gains import MatchedAxis, matched_axes
from isthmus.match.weight import WeightMatcher, match_weights

__all__ = [
    "AbstractMatcher",
    "MatchedAxis",
    "WeightMatcher",
    "match_weights",
    "matched_axes",
    "maximising_assignment",
]

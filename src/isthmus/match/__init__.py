"""Matching: the group element that brings one trained network to another."""

from isthmus.match.abstract import AbstractMatcher
from isthmus.match.assignment import maximising_assignment
from isthmus.match.weight import WeightMatcher, match_weights

__all__ = ["AbstractMatcher", "WeightMatcher", "match_weights", "maximising_assignment"]

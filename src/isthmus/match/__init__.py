"""Matching: the group element that brings one trained network to another."""

from isthmus.match.abstract import AbstractMatcher
from isthmus.match.activation import ActivationMatcher, match_activations
from isthmus.match.annealing import AnnealingMatcher, match_annealing
from isthmus.match.assignment import maximising_assignment
from isthmus.match.basis import BasisAlignment, match_bases
from isthmus.match.basis_learned import Refinement, refine_bases
from isthmus.match.gains import MatchedAxis, matched_axes
from isthmus.match.learned import LearnedMatcher, match_learned
from isthmus.match.many import match_many, match_many_activations, match_many_scores, mean_of
from isthmus.match.sinkhorn import SinkhornMatcher, match_sinkhorn
from isthmus.match.straight_through import StraightThroughMatcher, match_straight_through
from isthmus.match.weight import WeightMatcher, match_pairs, match_weights

__all__ = [
    "AbstractMatcher",
    "ActivationMatcher",
    "AnnealingMatcher",
    "BasisAlignment",
    "LearnedMatcher",
    "MatchedAxis",
    "Refinement",
    "SinkhornMatcher",
    "StraightThroughMatcher",
    "WeightMatcher",
    "match_activations",
    "match_annealing",
    "match_bases",
    "match_learned",
    "match_many",
    "match_many_activations",
    "match_many_scores",
    "match_pairs",
    "match_sinkhorn",
    "match_straight_through",
    "match_weights",
    "matched_axes",
    "maximising_assignment",
    "mean_of",
    "refine_bases",
]

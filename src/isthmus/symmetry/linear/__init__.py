"""Changes of basis: rotations of residual streams, invertible maps within attention heads."""

from isthmus.symmetry.linear.bases import Basis, BasisPlace
from isthmus.symmetry.linear.discovery import discover_bases
from isthmus.symmetry.linear.folding import Fold, FoldedNorm, Reader
from isthmus.symmetry.linear.group import LinearSymmetry

__all__ = ["Basis", "BasisPlace", "Fold", "FoldedNorm", "LinearSymmetry", "Reader", "discover_bases"]

"""The changes of basis of a network: which may be made, what is folded first, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.errors import SymmetryError
from isthmus.layout import Layout
from isthmus.symmetry.linear.bases import Basis, changed
from isthmus.symmetry.linear.folding import Fold, folded
from isthmus.symmetry.linear.proof import random_map
from isthmus.symmetry.verify import Verification
from isthmus.weights import Weights

_ORTHOGONAL = 1e-4  # single precision, with room for maps that were learned
_CONDITION = 1e12


@dataclass(frozen=True, eq=False, repr=False)
class LinearSymmetry:
    """Changes of basis that leave what a network computes as it is.

    Attributes:
        layout: the parameters of the network.
        bases: what may be changed: residual streams (after folding), and circuits of single heads.
        folds: what must be folded where before a residual stream may be rotated.
        refused: stream or circuit -> why its basis may not be changed.
        verification: the numerical proof; None if it was not asked for.
    """

    layout: Layout
    bases: tuple[Basis, ...]
    folds: tuple[Fold, ...]
    refused: Mapping[str, str]
    verification: Verification | None = None

    def __repr__(self) -> str:
        streams = sum(basis.kind == "residual" for basis in self.bases)
        return (
            f"LinearSymmetry({streams} residual streams, {len(self.bases) - streams} circuits, "
            f"{len(self.refused)} refused, {self.dimension:,} dimensions)"
        )

    @property
    def dimension(self) -> int:
        """The number of free directions: n(n-1)/2 for a stream of n free channels, n² for a circuit."""
        free = [(basis, basis.size - basis.centred) for basis in self.bases]
        return sum(n * (n - 1) // 2 if basis.kind == "residual" else n * n for basis, n in free)

    @property
    def folding(self) -> tuple[str, ...]:
        """What is folded where, in words."""
        return tuple(sentence for fold in self.folds for sentence in fold.sentences)

    def fold(self, weights: Weights) -> Weights:
        """The same function with norms of scale 1 and bias 0, in the same architecture.

        Raises:
            SymmetryError: the weights have another layout.
        """
        return self._with(weights, folded(self._tensors(weights), self.folds))

    def act(self, maps: Mapping[str, Tensor], weights: Weights) -> Weights:
        """The weights after changes of basis; to rotate a stream they must have been folded.

        Args:
            maps: basis name -> M, shape (size, size), float64; a missing one is the identity.
            weights: the weights.

        Raises:
            SymmetryError: the weights have another layout, there is no such basis, or a map is none of its
                maps: of another shape, singular, or no rotation of a residual stream.
        """
        known = {basis.name for basis in self.bases}
        if unknown := set(maps) - known:
            raise SymmetryError(
                f"there is no basis {min(unknown)!r}; the bases begin with {', '.join(sorted(known)[:3])}"
            )
        for basis in self.bases:
            if basis.name in maps:
                _require_map(basis, maps[basis.name])
        return self._with(weights, changed(self._tensors(weights), self.bases, maps))

    def random(self, generator: torch.Generator, spread: float = 2.0) -> dict[str, Tensor]:
        """A random map for every basis; those of circuits have singular values in [1 / spread, spread]."""
        return {basis.name: random_map(basis, generator, spread) for basis in self.bases}

    def table(self) -> list[dict[str, str]]:
        """One row a basis, in words, for printing."""
        return [
            {
                "basis": basis.name,
                "channels": str(basis.size),
                "maps": "invertible"
                if basis.kind != "residual"
                else "orthogonal, keeping the direction of ones"
                if basis.centred
                else "orthogonal",
                "carried by": ", ".join(f"{place.parameter}[{place.dim}]" for place in basis.places),
            }
            for basis in self.bases
        ]

    def check(self, weights: Weights) -> None:
        """Refuse weights of another layout.

        Raises:
            SymmetryError: naming the first differences.
        """
        difference = self.layout.difference(weights.layout)
        if difference is None and weights.layout.names != self.layout.names:
            difference = "the parameters come in another order; bring the weights over with .conform(other)"
        if difference:
            raise SymmetryError(f"these weights do not fit the symmetry's network: {difference}")

    def _tensors(self, weights: Weights) -> dict[str, Tensor]:
        self.check(weights)
        return {name: weights[name].double() for name in weights.layout.names}

    def _with(self, weights: Weights, new: Mapping[str, Tensor]) -> Weights:
        vector = weights.vector.clone()
        for name, tensor in new.items():
            self.layout.view(vector, self.layout.index[name]).copy_(tensor)
        return Weights(weights.layout, vector, weights.buffers)


def _require_map(basis: Basis, matrix: Tensor) -> None:
    """Refuse a matrix that would change the function."""
    shape = [basis.size, basis.size]
    if list(matrix.shape) != shape or not bool(torch.isfinite(matrix).all()):
        raise SymmetryError(f"a map of {basis.name} is finite and of shape {shape}, got {list(matrix.shape)}")
    wide = matrix.double()
    if basis.kind != "residual":
        singular = torch.linalg.svdvals(wide)
        if not float(singular[-1]) * _CONDITION > float(singular[0]):
            raise SymmetryError(f"the map of {basis.name} is singular, or nearly so: it has no inverse")
        return
    one = torch.eye(basis.size, dtype=torch.float64, device=wide.device)
    ones = torch.full((basis.size,), basis.size**-0.5, dtype=torch.float64, device=wide.device)
    turned = ones if not basis.centred else wide @ ones
    if float((wide @ wide.T - one).abs().max()) > _ORTHOGONAL or (
        basis.centred and float((turned.abs() - ones).abs().max()) > _ORTHOGONAL
    ):
        kept = ", and keeps the direction of ones," if basis.centred else ""
        raise SymmetryError(f"a map of the stream {basis.name} is orthogonal{kept} but this one is not")

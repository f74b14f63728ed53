"""Score matrices that are kept from visit to visit and follow the steps of the descent.

scores[i, j] = Σ over places of ⟨A's slice at unit i, the permuted B's slice at unit j⟩. When the axis itself
moves, the columns of its matrix move. When another axis moves that lies along one of its tensors, only the
positions that moved add something: the product of A's slices there with the difference they made to B's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from isthmus.match.slices import products
from isthmus.symmetry.action import Place


@dataclass(frozen=True)
class _Kept:
    """The sum over some of the places of an axis."""

    places: Sequence[Place]
    total: Tensor
    included: frozenset[int]


class Costs:
    """The score matrices of axes that stand alone.

    An axis stands alone if none lies above or below it, and no tensor carries it twice or block by block.
    """

    def __init__(self, fixed: Mapping[str, Tensor]) -> None:
        self._fixed = fixed
        self._kept: dict[str, _Kept] = {}

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()

    def scores(
        self,
        name: str,
        places: Sequence[Place],
        moving: Mapping[str, Tensor],
        wanted: Collection[int] | None = None,
    ) -> Tensor:
        """The scores of an axis over its places, or over those that are in the sum already or `wanted`."""
        size = places[0].index.shape[0]
        empty = torch.zeros(size, size, dtype=torch.float64)
        kept = self._kept.get(name, _Kept(places, empty, frozenset()))
        missing = frozenset(range(len(places)) if wanted is None else wanted) - kept.included
        total = kept.total
        for place in (places[number] for number in sorted(missing)):
            total = total + products(self._fixed[place.parameter], moving[place.parameter], place)
        self._kept[name] = replace(kept, total=total, included=kept.included | missing)
        return total

    def complete(self, name: str) -> bool:
        """Whether all places of an axis are in the sum."""
        return name in self._kept and len(self._kept[name].included) == len(self._kept[name].places)

    def turn(self, name: str, permutation: Tensor) -> None:
        """Follow a step of the axis itself."""
        if name in self._kept:
            kept = self._kept[name]
            self._kept[name] = replace(kept, total=kept.total.index_select(1, permutation))

    def change(self, parameter: str, dim: int, fixed: Tensor, old: Tensor, new: Tensor) -> None:
        """Follow a step of another axis along this dim of a tensor; given are the positions that moved."""
        difference: Tensor | None = None
        for name, kept in self._kept.items():
            for place in (kept.places[number] for number in kept.included):
                if place.parameter == parameter and place.dim != dim:
                    difference = new - old if difference is None else difference
                    total = kept.total + products(fixed, difference, place)
                    self._kept[name] = kept = replace(kept, total=total)

    def forget(self, parameter: str) -> None:
        """Drop the matrices with this tensor in their sum."""
        for name, kept in list(self._kept.items()):
            if any(kept.places[number].parameter == parameter for number in kept.included):
                del self._kept[name]

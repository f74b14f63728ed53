"""Where the factors of a rescaling lie in the parameters, and how they act."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Factor:
    """One term of a parameter's factor.

    Attributes:
        parameter: the name of the parameter or buffer.
        rows: LongTensor that broadcasts to the parameter: which row of the exponents each element has.
    """

    parameter: str
    rows: Tensor

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which it varies; the first one for a number."""
        return tuple(axis for axis, size in enumerate(self.rows.shape) if size > 1) or (0,)

    def __repr__(self) -> str:
        return f"Factor({self.parameter}, axes {self.axes})"


@dataclass(frozen=True, eq=False, repr=False)
class Exponents:
    """A sparse integer matrix: for each unit, which coordinates make its factor, and to which power.

    Attributes:
        count: the number of coordinates.
        units: the row of each entry; row 0 is empty, the factor 1.
        coordinates: the column of each entry.
        powers: the entries.
        size: the number of rows.
    """

    count: int
    size: int
    units: Tensor
    coordinates: Tensor
    powers: Tensor

    @classmethod
    def of(cls, matrix: csr_array) -> Exponents:
        """From a sparse matrix."""
        found = coo_array(matrix)
        parts = (torch.as_tensor(np.asarray(p, np.int64)) for p in (found.row, found.col, found.data))
        return cls(int(matrix.shape[1]), int(matrix.shape[0]), *parts)

    def sums(self, coordinates: Tensor) -> Tensor:
        """Σ power * coordinate for each row."""
        total = torch.zeros(self.size, dtype=coordinates.dtype)
        return total.index_add_(
            0, self.units, self.powers.to(coordinates.dtype) * coordinates[self.coordinates]
        )

    @property
    def matrix(self) -> csr_array:
        """As a sparse matrix."""
        parts = (self.powers.numpy(), (self.units.numpy(), self.coordinates.numpy()))
        return csr_array(coo_array(parts, shape=(self.size, self.count)))

    def restricted(self, kept: Tensor) -> Exponents:
        """With these coordinates alone."""
        return Exponents.of(csr_array(self.matrix[:, kept.numpy()]))

    def equal(self, other: Exponents) -> bool:
        """Whether all entries are the same."""
        mine = (self.units, self.coordinates, self.powers)
        theirs = (other.units, other.coordinates, other.powers)
        same = all(torch.equal(one, two) for one, two in zip(mine, theirs, strict=True))
        return same and (self.count, self.size) == (other.count, other.size)

    def __repr__(self) -> str:
        return f"Exponents({self.size} units, {self.count} coordinates, {self.powers.numel()} entries)"


def multipliers(
    factors: Iterable[Factor], exponents: Exponents, coordinates: Tensor, signs: bool
) -> dict[str, Tensor]:
    """For each tensor that a group element touches, what it is multiplied by, in float64; it broadcasts."""
    sums = exponents.sums(coordinates)
    if signs:
        sums = sums % 2
    totals: dict[str, Tensor] = {}
    for factor in factors:
        part = sums[factor.rows]
        totals[factor.parameter] = part + totals[factor.parameter] if factor.parameter in totals else part
    if signs:
        return {name: 1.0 - 2.0 * (total % 2).double() for name, total in totals.items() if bool(total.any())}
    return {name: total.exp() for name, total in totals.items() if bool(total.any())}


def carriers(factors: Sequence[Factor], exponents: Exponents) -> list[tuple[tuple[str, int, int], ...]]:
    """For each coordinate the (parameter, axis, power) at which it acts, in the order of the parameters."""
    matrix = exponents.matrix
    found: dict[int, dict[tuple[str, int, int], None]] = defaultdict(dict)
    for factor in factors:
        part = coo_array(matrix[torch.unique(factor.rows).numpy()])
        pairs = np.unique(np.stack([part.col, part.data]), axis=1)
        for coordinate, power in pairs.T.tolist():
            for axis in factor.axes:
                found[coordinate][(factor.parameter, axis, power)] = None
    return [tuple(found[number]) for number in range(exponents.count)]


def grouped(
    places: Sequence[tuple[tuple[str, int, int], ...]],
) -> Mapping[tuple[tuple[str, int, int], ...], int]:
    """How many coordinates act at the same places."""
    return Counter(places)

"""Solving the equations of charges: sparse, homogeneous, with integer coefficients.

Elimination in rounds, each vectorised over all equations: variables that must be 0, variables that are equal
(or opposite) by a search for connected components, and then pivots of coefficient ±1, as many at once as do
not meet one another, cheapest first by Markowitz's count of the fill-in. The result is a basis of the
solutions as a sparse integer matrix: over the rational numbers, or modulo 2.

Source: Markowitz 1957, "The elimination form of the inverse" (pivots by fill-in); Luby 1986 (independent sets
by random priorities).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from isthmus.symmetry.rescale.charges import NOTHING, Block

_FILL = 40_000_000
_COEFFICIENT = 1 << 20
_SEED = 1957


@dataclass(frozen=True, eq=False)
class Solution:
    """All solutions of the equations: x = matrix @ z for free z.

    Attributes:
        matrix: of shape (variables, free variables), sparse, of integers.
        free: the variables that are free.
        abandoned: variables that were set to 0 because the equations were too hard; empty as a rule.
    """

    matrix: csr_array
    free: np.ndarray
    abandoned: np.ndarray


def assembled(blocks: list[Block], count: int) -> csr_array:
    """The equations as a matrix, the variable that is nothing left out."""
    offsets = np.cumsum([0, *(len(block.variables) for block in blocks)])
    rows, columns, data = [], [], []
    for block, offset in zip(blocks, offsets, strict=False):
        size, width = block.variables.shape
        rows.append(np.repeat(np.arange(offset, offset + size), width))
        columns.append(block.variables.reshape(-1))
        data.append(np.tile(block.coefficients, size))
    if not blocks:
        return csr_array((0, count), dtype=np.int64)
    row, column, value = (np.concatenate(part) for part in (rows, columns, data))
    kept = column != NOTHING
    parts = (value[kept], (row[kept], column[kept]))
    return csr_array(coo_array(parts, shape=(int(offsets[-1]), count)))


def solve(equations: csr_array, modulus: int) -> Solution:
    """A basis of the integer solutions of equations @ x = 0.

    Args:
        equations: one a row.
        modulus: 2 for bits, 0 for numbers.
    """
    elimination = _Elimination(equations, modulus)
    elimination.run()
    return elimination.solution()


def independent(matrix: csr_array, modulus: int) -> np.ndarray:
    """Columns that form a basis of the space which all columns span."""
    dependent = solve(matrix, modulus).free
    return np.setdiff1d(np.arange(matrix.shape[1]), dependent)


class _Elimination:
    """What is left of the equations, and what was found out: x[pivots] = expressions @ x, step by step.

    Columns that are gone are cut out of the matrix; `columns` holds the variables of those that are left.
    """

    def __init__(self, equations: csr_array, modulus: int) -> None:
        self.modulus = modulus
        self.variables = self.count = int(equations.shape[1])
        self.columns = np.arange(self.count)
        self.steps: list[tuple[np.ndarray, coo_array]] = []
        self.abandoned: list[np.ndarray] = []
        self.generator = np.random.default_rng(_SEED)
        self.left = equations
        self._tidy()

    def run(self) -> None:
        """Eliminate until no equation is left."""
        while self.left.shape[0]:
            if self.left.nnz > _FILL or int(abs(self.left.data).max()) > _COEFFICIENT:
                self._abandon(np.arange(len(self.columns)))
            elif not (self._singles() or self._pairs() or self._pivots() or self._multiple()):
                shortest = int(np.diff(self.left.indptr).argmin())
                self._abandon(self.left.indices[slice(*self.left.indptr[shortest : shortest + 2])])
            self._tidy()

    def solution(self) -> Solution:
        """Put the steps together, the last one first."""
        bound = np.zeros(self.count, bool)
        for pivots, _ in self.steps:
            bound[pivots] = True
        free = np.flatnonzero(~bound)
        matrix = _sparse(np.ones(len(free)), free, np.arange(len(free)), (self.count, len(free)))
        for pivots, expressions in reversed(self.steps):
            place = _sparse(np.ones(len(pivots)), pivots, np.arange(len(pivots)), (self.count, len(pivots)))
            wide = _sparse(expressions.data, expressions.row, expressions.col, (len(pivots), self.count))
            matrix = self._reduced(csr_array(matrix + place @ (wide @ matrix)))
        gone = np.concatenate(self.abandoned) if self.abandoned else np.zeros(0, np.int64)
        return Solution(csr_array(matrix[: self.variables]), free, gone)

    # -- steps: each returns whether it did anything --------------------------------------------------

    def _singles(self) -> bool:
        """Equations of one variable: it is 0."""
        alone = np.flatnonzero(np.diff(self.left.indptr) == 1)
        found = np.unique(self.left.indices[self.left.indptr[alone]])
        if found.size:
            self._eliminate(found, _sparse([], [], [], (len(found), len(self.columns))))
        return bool(found.size)

    def _pairs(self) -> bool:
        """Equations x = ±y: the classes of equal variables, by components of a graph of ±x."""
        start = self.left.indptr[:-1][np.diff(self.left.indptr) == 2]
        one, two = self.left.data[start], self.left.data[start + 1]
        unit = (abs(one) == 1) & (abs(two) == 1)
        start, same = start[unit], (one * two < 0)[unit] | (self.modulus == 2)
        if not start.size:
            return False
        count = len(self.columns)
        x, y = self.left.indices[start].astype(np.int64), self.left.indices[start + 1].astype(np.int64)
        other = ~same  # node 2 v stands for x_v, node 2 v + 1 for -x_v
        edges = _sparse(
            np.ones(2 * len(x)),
            np.concatenate([2 * x, 2 * x + 1]),
            np.concatenate([2 * y + other, 2 * y + 1 - other]),
            (2 * count, 2 * count),
        )
        classes: np.ndarray = connected_components(edges, directed=False)[1].astype(np.int64)
        first = np.full(2 * count, 2 * count)
        np.minimum.at(first, classes, np.arange(2 * count))
        root = first[classes[::2]]
        none = (classes[::2] == classes[1::2]) & (self.modulus != 2)  # x = -x
        pivots = np.flatnonzero(none | (root != 2 * np.arange(count)))
        named = np.flatnonzero(~none[pivots])
        target = root[pivots[named]]
        expressions = _sparse(1 - 2 * (target % 2), named, target // 2, (len(pivots), count))
        self._eliminate(pivots, expressions)
        return True

    def _pivots(self) -> bool:
        """Many pivots of coefficient ±1, none of whose equations holds another one's variable."""
        left = self.left
        rows = np.repeat(np.arange(left.shape[0]), np.diff(left.indptr))
        unit = np.flatnonzero(abs(left.data) == 1)
        if not unit.size:
            return False
        fill = (np.diff(left.indptr)[rows] - 1) * (np.bincount(left.indices)[left.indices] - 1)
        # The cheapest pivot of every row, and of the rows that chose one column the cheapest.
        order = unit[np.lexsort((unit, fill[unit]))]
        order = order[np.sort(np.unique(rows[order], return_index=True)[1])]
        order = order[np.sort(np.unique(left.indices[order], return_index=True)[1])]
        order = order[fill[order] <= max(8, 2 * int(fill[order[0]]))]
        chosen = order[self._apart(rows[order], left.indices[order], fill[order])]
        pivots = left.indices[chosen]
        equations = csr_array(left[rows[chosen]])
        scale = -left.data[chosen]  # ±1: its own inverse
        number = np.repeat(np.arange(len(chosen)), np.diff(equations.indptr))
        rest = equations.indices != pivots[number]
        expressions = _sparse(
            (equations.data * scale[number])[rest], number[rest], equations.indices[rest], equations.shape
        )
        kept = np.ones(left.shape[0], bool)
        kept[rows[chosen]] = False
        self.left = csr_array(left[np.flatnonzero(kept)])
        self._eliminate(pivots, expressions)
        return True

    def _apart(self, rows: np.ndarray, columns: np.ndarray, fill: np.ndarray) -> np.ndarray:
        """A set of candidates none of which meets another one: those of least fill among their neighbours."""
        candidates = csr_array(self.left[rows])
        number = np.full(len(self.columns), -1)
        number[columns] = np.arange(len(columns))
        first = np.repeat(np.arange(len(rows)), np.diff(candidates.indptr))
        second = number[candidates.indices]
        meeting = (second >= 0) & (second != first)
        first, second = first[meeting], second[meeting]
        rank = np.empty(len(rows), np.int64)
        rank[np.lexsort((self.generator.permutation(len(rows)), fill))] = np.arange(len(rows))
        best = np.full(len(rows), len(rows))
        np.minimum.at(best, first, rank[second])
        np.minimum.at(best, second, rank[first])
        return np.flatnonzero(rank < best)

    def _multiple(self) -> bool:
        """One equation p x + q y = 0: then x = q t and y = -p t."""
        found = np.flatnonzero(np.diff(self.left.indptr) == 2)
        if not found.size:
            return False
        place = self.left.indptr[found[0]]
        p, q = self.left.data[place : place + 2]
        self.columns = np.append(self.columns, self.count)
        self.count += 1
        count = len(self.columns)
        self.left = csr_array(
            (self.left.data, self.left.indices, self.left.indptr), shape=(self.left.shape[0], count)
        )
        expressions = _sparse([q, -p], [0, 1], [count - 1, count - 1], (2, count))
        self._eliminate(self.left.indices[place : place + 2], expressions)
        return True

    def _abandon(self, columns: np.ndarray) -> None:
        """Set variables to 0 that cannot be solved for: sound, and reported."""
        columns = np.unique(columns)
        self.abandoned.append(self.columns[columns])
        self._eliminate(columns, _sparse([], [], [], (len(columns), len(self.columns))))

    # -- bookkeeping ----------------------------------------------------------------------------

    def _eliminate(self, pivots: np.ndarray, expressions: csr_array) -> None:
        """Put the expressions, in columns that stay, in the place of the pivots."""
        spelled = coo_array(expressions)
        spelled = coo_array(
            (spelled.data, (spelled.row, self.columns[spelled.col])), shape=(len(pivots), self.count)
        )
        self.steps.append((self.columns[pivots], spelled))
        number = np.full(len(self.columns), -1)
        number[pivots] = np.arange(len(pivots))
        rows = np.repeat(np.arange(self.left.shape[0]), np.diff(self.left.indptr))
        gone = number[self.left.indices] >= 0
        data, columns = self.left.data, self.left.indices
        rest = _sparse(data[~gone], rows[~gone], columns[~gone], self.left.shape)
        if expressions.nnz:
            parts = (self.left.shape[0], len(pivots))
            rest = csr_array(
                rest + _sparse(data[gone], rows[gone], number[columns[gone]], parts) @ expressions
            )
        self.left = rest

    def _reduced(self, matrix: csr_array) -> csr_array:
        """Modulo 2 if so wanted, and without stored zeros."""
        if self.modulus:
            matrix.data %= self.modulus
        matrix.eliminate_zeros()
        return matrix

    def _tidy(self) -> None:
        """Short rows, no common factor in them, no row twice, and no column that nothing needs."""
        left = self._reduced(self.left)
        left.sum_duplicates()
        left = self._reduced(left)
        left = csr_array(left[np.flatnonzero(np.diff(left.indptr))])
        if left.shape[0]:
            start, sizes = left.indptr[:-1], np.diff(left.indptr)
            divisor = np.gcd.reduceat(left.data, start) * np.sign(left.data[start])
            left.data //= np.repeat(divisor, sizes)
            weight = self.generator.integers(1 << 62, size=left.shape[1])
            with np.errstate(over="ignore"):
                key = np.add.reduceat(left.data * weight[left.indices], start)
            left = csr_array(left[np.sort(np.unique(key, return_index=True)[1])])
        used = np.unique(left.indices)
        number = np.full(left.shape[1], -1)
        number[used] = np.arange(len(used))
        self.columns = self.columns[used]
        self.left = csr_array(
            (left.data, number[left.indices], left.indptr), shape=(left.shape[0], len(used))
        )


def _sparse(data: ArrayLike, rows: ArrayLike, columns: ArrayLike, shape: tuple[int, ...]) -> csr_array:
    """A sparse matrix of integers; entries of one place are summed."""
    parts = (np.asarray(data, np.int64), (np.asarray(rows, np.int64), np.asarray(columns, np.int64)))
    return csr_array(coo_array(parts, shape=shape))

"""The group's action relaxed: a matrix for every axis where a group element has a permutation.

A permutation p of an axis acts as the matrix P with P[i, p[i]] = 1. Any other matrix M in its place mixes the
units, new_i = Σ_j M[i, j] old_j, so that gradients reach the choice of units. The mixing is linear in the
matrix at every place of an axis; a tensor that one axis spans twice is quadratic in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from isthmus.errors import SymmetryError
from isthmus.match.slices import real
from isthmus.symmetry import Alignment, Axis, Symmetry
from isthmus.symmetry.action import Place, members_of
from isthmus.weights import Weights

Matrices = Mapping[str, Tensor]
"""Axis name -> matrix of shape (size, size)."""

_Carried = tuple[str, Place]
_Pairs = tuple[Tensor, Tensor]


def matrices_of(element: Alignment, like: Tensor) -> dict[str, Tensor]:
    """A group element as one permutation matrix an axis, with dtype and device of `like`."""
    found = {}
    for name, p in element.permutations.items():
        found[name] = torch.zeros(p.numel(), p.numel(), dtype=like.dtype, device=like.device)
        found[name][torch.arange(p.numel()), p] = 1
    return found


@dataclass(frozen=True, eq=False)
class SoftAction:
    """M·θ for one matrix M an axis, differentiable in the matrices.

    For the permutation matrices of a group element it is the element's own action on the parameters.

    Attributes:
        symmetry: the group.

    Example:
        >>> import torch, isthmus as im
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> symmetry, w = im.discover(net, torch.zeros(1, 2)), im.Weights.from_module(net)
        >>> average = {"0.weight[0]": torch.full((3, 3), 1 / 3)}
        >>> mixed = im.Weights(w.layout, SoftAction(symmetry)(average, w))
        >>> bool(torch.isclose(mixed["0.bias"], w["0.bias"].mean()).all())
        True

    Limits: buffers are left alone. In a grouped convolution the rows are mixed by one matrix and the inputs
    within the groups by another, so that what belongs to two groups at once is mixed as if they were
    independent: it makes no difference for a group element.

    Cost: one product of (size × size) with (size × rest) for each place of each axis.
    """

    symmetry: Symmetry

    def __call__(self, matrices: Matrices, weights: Weights) -> Tensor:
        """The mixed weights as a vector, shape (P,).

        Args:
            matrices: one an axis, shape (size, size); an axis without one stays.
            weights: what is mixed.

        Raises:
            SymmetryError: the weights do not fit, or a matrix has a wrong shape or names no axis.
        """
        self.symmetry.check(weights)
        self._check(matrices)
        layout, parts = weights.layout, []
        for name, start, size in zip(layout.names, layout.offsets, layout.sizes, strict=True):
            moves = [
                (dim, blocks, [(axis, place) for axis, place in carried if axis in matrices])
                for (dim, blocks), carried in self._moves.get(name, {}).items()
            ]
            moves = [move for move in moves if move[2]]
            flat = weights.vector[start : start + size]
            parts.append(_moved(real(weights[name]), moves, matrices).reshape(-1) if moves else flat)
        return torch.cat(parts)

    def _check(self, matrices: Matrices) -> None:
        sizes = {axis.name: axis.size for axis in self.symmetry.axes}
        for name, matrix in matrices.items():
            if name not in sizes:
                raise SymmetryError(f"there is no axis {name!r}; the axes are {', '.join(sizes)}")
            if matrix.shape != (sizes[name], sizes[name]):
                raise SymmetryError(
                    f"the matrix of the axis {name} must have shape {[sizes[name]] * 2}, got "
                    f"{list(matrix.shape)}"
                )

    @cached_property
    def _moves(self) -> Mapping[str, Mapping[tuple[int, int], list[_Carried]]]:
        """For each parameter and (dim, blocks) the places along it; blocks last, as in the exact action."""
        shapes = dict(zip(self.symmetry.layout.names, self.symmetry.layout.shapes, strict=True))
        found: dict[str, dict[tuple[int, int], list[_Carried]]] = {}
        for axis in self.symmetry.axes:
            for place in axis.places:
                if place.parameter in shapes:
                    moves = found.setdefault(place.parameter, {})
                    moves.setdefault((place.dim, place.blocks), []).append((axis.name, place))
        return {
            name: {key: _seen(moves[key]) for key in sorted(moves, key=lambda key: key[1])}
            for name, moves in found.items()
        }


def _seen(carried: Sequence[_Carried]) -> list[_Carried]:
    """The places that later ones (of axes further down) do not write over entirely."""
    kept: list[_Carried] = []
    written = torch.empty(0, dtype=torch.int64)
    for name, place in reversed(carried):
        if not bool(torch.isin(place.index, written).all()):
            kept.append((name, place))
            written = torch.cat([written, place.index.reshape(-1)])
    return kept[::-1]


def _moved(tensor: Tensor, moves: Sequence[tuple[int, int, list[_Carried]]], matrices: Matrices) -> Tensor:
    for dim, blocks, carried in moves:
        if blocks == 1:
            tensor = _mixed(tensor.movedim(dim, 0), carried, matrices).movedim(0, dim)
        else:
            tensor = _mixed_in_blocks(tensor, dim, blocks, carried, matrices)
    return tensor


def _mixed(tensor: Tensor, carried: Sequence[_Carried], matrices: Matrices) -> Tensor:
    """Mixed along dim 0; what is mixed is always the tensor as it came, as in the exact action."""
    out = tensor
    for name, place in carried:
        index = place.index.reshape(-1).to(tensor.device)
        matrix = matrices[name].to(tensor)
        whole = index.numel() == tensor.shape[0]
        ordered = whole and torch.equal(index, torch.arange(index.numel(), device=index.device))
        rows = tensor if ordered else tensor.index_select(0, index)
        mixed = (matrix @ rows.reshape(place.index.shape[0], -1)).reshape(rows.shape)
        out = mixed if ordered else out.index_copy(0, index, mixed)
    return out


def _mixed_in_blocks(
    tensor: Tensor, dim: int, blocks: int, carried: Sequence[_Carried], matrices: Matrices
) -> Tensor:
    """Mixed along `dim` by a matrix of its own in each block of axis 0, whose blocks have moved already."""
    size = tensor.shape[dim]
    mixing = torch.eye(size, dtype=tensor.dtype, device=tensor.device).repeat(blocks, 1)
    for name, place in carried:
        matrix = matrices[name].to(tensor)
        for rows in place.index.T.to(tensor.device):
            inside = matrix.new_zeros(rows.numel(), size).index_add(1, rows % size, matrix)
            mixing = mixing.index_copy(0, rows, inside)
    front = tensor.reshape(blocks, -1, *tensor.shape[1:]).movedim(dim + 1, 1)
    mixed = torch.bmm(mixing.view(blocks, size, size), front.flatten(2)).reshape(front.shape)
    return mixed.movedim(1, dim + 1).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Relaxation:
    """From free numbers to soft elements of the group: doubly stochastic matrices that respect the cells.

    Every pair of cells that may come in one another's place has a doubly stochastic block. The matrix of an
    axis is the product of its own blocks and those of all axes above it,

        M[i, j] = S[i, j] Π_above S_above[above(i), above(j)],

    each axis above counted once. So its rows and columns sum to one, and where all blocks are permutations,
    it is the matrix of a group element: units of a head go where their head goes.

    Attributes:
        symmetry: the group.

    Cost: memory size² an axis; an axis below two others has as many units as they have pairs.
    """

    symmetry: Symmetry

    def matrices(self, free: Matrices, project: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """One matrix an axis.

        Args:
            free: one an axis, shape (size, size); numbers between units that can never meet are not read.
            project: from (pairs, n, n) free numbers to as many doubly stochastic matrices.
        """
        blocks: dict[str, Tensor] = {}
        found: dict[str, Tensor] = {}
        for axis in self.symmetry.axes:
            blocks[axis.name] = self._blocks(axis, free[axis.name], project)
            matrix = blocks[axis.name]
            for above, at in self._above[axis.name]:
                at = at.to(matrix.device)
                matrix = matrix * blocks[above].index_select(0, at).index_select(1, at)
            found[axis.name] = matrix
        return found

    def _blocks(self, axis: Axis, free: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        pairs = self._pairs[axis.name]
        if not axis.parents and len(pairs) == 1 and pairs[0][0].shape == (1, axis.size):
            return project(free[None])[0]
        out = torch.zeros_like(free)
        for rows, columns in pairs:
            at = (rows[:, :, None].to(free.device), columns[:, None, :].to(free.device))
            block = free[at]
            out = out.index_put(at, project(block) if rows.shape[1] > 1 else torch.ones_like(block))
        return out

    @cached_property
    def _pairs(self) -> Mapping[str, list[_Pairs]]:
        """For each axis, by the size of cells: the units of one cell, and of one that may come there."""
        found: dict[str, list[_Pairs]] = {}
        for axis in self.symmetry.axes:
            sized: dict[int, list[Tensor]] = {}
            for units in members_of(axis):
                sized.setdefault(units.numel(), []).append(units)
            found[axis.name] = [_all_pairs(torch.stack(c), bool(axis.parents)) for c in sized.values()]
        return found

    @cached_property
    def _above(self) -> Mapping[str, list[tuple[str, Tensor]]]:
        """For each axis all above it, near and far, with the unit there of each unit; each only once."""
        found: dict[str, list[tuple[str, Tensor]]] = {}
        for axis in self.symmetry.axes:
            above: list[tuple[str, Tensor]] = []
            for parent, at in axis.parents:
                for name, to in [(parent, at), *((far, to[at]) for far, to in found[parent])]:
                    if not any(name == other and torch.equal(to, known) for other, known in above):
                        above.append((name, to))
            found[axis.name] = above
        return found


def _all_pairs(cells: Tensor, every: bool) -> _Pairs:
    """Every pair of cells, or each cell with itself alone."""
    number = cells.shape[0]
    if not every:
        return cells, cells
    return cells.repeat_interleave(number, 0), cells.repeat(number, 1)

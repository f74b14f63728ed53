"""How permutations of units act on tensors, and how to choose them cell by cell."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Assign = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class Place:
    """Where the units of an axis lie in one tensor.

    Attributes:
        parameter: the name of the parameter or buffer.
        dim: the axis of the tensor.
        index: LongTensor of shape (units, occurrences): where along `dim` each unit lies. Corresponding
            occurrences of two units stand in the same column.
        blocks: if above 1, axis 0 of the tensor falls into this many equal blocks, each with an order of its
            own along `dim` (a grouped convolution); an index is then block * size of `dim` + place.
    """

    parameter: str
    dim: int
    index: Tensor
    blocks: int = 1


@dataclass(frozen=True, eq=False, repr=False)
class Axis:
    """Interchangeable hidden units.

    Attributes:
        name: the first place that carries it, such as `fc1.weight[0]`.
        size: how many units it has.
        places: where they lie.
        parents: names of parent axes, with the parent unit of each unit, shape (size,): units of a group
            follow their group.
        cells: the number of each unit's cell, shape (size,): units with the same parents.
        fixed: units beside them along the first place that may not move.
    """

    name: str
    size: int
    places: tuple[Place, ...]
    parents: tuple[tuple[str, Tensor], ...]
    cells: Tensor
    fixed: int = 0

    def __repr__(self) -> str:
        carried = ", ".join(f"{place.parameter}[{place.dim}]" for place in self.places)
        within = f", in {self.parent}" if self.parent else ""
        return f"Axis({self.name}, {self.free} of {self.size} units free{within}, carried by {carried})"

    @property
    def parent(self) -> str | None:
        """The name of the (first) parent axis."""
        return self.parents[0][0] if self.parents else None

    @property
    def free(self) -> int:
        """Units that may change places with another one of their own cell."""
        counts = self.cells.bincount()
        return int(counts[counts > 1].sum())


# -- on tensors -----------------------------------------------------------------------------------


def gathers(
    axes: Sequence[Axis], permutations: Mapping[str, Tensor], sizes: Mapping[str, Sequence[int]]
) -> dict[tuple[str, int, int], Tensor]:
    """For each (tensor, dim, blocks) that changes: the index with new = old[index] along that dim."""
    indices: dict[tuple[str, int, int], Tensor] = {}
    for axis in axes:
        permutation = permutations[axis.name]
        if torch.equal(permutation, torch.arange(axis.size)):
            continue
        for place in axis.places:
            key = (place.parameter, place.dim, place.blocks)
            if key not in indices:
                indices[key] = torch.arange(sizes[place.parameter][place.dim] * place.blocks)
            indices[key][place.index] = place.index[permutation]
    return indices


def permute(tensor: Tensor, moves: Mapping[tuple[int, int], Tensor]) -> Tensor:
    """The tensor reordered along its axes; orders of blocks come last, after the blocks themselves moved."""
    for (dim, blocks), index in sorted(moves.items(), key=lambda item: item[0][1]):
        index = index.to(tensor.device)
        if blocks == 1:
            tensor = tensor.index_select(dim, index)
            continue
        size = tensor.shape[dim]
        inside = (index % size).view(blocks, *[size if axis == dim else 1 for axis in range(1, tensor.dim())])
        inside = inside.repeat_interleave(tensor.shape[0] // blocks, 0).expand(tensor.shape)
        tensor = tensor.gather(dim, inside)
    return tensor


# -- cells ----------------------------------------------------------------------------------------


def paired_cells(axis: Axis, permutations: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """For every cell its units, and the units of the cell that comes in its place."""
    members = members_of(axis)
    if not axis.parents:
        yield from ((units, units) for units in members)
        return
    by_parents = {tuple(int(i[units[0]]) for _, i in axis.parents): units for units in members}
    for parents, units in by_parents.items():
        source = tuple(int(permutations[n][p]) for (n, _), p in zip(axis.parents, parents, strict=True))
        yield units, by_parents[source]


def members_of(axis: Axis) -> list[Tensor]:
    """The units of each cell, ascending."""
    order = axis.cells.argsort(stable=True)
    return list(torch.split(order, axis.cells.bincount().tolist()))


def random(axes: Sequence[Axis], generator: torch.Generator) -> dict[str, Tensor]:
    """Uniformly random permutations, parents first."""
    chosen: dict[str, Tensor] = {}
    for axis in axes:
        permutation = torch.empty(axis.size, dtype=torch.int64)
        for units, source in paired_cells(axis, chosen):
            permutation[units] = source[torch.randperm(source.numel(), generator=generator)]
        chosen[axis.name] = permutation
    return chosen


def follow(axes: Sequence[Axis], start: Mapping[str, Tensor], leader: str) -> dict[str, Tensor]:
    """The permutations in `start`, but every axis below one that moved is brought after its parents."""
    chosen: dict[str, Tensor] = {}
    for axis in axes:
        chosen[axis.name] = start[axis.name]
        if axis.name == leader or all(_still(chosen[name]) for name, _ in axis.parents):
            continue
        permutation = torch.empty(axis.size, dtype=torch.int64)
        for units, source in paired_cells(axis, chosen):
            permutation[units] = source
        chosen[axis.name] = permutation
    return chosen


def _still(permutation: Tensor) -> bool:
    return torch.equal(permutation, torch.arange(permutation.numel()))


def nearest(
    axes: Sequence[Axis],
    scores: Mapping[str, Tensor],
    assign: Assign,
    start: Mapping[str, Tensor],
    moving: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """The permutations that maximise the sum of the chosen scores.

    An axis below another one is solved for the pairs of parents that the parents' choice can use: pairs are
    chosen by upper bounds first, those chosen are solved, and so on until all that are chosen are solved.
    That finds the optimum, since no other choice could reach it even at its bounds.

    Args:
        axes: all axes, parents first.
        scores: (size, size) matrices: the value of bringing unit j to place i. An axis without scores keeps
            its permutation in `start` if its parents did not move, and else takes any that follows them.
        assign: solves one linear assignment, maximising.
        start: the permutations to begin from.
        moving: the axes that are chosen anew; None for all. The others stay, or follow their parents.
    """
    free = {axis.name for axis in axes} if moving is None else set(moving)
    nested = _Nested(axes, {n: s.double() for n, s in scores.items() if n in free}, assign, start, free)
    chosen: dict[str, Tensor] = {}
    for axis in axes:
        valued = axis.name in nested.bounds
        still = all(torch.equal(chosen[name], start[name]) for name, _ in axis.parents)
        if not valued and still:
            chosen[axis.name] = start[axis.name]
            continue
        permutation = torch.empty(axis.size, dtype=torch.int64)
        for units, source in paired_cells(axis, chosen):
            permutation[units] = nested.solve(axis.name, units, source)[1] if valued else source
        chosen[axis.name] = permutation
    return chosen


def owner_of(axis: Axis, axes: Mapping[str, Axis], moving: Collection[str]) -> str | None:
    """The one parent whose move an axis follows, if there is one: a parent's own parent says nothing more."""
    found = [(name, at) for name, at in axis.parents if name in moving]
    for name, at in found:
        own = dict(axes[name].parents)
        if all(other == name or (other in own and torch.equal(own[other][at], to)) for other, to in found):
            return name
    return None


_FEW = 4  # cells of so few units are solved by trying all orders of all pairs at once


class _Nested:
    """Assignments within assignments: what the units below two units are worth counts for the pair.

    `bounds[axis][i, j]` is the value of the pair, or no less than it where units below it are not solved yet.
    """

    def __init__(
        self,
        axes: Sequence[Axis],
        scores: Mapping[str, Tensor],
        assign: Assign,
        start: Mapping[str, Tensor],
        moving: Collection[str],
    ) -> None:
        self.assign = assign
        self.bounds = dict(scores)
        self._scores = dict(scores)
        self._below: dict[str, list[str]] = {}  # axes whose pairs are solved only when they are asked for
        self._cells: dict[str, dict[int, list[tuple[Tensor, Tensor]]]] = {}
        self._solved: dict[tuple[str, int, int], tuple[float, Tensor]] = {}
        named = {axis.name: axis for axis in axes}
        for axis in reversed(axes):
            owner = owner_of(axis, named, moving)
            if owner is None or axis.name not in self.bounds:
                continue
            self._cells[axis.name] = cells = _cells_by_owner(axis, owner, start)
            values, exact = self._values(axis.name, cells, named[owner].size)
            for table in (self.bounds, self._scores) if exact else (self.bounds,):
                table[owner] = table[owner] + values if owner in table else values
            if not exact:
                self._below.setdefault(owner, []).append(axis.name)

    def solve(self, name: str, units: Tensor, source: Tensor) -> tuple[float, Tensor]:
        """What it is worth to bring one cell to the places of another, and the unit for each place."""
        key = (name, int(units[0]), int(source[0]))
        if key not in self._solved:
            self._solved[key] = self._solve(name, units, source)
        return self._solved[key]

    def _solve(self, name: str, units: Tensor, source: Tensor) -> tuple[float, Tensor]:
        values = self.bounds[name][units[:, None], source]
        below = self._below.get(name, [])
        done = torch.full_like(values, not below, dtype=torch.bool)
        places = torch.arange(units.numel())
        while True:
            best = self.assign(values) if units.numel() > 1 else places
            if bool(done[places, best].all()):
                return float(values[places, best].sum()), source[best]
            for place in places[~done[places, best]].tolist():
                here, there = int(units[place]), int(source[best[place]])
                inner = sum(self._inner(child, here, there) for child in below)
                values[place, best[place]] = self._own(name, here, there) + inner
                done[place, best[place]] = True

    def _own(self, name: str, here: int, there: int) -> float:
        return float(self._scores[name][here, there]) if name in self._scores else 0.0

    def _inner(self, name: str, here: int, there: int) -> float:
        """What the units of an axis below one pair of its parent's units are worth."""
        cells = self._cells[name]
        pairs = zip(cells.get(here, []), cells.get(there, []), strict=True)
        return sum(self.solve(name, units, source)[0] for (units, _), (_, source) in pairs)

    def _values(
        self, name: str, cells: Mapping[int, Sequence[tuple[Tensor, Tensor]]], size: int
    ) -> tuple[Tensor, bool]:
        """For every pair of parents the value of the axis below them, or a bound, and whether it is exact."""
        scores = self.bounds[name]
        values = scores.new_zeros(size, size)
        shapes: dict[tuple[int, ...], list[int]] = {}
        for parent, found in cells.items():
            shapes.setdefault(tuple(units.numel() for units, _ in found), []).append(parent)
        for sizes, parents in shapes.items():
            for number in range(len(sizes)):
                units = torch.stack([cells[parent][number][0] for parent in parents])
                source = torch.stack([cells[parent][number][1] for parent in parents])
                values[torch.tensor(parents)[:, None], torch.tensor(parents)] += _all_pairs(
                    scores, units, source
                )
        few = max((max(sizes) for sizes in shapes), default=0) <= _FEW
        return values, few and name not in self._below


def _cells_by_owner(
    axis: Axis, owner: str, start: Mapping[str, Tensor]
) -> dict[int, list[tuple[Tensor, Tensor]]]:
    """For each unit of the owner its cells, those of the other parents' units in order.

    The second of a pair are the units that come from there when the other parents are permuted as in `start`.
    """
    along = dict(axis.parents)[owner]
    others = [(name, at) for name, at in axis.parents if name != owner]
    cells: dict[int, dict[tuple[int, ...], Tensor]] = {}
    for units in members_of(axis):
        first = int(units[0])
        key = tuple(int(at[first]) for _, at in others)
        cells.setdefault(int(along[first]), {})[key] = units
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for parent, inside in cells.items():
        images = {
            key: tuple(int(start[name][unit]) for (name, _), unit in zip(others, key, strict=True))
            for key in inside
        }
        found[parent] = [(inside[key], inside.get(images[key], inside[key])) for key in sorted(inside)]
    return found


def _all_pairs(scores: Tensor, units: Tensor, source: Tensor) -> Tensor:
    """For all pairs of cells, shape (cells, size) each, the best assignment's value, or an upper bound.

    Exact for cells of up to four units. The bound is a feasible point of the dual: s_ij ≤ u_i + v_j with
    u_i = max_j s_ij and v_j = max_i (s_ij - u_i), or columns first, whichever is less.
    """
    rows = []
    for cell in units:
        block = scores[cell][:, source.reshape(-1)].view(cell.numel(), *source.shape)  # row, cell, column
        if cell.numel() <= _FEW:
            rows.append(_tried(block.movedim(1, 0)))
            continue
        high, most = block.amax(2, keepdim=True), block.amax(0, keepdim=True)
        by_rows = high.sum((0, 2)) + (block - high).amax(0).sum(1)
        by_columns = most.sum((0, 2)) + (block - most).amax(2).sum(0)
        rows.append(torch.minimum(by_rows, by_columns))
    return torch.stack(rows)


def _tried(blocks: Tensor) -> Tensor:
    """The best assignment's value for each of these small square blocks, all orders tried."""
    places = list(range(blocks.shape[1]))
    orders = torch.tensor(list(itertools.permutations(places)))
    return blocks[:, torch.tensor(places), orders].sum(2).amax(1)

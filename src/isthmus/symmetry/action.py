"""How permutations of units act on tensors, and how to choose them cell by cell."""

from __future__ import annotations

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

    Args:
        axes: all axes, parents first.
        scores: (size, size) matrices: the value of bringing unit j to place i. An axis without scores keeps
            its permutation in `start` if its parents did not move, and else takes any that follows them.
        assign: solves one linear assignment, maximising.
        start: the permutations to begin from.
        moving: the axes that are chosen anew; None for all. The others stay, or follow their parents.
    """
    free = {axis.name for axis in axes} if moving is None else set(moving)
    totals = {name: score.double() for name, score in scores.items() if name in free}
    for axis in reversed(axes):
        owner = axis.parents[0][0] if len(axis.parents) == 1 else None
        if owner in free and axis.name in totals:
            inner = _inner_values(axis, totals[axis.name], assign)
            totals[owner] = totals[owner] + inner if owner in totals else inner
    chosen: dict[str, Tensor] = {}
    for axis in axes:
        still = all(torch.equal(chosen[name], start[name]) for name, _ in axis.parents)
        if axis.name not in totals and still:
            chosen[axis.name] = start[axis.name]
            continue
        permutation = torch.empty(axis.size, dtype=torch.int64)
        for units, source in paired_cells(axis, chosen):
            best = source
            if axis.name in totals and units.numel() > 1:
                best = source[assign(totals[axis.name][units][:, source])]
            permutation[units] = best
        chosen[axis.name] = permutation
    return chosen


def _inner_values(axis: Axis, scores: Tensor, assign: Assign) -> Tensor:
    """For every pair of parents, the value of the best assignment of the one's units to the other's."""
    members = members_of(axis)
    parents = [int(axis.parents[0][1][units[0]]) for units in members]
    values = scores.new_zeros(len(members), len(members))
    for here, units in zip(parents, members, strict=True):
        for there, source in zip(parents, members, strict=True):
            block = scores[units][:, source]
            values[here, there] = block.gather(1, assign(block)[:, None]).sum()
    return values

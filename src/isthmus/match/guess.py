"""A first guess that does not depend on the order of B's units.

The axes are matched one after the other, first those whose slices lie mostly along axes that are matched
already, or that cannot move (inputs, outputs, the places of a kernel). Along an axis that is not matched yet
the numbers of a slice are sorted: the inner product of two sorted slices is the largest that any order of
that axis can give (the rearrangement inequality), and the same for every order that B comes in.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from isthmus.match.places import Counted, roots_of
from isthmus.match.state import State, slices
from isthmus.symmetry import Axis
from isthmus.symmetry.action import Place

# (parameter, dim) -> the places along it, with the axes without parents that settle their order.
_Along = Mapping[tuple[str, int], Sequence[tuple[Place, frozenset[str]]]]


def guess(state: State) -> None:
    """Bring B close to A, whatever order its units come in."""
    along = _settled_by(state.symmetry.axes)
    waiting = dict.fromkeys(state.families)
    while waiting:
        root = max(waiting, key=lambda name: _anchored(state, name, along, waiting))
        del waiting[root]
        moving = frozenset(axis.name for axis in state.families[root])
        scores = {
            name: _scores(state, places, along, {*waiting, root})
            for name, places in state.counted(moving).items()
        }
        state.move(scores, moving, anyway=True)


def _settled_by(axes: Sequence[Axis]) -> _Along:
    """The order inside a block is not settled by what only moves the blocks."""
    roots = roots_of(axes)
    along: dict[tuple[str, int], list[tuple[Place, frozenset[str]]]] = {}
    for axis in axes:
        for place in axis.places:
            by = roots[axis.name]
            if place.blocks > 1 and not axis.free:
                block = place.index[:, 0] // int(place.index.max() // place.blocks + 1)
                inside = [roots[name] for name, at in axis.parents if not _tells(at, block)]
                by = frozenset().union(*inside)
            along.setdefault((place.parameter, place.dim), []).append((place, by))
    return along


def _tells(at: Tensor, block: Tensor) -> bool:
    """Whether the block of a unit is known once its parent is."""
    return len({*zip(at.tolist(), block.tolist(), strict=True)}) == len({*at.tolist()})


def _anchored(state: State, root: str, along: _Along, waiting: Collection[str]) -> float:
    """The share of the slices of a root's axes that lie along matched or immovable axes alone."""
    moving = frozenset(axis.name for axis in state.families[root])
    shares = []
    for places in state.counted(moving).values():
        known = total = 0
        for each in places:
            name, dim = each.place.parameter, each.place.dim
            numel = math.prod(state.sizes[name])
            total += numel
            loose = any(_loose(along, name, other, waiting) for other in _others(state, name, dim))
            known += 0 if loose or each.given & set(waiting) else numel
        shares.append(known / max(total, 1))
    return min(shares, default=1.0)


def _others(state: State, name: str, dim: int) -> list[int]:
    return [other for other in range(len(state.sizes[name])) if other != dim]


def _loose(along: _Along, name: str, dim: int, waiting: Collection[str]) -> list[Place]:
    """The places along a dim of a tensor whose order is not settled yet."""
    return [place for place, by in along.get((name, dim), ()) if by & set(waiting)]


def _scores(state: State, places: Sequence[Counted], along: _Along, waiting: Collection[str]) -> Tensor:
    """As in the descent, with slices sorted along axes that wait.

    Tensors count in the objective's own units. To divide each by its size was tried: planted orders came back
    as often, and unrelated ResNets reached a lower objective.
    """
    units = places[0].place.index.shape[0]
    total = torch.zeros(units, units, dtype=torch.float64)
    for each in places:
        if each.given & set(waiting):
            continue
        name, dim = each.place.parameter, each.place.dim
        loose = {other: _loose(along, name, other, waiting) for other in _others(state, name, dim)}
        left, right = (
            _sorted_slices(side[name], each.place, {d: p for d, p in loose.items() if p})
            for side in (state.fixed, state.moving)
        )
        total += (left @ right.T).cpu().double()
    return total


def _sorted_slices(tensor: Tensor, place: Place, loose: Mapping[int, Sequence[Place]]) -> Tensor:
    """The slices of a tensor at each unit, sorted along the places that wait."""
    for dim in sorted(loose, reverse=True):  # the last axis first: its order may differ from block to block
        if dim == 0 and place.blocks > 1:
            blocks = tensor.reshape(place.blocks, -1, *tensor.shape[1:])
            tensor = _ascending(blocks, 1).reshape(tensor.shape)
            continue
        for columns in _columns(loose[dim], tensor.shape[dim]):
            columns = columns.to(tensor.device)
            if columns.numel() == tensor.shape[dim]:
                tensor = _ascending(tensor, dim)
            else:
                part = _ascending(tensor.index_select(dim, columns), dim)
                tensor = tensor.index_copy(dim, columns, part)
    return slices(tensor, place)


def _ascending(tensor: Tensor, dim: int) -> Tensor:
    """The tensor sorted along one dim."""
    if tensor.device.type == "cpu":  # numpy's sort took a twelfth of torch's time, which finds an order too
        return torch.from_numpy(np.sort(tensor.numpy(), dim))
    return tensor.sort(dim).values


def _columns(places: Sequence[Place], size: int) -> list[Tensor]:
    """Which positions along a dim may change places with one another."""
    found = [column for place in places if place.blocks == 1 for column in place.index.T]
    if any(place.blocks > 1 for place in places):
        blocked = torch.cat([place.index.reshape(-1) % size for place in places if place.blocks > 1])
        found.append(torch.tensor(sorted({*blocked.tolist()})))
    return found

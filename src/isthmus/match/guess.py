"""A first guess that does not depend on the order of B's units.

The axes are matched one after the other, first those whose slices lie mostly along axes that are matched
already, or that cannot move (inputs, outputs, the places of a kernel). Along an axis that is not matched yet
the numbers of a slice are sorted: the inner product of two sorted slices is the largest that any order of
that axis can give (the rearrangement inequality), and the same for every order that B comes in. Where what is
known already tells the units apart, sorting is left out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from isthmus.match.places import Counted, roots_of
from isthmus.match.slices import products, slices
from isthmus.match.state import State
from isthmus.symmetry import Axis
from isthmus.symmetry.action import Place

# Sorted slices are left out for n units of which at least this many times log2(n) numbers are known. On pairs
# of untrained networks (MLP, ResNet-20 four times as wide, VGG-16) the descent then reached the same
# objective within the spread of pairs, in half the time; at 32 small networks began to lose.
_ENOUGH = 64

# (parameter, dim) -> the places along it, with the axes without parents that settle their order.
_Along = Mapping[tuple[str, int], Sequence[tuple[Place, frozenset[str]]]]


def guess(state: State) -> set[str]:
    """Bring B close to A, whatever order its units come in; returns the roots that are not solved yet."""
    state.costs.clear()
    along = _settled_by(state.symmetry.axes)
    waiting = dict.fromkeys(state.families)
    unsolved = set(state.families)
    while waiting:
        root = max(waiting, key=lambda name: _anchored(state, name, along, waiting))
        del waiting[root]
        moving = frozenset(axis.name for axis in state.families[root])
        scores = {
            name: _scores(state, name, places, along, {*waiting, root})
            for name, places in state.counted(moving).items()
        }
        changed = state.move(scores, moving, anyway=True)
        if root in state.alone and state.costs.complete(root):
            unsolved.discard(root)
        unsolved |= changed
    state.value()
    return unsolved


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


def _scores(
    state: State, name: str, places: Sequence[Counted], along: _Along, waiting: Collection[str]
) -> Tensor:
    """As in the descent, with slices sorted along axes that wait if the others are not enough.

    Tensors count in the objective's own units. To divide each by its size was tried: planted orders came back
    as often, and unrelated ResNets reached a lower objective.
    """
    usable = {number: each for number, each in enumerate(places) if not each.given & set(waiting)}
    loose = {number: _loose_dims(state, each.place, along, waiting) for number, each in usable.items()}
    known = [number for number, dims in loose.items() if not dims]
    units = places[0].place.index.shape[0]
    if name in state.alone:
        total = state.costs.scores(name, [each.place for each in places], state.moving, known)
    else:
        total = torch.zeros(units, units, dtype=torch.float64)
        for place in (places[number].place for number in known):
            total += products(state.fixed[place.parameter], state.moving[place.parameter], place)
    numbers = sum(math.prod(state.sizes[places[number].place.parameter]) for number in known) / units
    if numbers >= _ENOUGH * math.log2(max(units, 2)):
        return total
    for number, dims in loose.items():
        if dims:
            place = places[number].place
            left, right = (
                _sorted_slices(side[place.parameter], place, dims) for side in (state.fixed, state.moving)
            )
            total = total + (left @ right.T).cpu().double()
    return total


def _loose_dims(
    state: State, place: Place, along: _Along, waiting: Collection[str]
) -> dict[int, list[Place]]:
    """The places not settled yet along each other dim of a place's tensor that has any."""
    loose = {
        other: _loose(along, place.parameter, other, waiting)
        for other in _others(state, place.parameter, place.dim)
    }
    return {dim: found for dim, found in loose.items() if found}


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

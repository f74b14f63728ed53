"""Which slices of the parameters tell the units of an axis apart, when some axes move and the others stay.

An axis that follows its parents (a unit of it is a pair of theirs, as a column of one expert is) has nothing
to choose, but its slices say something about the parents: they count as the slices of the one parent that
moves, in the order of those that stay. And a tensor that lies along an axis and along one below it is counted
once, at the lower one, which says more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isthmus.symmetry import Axis
from isthmus.symmetry.action import Place, members_of


@dataclass(frozen=True)
class Counted:
    """A place that counts for an axis.

    Attributes:
        place: the slices, one row of the index for each unit of the axis.
        given: the axes without parents whose order is taken as known.
    """

    place: Place
    given: frozenset[str] = frozenset()


@dataclass
class _Following:
    """How the units of an axis follow those of the `leader`.

    Attributes:
        leader: the axis that they follow; the axis itself if it chooses.
        at: the leader's unit for each unit.
        role: what a unit is among those of one leader's unit: equal roles come in one another's place.
        given: as in `Counted`.
    """

    leader: str
    at: Tensor
    role: Tensor
    given: frozenset[str] = field(default_factory=frozenset)


def roots_of(axes: Sequence[Axis]) -> dict[str, frozenset[str]]:
    """For each axis, those without parents that it lies below; itself if it has none."""
    roots: dict[str, frozenset[str]] = {}
    for axis in axes:
        above = [roots[name] for name, _ in axis.parents]
        roots[axis.name] = frozenset().union(*above) if above else frozenset([axis.name])
    return roots


def counted_places(
    axes: Sequence[Axis], moving: Collection[str], sizes: Mapping[str, Sequence[int]]
) -> dict[str, tuple[Counted, ...]]:
    """The places that count for each of the axes that move, the others being still.

    Args:
        axes: all axes, parents first.
        moving: the axes that move; those below them that are not named follow.
        sizes: name -> shape of the tensors that count.
    """
    named, following = {axis.name: axis for axis in axes}, _followings(axes, moving)
    found: dict[str, list[Counted]] = {}
    for name, how in following.items():
        for place in named[name].places:
            if place.parameter in sizes:
                size = sizes[place.parameter]
                if name == how.leader:
                    found.setdefault(name, []).append(Counted(place, how.given))
                elif (lifted := _lifted(place, how, named[how.leader].size, size)) is not None:
                    found.setdefault(how.leader, []).append(Counted(lifted, how.given))
    lower = {
        name: [
            _gathered(each.place, _at(named, below, name), named[name].size, sizes)
            for below in found
            if below != name and _at(named, below, name) is not None
            for each in found[below]
        ]
        for name in found
    }
    counted = {name: tuple(_once(places, lower[name])) for name, places in found.items()}
    return {name: places for name, places in counted.items() if places}


def _followings(axes: Sequence[Axis], moving: Collection[str]) -> dict[str, _Following]:
    """For each axis that moves or follows one leader, how; those that follow two at once are left out."""
    roots = roots_of(axes)
    named = {axis.name: axis for axis in axes}
    following: dict[str, _Following] = {}
    lost: set[str] = set()
    for axis in axes:
        moved = [name for name, _ in axis.parents if name in following]
        if axis.name in moving and (axis.free or not moved):
            still = torch.zeros(axis.size, dtype=torch.int64)
            given = (roots[name] for name, _ in axis.parents if name not in following)
            following[axis.name] = _Following(
                axis.name, torch.arange(axis.size), still, frozenset().union(*given)
            )
        elif any(name in lost for name, _ in axis.parents):
            lost.add(axis.name)
        elif moved:
            how = _follow(axis, named, following, roots)
            if how is None:
                lost.add(axis.name)
            else:
                following[axis.name] = how
    return following


def _follow(
    axis: Axis,
    named: Mapping[str, Axis],
    following: Mapping[str, _Following],
    roots: Mapping[str, frozenset[str]],
) -> _Following | None:
    """How an axis follows its parents; None if they follow two leaders that choose by themselves."""
    rank = torch.empty(axis.size, dtype=torch.int64)
    for units in members_of(axis):
        rank[units] = torch.arange(units.numel())
    columns, given = [rank], frozenset[str]()
    leaders: dict[str, Tensor] = {}
    for name, at in axis.parents:
        if name not in following:
            columns.append(at)
            given |= roots[name]
            continue
        columns.append(following[name].role[at])
        given |= following[name].given
        leaders[following[name].leader] = following[name].at[at]
    for leader, at in leaders.items():
        above = {other: _at(named, leader, other) for other in leaders if other != leader}
        if all(to is not None and torch.equal(to[at], leaders[other]) for other, to in above.items()):
            role = torch.unique(torch.stack(columns, 1), dim=0, return_inverse=True)[1]
            return _Following(leader, at, role, given - roots[leader])
    return None


def _at(named: Mapping[str, Axis], name: str, above: str) -> Tensor | None:
    """For each unit of an axis, its unit on an axis above it; None if that one is not above it."""
    if name == above:
        return torch.arange(named[name].size)
    for parent, at in named[name].parents:
        if (to := _at(named, parent, above)) is not None:
            return to[at]
    return None


def _lifted(place: Place, how: _Following, units: int, shape: Sequence[int]) -> Place | None:
    """The place of a follower as one of its leader; None if its units do not all have the same roles."""
    order = (how.at * (int(how.role.max()) + 1) + how.role).argsort()
    if how.at.numel() % units:
        return None
    roles, at = how.role[order].view(units, -1), how.at[order].view(units, -1)
    if not torch.equal(roles, roles[:1].expand_as(roles)) or not bool((at == at[:, :1]).all()):
        return None
    index = place.index[order].reshape(units, -1)
    return _whole_rows(Place(place.parameter, place.dim, index, place.blocks), shape)


def _whole_rows(place: Place, shape: Sequence[int]) -> Place:
    """The same slices as rows of the tensor, if a unit has all that lies in its blocks along this dim."""
    size = shape[place.dim]
    units = place.index.shape[0]
    if place.blocks == 1 or place.index.shape[1] % size:
        return place
    inside = place.index.sort(1).values.view(units, -1, size)
    first = inside[:, :, :1]
    if bool((first % size).any()) or not torch.equal(inside, first + torch.arange(size)):
        return place
    rows = shape[0] // place.blocks
    index = (first // size) * rows + torch.arange(rows)
    return Place(place.parameter, 0, index.reshape(units, -1))


def _gathered(place: Place, at: Tensor | None, units: int, sizes: Mapping[str, Sequence[int]]) -> Place:
    """The slices of an axis, those of one unit above it together, in any order."""
    assert at is not None
    if at.numel() % units or not bool((at.bincount(minlength=units) == at.numel() // units).all()):
        return place
    index = place.index[at.argsort(stable=True)].reshape(units, -1)
    return _whole_rows(Place(place.parameter, place.dim, index, place.blocks), sizes[place.parameter])


def _once(places: Sequence[Counted], lower: Sequence[Place]) -> list[Counted]:
    """The places of one axis without those that are counted further down, or twice."""
    kept: list[Counted] = []
    for each in places:
        if not any(_within(each.place, other) for other in (*lower, *(one.place for one in kept))):
            kept.append(each)
    return kept


def _within(place: Place, other: Place) -> bool:
    """Whether the slices of every unit are among the other's."""
    key = (place.parameter, place.dim, place.blocks)
    if key != (other.parameter, other.dim, other.blocks) or place.index.shape[0] != other.index.shape[0]:
        return False
    apart = torch.arange(place.index.shape[0])[:, None] * int(max(place.index.max(), other.index.max()) + 1)
    return bool(torch.isin(place.index + apart, other.index + apart).all())

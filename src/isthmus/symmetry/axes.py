"""From the solved orbits to readable axes: names, places, parents, and the reasons of what is pinned."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.symmetry.action import Axis, Place
from isthmus.symmetry.orbits import Orbits, reasons
from isthmus.symmetry.partitions import count_distinct, distinct
from isthmus.symmetry.units import Units

_ROUNDS = 8
_INDISTINCT = "its units are told apart by how they are used"


@dataclass(frozen=True, eq=False)
class Leaf:
    """The units along one axis of a parameter or buffer.

    Attributes:
        name: the parameter or buffer.
        dim: its axis.
        ids: unit ids, shape (size,) or (blocks * size,).
        buffer: whether it is a buffer.
        blocks: see `Place.blocks`.
    """

    name: str
    dim: int
    ids: Tensor
    buffer: bool = False
    blocks: int = 1


def assemble(
    units: Units, orbits: Orbits, leaves: Sequence[Leaf]
) -> tuple[tuple[Axis, ...], dict[tuple[str, int], str]]:
    """The axes, parents first, and why the rest is pinned."""
    axes, pinned, _ = assemble_named(units, orbits, leaves)
    return axes, pinned


def assemble_named(
    units: Units, orbits: Orbits, leaves: Sequence[Leaf]
) -> tuple[tuple[Axis, ...], dict[tuple[str, int], str], dict[int, str]]:
    """As `assemble`, and the name of the axis of each class of the orbits."""
    owner, member = heads(orbits, units.count)
    places: dict[int, list[Place]] = defaultdict(list)
    fixed: dict[int, int] = {}
    pinned: dict[tuple[str, int], str] = {}
    explain = _Explanation(units, orbits)
    for leaf in leaves:
        owners = owner[leaf.ids]
        still = owners < 0
        if bool(still.any()):
            pinned[leaf.name, leaf.dim] = explain(leaf.ids[still], leaf.ids.numel())
        for head in distinct(owners[~still]).tolist():
            fixed.setdefault(head, int(still.sum()))
            here = (owners == head).nonzero().flatten()
            index = _occurrences(here, leaf.ids[here], orbits, member)
            places[head].append(Place(leaf.name, leaf.dim, index, leaf.blocks))
    axes, names = _named(orbits, places, fixed)
    return axes, pinned, names


def heads(orbits: Orbits, count: int) -> tuple[Tensor, Tensor]:
    """For each unit, its class and its number in it; -1 if it may not move.

    A class that is paired with a parent's has no freedom of its own: it counts as a further
    place of its parents' class.
    """
    owner = torch.full((count,), -1)
    member = torch.full((count,), -1)
    for number, orbit in enumerate(orbits.classes):
        owner[orbit.nodes], member[orbit.nodes] = number, torch.arange(orbit.nodes.numel())
        if (leader := _leader(orbits, number)) is not None:
            above, index = leader
            above_nodes = orbits.classes[above].nodes[index]
            owner[orbit.nodes], member[orbit.nodes] = owner[above_nodes], member[above_nodes]
    return owner[orbits.node_of], member[orbits.node_of]


def _leader(orbits: Orbits, number: int) -> tuple[int, Tensor] | None:
    """The parent class that a class follows node by node, and each node's parent in it; None if it is free.

    Where a class has several parents, one that it is paired with says all: what the group does to the others
    agrees with it.
    """
    orbit = orbits.classes[number]
    for above, index in orbit.parents:
        size = orbits.classes[above].nodes.numel()
        if size == orbit.nodes.numel() and count_distinct(index) == size:
            return above, index
    return None


def _follows(orbits: Orbits, number: int) -> bool:
    """Whether a class is one node for each node of a parent class."""
    return _leader(orbits, number) is not None


def _occurrences(here: Tensor, ids: Tensor, orbits: Orbits, member: Tensor) -> Tensor:
    """Positions along an axis as a (units, occurrences) table, a column for each role."""
    number, role = member[ids], orbits.role_of[ids]
    order = role.argsort(stable=True)
    order = order[number[order].argsort(stable=True)]
    table = here[order].view(int(number.max()) + 1, -1)
    return table[:, table[0].argsort()]


def _named(
    orbits: Orbits, places: dict[int, list[Place]], fixed: dict[int, int]
) -> tuple[tuple[Axis, ...], dict[int, str]]:
    """Axis records and their names: after the first place; one without places after its first child."""
    kept = _carrying(orbits, places)
    names: dict[int, str] = {}
    taken: Counter[str] = Counter()
    for number in reversed(kept):
        if places[number]:
            first = min(places[number], key=lambda place: (place.dim != 0,))
            names[number] = f"{first.parameter}[{first.dim}]"
        else:
            child = next(
                (
                    names[k]
                    for k in names
                    if any(_head(orbits, p) == number for p, _ in orbits.classes[k].parents)
                ),
                "units",
            )
            names[number] = f"blocks of {child}"
    unique: dict[int, str] = {}
    for number in kept:
        taken[names[number]] += 1
        again = taken[names[number]]
        unique[number] = names[number] if again == 1 else f"{names[number]}#{again}"
    axes = tuple(_axis(orbits, number, unique, places[number], fixed.get(number, 0)) for number in kept)
    return axes, unique


def _carrying(orbits: Orbits, places: Mapping[int, Sequence[Place]]) -> list[int]:
    """The classes that are axes of their own and carry something, themselves or below them."""
    carrying: set[int] = set()
    for number in reversed(range(len(orbits.classes))):
        if not _follows(orbits, number) and (places.get(number) or number in carrying):
            carrying |= {number} | {_head(orbits, above) for above, _ in orbits.classes[number].parents}
        elif _follows(orbits, number) and number in carrying:
            carrying.add(_head(orbits, number))
    return [number for number in sorted(carrying) if not _follows(orbits, number)]


def _axis(orbits: Orbits, number: int, names: dict[int, str], places: list[Place], fixed: int) -> Axis:
    orbit = orbits.classes[number]
    parents: list[tuple[str, Tensor]] = []
    for above, index in orbit.parents:
        while (leader := _leader(orbits, above)) is not None:
            above, step = leader
            index = step[index]
        if not any(name == names[above] and torch.equal(known, index) for name, known in parents):
            parents.append((names[above], index))
    return Axis(names[number], orbit.nodes.numel(), tuple(places), tuple(parents), orbit.cells, fixed)


def _head(orbits: Orbits, number: int) -> int:
    """The class whose axis a class belongs to."""
    while (leader := _leader(orbits, number)) is not None:
        number, _ = leader
    return number


class _Explanation:
    """Why units do not move, from the marks on their nodes or on those next to them in a family."""

    def __init__(self, units: Units, orbits: Orbits) -> None:
        marks = reasons(units)
        self._texts = [mark.reason for mark in marks]
        self._orbits = orbits
        number = torch.full((units.count,), len(marks))
        for place, mark in reversed(list(enumerate(marks))):
            number[orbits.node_of[mark.ids]] = place
        children = torch.cat([orbits.node_of[f.left] for f in units.families] or [number[:0]])
        parents = torch.cat([orbits.node_of[f.right] for f in units.families] or [number[:0]])
        for _ in range(_ROUNDS):
            unknown = number == len(marks)
            spread = number.scatter_reduce(0, children, number[parents], "amin")
            spread = spread.scatter_reduce(0, parents, number[children], "amin")
            number = torch.where(unknown, spread, number)
        self._number = number

    def __call__(self, ids: Tensor, size: int) -> str:
        """The commonest reason of these units; how many they are, if not all of the axis."""
        numbers = Counter(self._number[self._orbits.node_of[ids]].tolist())
        number, _ = numbers.most_common(1)[0]
        text = self._texts[number] if number < len(self._texts) else _INDISTINCT
        return text if ids.numel() == size else f"{ids.numel()} of {size} units: {text}"

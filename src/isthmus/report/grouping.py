"""Long lists of a deep network made short: what repeats from layer to layer becomes one line.

Two names belong together if they differ in the numbers of named parts alone: `layers.0.mlp.up.weight[0]` and
`layers.1.mlp.up.weight[0]` are both `layers.*.mlp.up.weight[0]`. A number that stands first says by itself
which part is meant, and stays.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from isthmus.symmetry import Symmetry

_NUMBER = re.compile(r"(?<=[A-Za-z_]\.)\d+(?!\w)")
_PART = re.compile(r"^\d+ of \d+ units: ")


@dataclass(frozen=True)
class AxisLine:
    """What is told of one axis, or of several that differ in the number of their layer.

    Attributes:
        name: of the axis, or the pattern of the names.
        size: units of each.
        free: units of each that may change places.
        fixed: units beside them that may not.
        places: what carries each, as patterns.
        members: the numbers of the axes that the line stands for.
    """

    name: str
    size: int
    free: int
    fixed: int
    places: tuple[str, ...]
    members: tuple[int, ...]


@dataclass(frozen=True)
class PinnedLine:
    """What may not move for one reason.

    Attributes:
        reason: in words; a `*` stands for the numbers of layers.
        places: (parameter and axis) as patterns.
        axes: how many axes of parameters.
        parameters: how many numbers lie in the tensors that these axes belong to.
        immovable: how many of them lie in tensors that cannot move along any axis.
    """

    reason: str
    places: tuple[str, ...]
    axes: int
    parameters: int
    immovable: int


def pattern(name: str) -> str:
    """A name with its numbers taken out.

    Example:
        >>> pattern("h.0.mlp.2.weight[0]"), pattern("0.weight[1]"), pattern("conv1.weight[0]")
        ('h.*.mlp.*.weight[0]', '0.weight[1]', 'conv1.weight[0]')
    """
    return _NUMBER.sub("*", name)


def axis_lines(rows: Sequence[AxisLine], at_most: int = 6) -> tuple[AxisLine, ...]:
    """The axes as they are if they are few, or else those that differ in numbers alone as one line."""
    short = [_line(row.name, row, folded(row.places), row.members) for row in rows]
    if len(rows) <= at_most:
        return tuple(short)
    groups: dict[tuple[object, ...], list[AxisLine]] = defaultdict(list)
    for row in short:
        key = (pattern(row.name), row.size, row.free, row.fixed, tuple(sorted({*map(pattern, row.places)})))
        groups[key].append(row)
    lines = []
    for found in groups.values():
        first, members = found[0], tuple(number for row in found for number in row.members)
        if len(found) == 1:
            lines.append(first)
        else:
            places = dict.fromkeys(map(pattern, first.places))
            lines.append(_line(pattern(first.name), first, tuple(places), members))
    return tuple(lines)


def pinned_lines(symmetry: Symmetry) -> tuple[PinnedLine, ...]:
    """What is pinned, one line a reason, that of the most parameters first."""
    layout = symmetry.layout
    sizes = dict(zip(layout.names, layout.sizes, strict=True))
    moving = {place.parameter for axis in symmetry.axes for place in axis.places}
    groups: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for place, reason in symmetry.pinned.items():
        groups[_NUMBER.sub("*", _PART.sub("", reason))].append(place)
    lines = [
        PinnedLine(
            reason,
            folded([f"{name}[{dim}]" for name, dim in places]),
            len(places),
            sum(sizes.get(name, 0) for name in {name for name, _ in places}),
            sum(sizes.get(name, 0) for name in {name for name, _ in places} - moving),
        )
        for reason, places in groups.items()
    ]
    return tuple(sorted(lines, key=lambda line: (-line.parameters, -line.axes, line.reason)))


def folded(names: Iterable[str]) -> tuple[str, ...]:
    """Names in their order, those of one pattern as one if there are several of it.

    Example:
        >>> folded(["h.0.a", "h.1.a", "out.0.a"])
        ('h.*.a', 'out.0.a')
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[pattern(name)].append(name)
    return tuple(found[0] if len(found) == 1 else key for key, found in groups.items())


def braced(names: Iterable[str]) -> tuple[str, ...]:
    """Places in their order, those of one module and one axis as one.

    Example:
        >>> braced(["ln.weight[0]", "fc.weight[1]", "ln.bias[0]"])
        ('ln.{weight,bias}[0]', 'fc.weight[1]')
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        path, bracket, axis = name.partition("[")
        owner, dot, last = path.rpartition(".")
        groups[owner + dot, bracket + axis].append(last)
    return tuple(
        f"{owner}{found[0] if len(found) == 1 else '{' + ','.join(found) + '}'}{axis}"
        for (owner, axis), found in groups.items()
    )


def symmetry_lines(symmetry: Symmetry) -> tuple[AxisLine, ...]:
    """The axes of a symmetry as lines."""
    return axis_lines(
        [
            AxisLine(
                axis.name, axis.size, axis.free, axis.fixed,
                tuple(f"{place.parameter}[{place.dim}]" for place in axis.places), (number,),
            )
            for number, axis in enumerate(symmetry.axes)
        ]
    )  # fmt: skip


def cut(items: Sequence[str], most: int) -> str:
    """The first of these with commas, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def _line(name: str, row: AxisLine, places: tuple[str, ...], members: tuple[int, ...]) -> AxisLine:
    return AxisLine(name, row.size, row.free, row.fixed, places, members)

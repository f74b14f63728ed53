"""From facts about units to the group: which units may go where.

Units tied by pairings move as one *node*. The steps, repeated until nothing changes:
1. closure: two families on the same children are compared; equal ones tie their parents, a finer one makes
   its parents children of the other's;
2. colour refinement: two units stay alike only as long as their partners, parents and children are alike
   (each in the same role: the pairing it comes from and its side of it);
3. nodes for which the next sentence would not hold are pinned.

Then the group is built from the top down: the nodes of one colour form a class; inside it, the nodes with the
same parents form a cell; once the parents' images are chosen, a cell may go to the image cell by any
bijection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.symmetry.labels import mix
from isthmus.symmetry.partitions import count_distinct, counted, distinct, numbered, numbered_rows
from isthmus.symmetry.units import Mark, Relation, Units, components

_AMBIGUOUS = "units of one axis are tied to one another, and nothing tells their roles apart"
_CYCLE = "units would have to be inside one another"
_RAGGED = "units occur in pairs of which some are missing"


@dataclass(frozen=True, eq=False)
class OrbitClass:
    """Nodes that the group can exchange.

    Attributes:
        nodes: node ids (the smallest unit id of each), ascending, shape (n,).
        parents: for each class of parents, its place in the tuple of classes and the index of each node's
            parent in it, shape (n,); parents come earlier in the tuple.
        cells: the number of the cell of each node, shape (n,).
    """

    nodes: Tensor
    parents: tuple[tuple[int, Tensor], ...]
    cells: Tensor


@dataclass(frozen=True, eq=False)
class Orbits:
    """The solved group.

    Attributes:
        node_of: each unit's node, shape (units,).
        role_of: each unit's colour: alike in two nodes exactly for units that correspond, shape (units,).
        classes: the classes of at least two nodes, parents first.
        families: child and parent nodes, for explanations.
    """

    node_of: Tensor
    role_of: Tensor
    classes: tuple[OrbitClass, ...]
    families: Relation


def solve(units: Units) -> Orbits:
    """The orbits of the group that respects every fact in `units`; adds what it infers to the facts."""
    while True:
        node_of = _close(units)
        role_of = _refine(units)
        if _pin_ambiguous(units, node_of, role_of):
            continue
        colours = torch.zeros(units.count, dtype=torch.int64).scatter_add_(0, node_of, mix(role_of))
        children, parents = _parents(units, node_of, colours)
        cyclic = _cyclic(units.count, children, parents)
        if cyclic.numel():
            units.pin(cyclic, _CYCLE)
            continue
        classes, ragged = _classes(node_of, colours, children, parents)
        if ragged is None:
            return Orbits(node_of, role_of, classes, Relation(children, parents))
        units.pin(ragged, _RAGGED)


# -- closure --------------------------------------------------------------------------------------


def _close(units: Units) -> Tensor:
    """Compare families that share children until nothing new follows; return each unit's node."""
    seen: set[bytes] = set()
    while True:
        node_of = components(units.count, units.same)
        grown = False
        for first, second in _overlapping(units.families, node_of):
            grown |= _compare(units, first, second, seen)
        if not grown:
            return node_of


def _overlapping(families: Sequence[Relation], node_of: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For every two distinct families with common children: the parents of each common child."""
    maps: dict[bytes, tuple[Tensor, Tensor]] = {}
    for family in families:
        child, parent = node_of[family.left], node_of[family.right]
        order = child.argsort(stable=True)
        child, parent = child[order], parent[order]
        maps[torch.stack([child, parent]).numpy().tobytes()] = (child, parent)
    if len(maps) < 2:
        return []
    child = torch.cat([children for children, _ in maps.values()])
    parent = torch.cat([parents for _, parents in maps.values()])
    number = torch.cat([torch.full_like(c, n) for n, (c, _) in enumerate(maps.values())])
    order = child.argsort(stable=True)
    child, parent, number = child[order], parent[order], number[order]
    codes, firsts, seconds = [], [], []
    for shift in range(1, len(maps)):
        common = (child[shift:] == child[:-shift]).nonzero().flatten()
        if not common.numel():
            break
        codes.append(number[common] * len(maps) + number[common + shift])
        firsts.append(parent[common])
        seconds.append(parent[common + shift])
    if not codes:
        return []
    code, first, second = torch.cat(codes), torch.cat(firsts), torch.cat(seconds)
    order = code.argsort(stable=True)
    _, _, sizes = counted(code[order])
    pairs = zip(
        torch.split(first[order], sizes.tolist()), torch.split(second[order], sizes.tolist()), strict=True
    )
    return list(pairs)


def _compare(units: Units, first: Tensor, second: Tensor, seen: set[bytes]) -> bool:
    """Add what two families on the same children imply for their parents; whether it was new."""
    keys = distinct(first * units.count + second)
    left, right = keys // units.count, keys % units.count
    key = torch.stack([left, right]).numpy().tobytes()
    if key in seen or torch.equal(left, right):
        return False
    seen.add(key)
    lefts, rights = count_distinct(left), count_distinct(right)
    if lefts == rights == len(keys):
        units.same.append(Relation(left, right))
    elif lefts == len(keys):
        units.families.append(Relation(left, right))
    elif rights == len(keys):
        units.families.append(Relation(right, left))
    else:
        return _common_parents(units, left, right)
    return True


def _common_parents(units: Units, left: Tensor, right: Tensor) -> bool:
    """Parents for the connected parts of two partitions of which neither is finer; whether there are several.

    What respects both partitions respects the finest one that is coarser than both.
    """
    lefts, left = numbered(left)
    rights, right = numbered(right)
    root = components(len(lefts) + len(rights), [Relation(left, right + len(lefts))])
    parts, part = numbered(root)
    if parts.numel() < 2:
        return False
    block = units.fresh(parts.numel())
    units.family(lefts, block[part[: len(lefts)]])
    units.family(rights, block[part[len(lefts) :]])
    return True


# -- colour refinement ----------------------------------------------------------------------------


def _refine(units: Units) -> Tensor:
    """The stable colouring of the units."""
    colour = mix(units.batch_of(torch.arange(units.count)))
    for number, mark in enumerate(units.marks):
        colour[mark.ids] += mix(mix(mark.keys) + 2 * number + 1)
    source, target, label = _edges(units)
    classes = count_distinct(colour)
    while True:
        message = mix(mix(colour)[source] * 3 + label)
        colour = mix(colour).scatter_add(0, target, message)
        found = count_distinct(colour)
        if found == classes:
            return colour
        classes = found


def _edges(units: Units) -> tuple[Tensor, Tensor, Tensor]:
    """Every pairing and family as edges in both directions, with a label that tells relation and side."""
    relations = [*units.same, *units.families]
    if not relations:
        empty = torch.zeros(0, dtype=torch.int64)
        return empty, empty, empty
    left = torch.cat([relation.left for relation in relations])
    right = torch.cat([relation.right for relation in relations])
    number = torch.cat([torch.full_like(r.left, 2 * i) for i, r in enumerate(relations)])
    return torch.cat([left, right]), torch.cat([right, left]), mix(torch.cat([number, number + 1]))


def _pin_ambiguous(units: Units, node_of: Tensor, role_of: Tensor) -> bool:
    """Pin the nodes in which two units look alike: an exchange of nodes would not know which goes where."""
    order = torch.argsort(role_of, stable=True)
    order = order[torch.argsort(node_of[order], stable=True)]
    node, role = node_of[order], role_of[order]
    twice = (node[1:] == node[:-1]) & (role[1:] == role[:-1])
    if not bool(twice.any()):
        return False
    units.pin(torch.isin(node_of, node[1:][twice]).nonzero().flatten(), _AMBIGUOUS)
    return True


# -- parents, classes and cells -------------------------------------------------------------------


def _parents(units: Units, node_of: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct (child node, parent node) pairs of children that may move, sorted by child."""
    empty = torch.zeros(0, dtype=torch.int64)
    child = torch.cat([empty, *(node_of[family.left] for family in units.families)])
    parent = torch.cat([empty, *(node_of[family.right] for family in units.families)])
    nodes = distinct(node_of)
    _, inverse, sizes = counted(colours[nodes])
    movable = torch.zeros(units.count, dtype=torch.bool)
    movable[nodes] = sizes[inverse] > 1
    keys = distinct((child * units.count + parent)[(child != parent) & movable[child]])
    return keys // units.count, keys % units.count


def _cyclic(count: int, children: Tensor, parents: Tensor) -> Tensor:
    """Nodes that are, or lie below, their own ancestors."""
    waiting = torch.zeros(count, dtype=torch.bool)
    waiting[children] = True
    while True:
        still = torch.zeros_like(waiting)
        still[children[waiting[parents]]] = True
        still &= waiting
        if torch.equal(still, waiting):
            return waiting.nonzero().flatten()
        waiting = still


def _classes(
    node_of: Tensor, colours: Tensor, children: Tensor, parents: Tensor
) -> tuple[tuple[OrbitClass, ...], Tensor | None]:
    """The classes of two nodes and more, parents first; or else nodes that must be pinned."""
    nodes = distinct(node_of)
    order = nodes[torch.argsort(colours[nodes], stable=True)]
    _, inverse, sizes = counted(colours[order])
    groups = list(torch.split(order[sizes[inverse] > 1], sizes[sizes > 1].tolist()))
    groups.sort(key=lambda group: int(group[0]))
    place = torch.full((node_of.numel(),), -1)
    index = torch.full((node_of.numel(),), -1)
    for number, group in enumerate(groups):
        place[group], index[group] = number, torch.arange(group.numel())
    above = []
    for group in groups:
        found, wrong = _parents_of(group, place, index, children, parents)
        if wrong is not None:
            return (), wrong
        above.append(found)
    return _in_order(groups, above)


def _parents_of(
    group: Tensor, place: Tensor, index: Tensor, children: Tensor, parents: Tensor
) -> tuple[dict[int, Tensor], Tensor | None]:
    """The movable parents of a class: class -> index of each node's parent; or nodes to be pinned."""
    start = torch.searchsorted(children, group)
    counts = torch.searchsorted(children, group, right=True) - start
    if bool((counts != counts[0]).any()):
        return {}, group
    rows = parents[start[:, None] + torch.arange(int(counts[0]))]
    # Alike nodes have parents in the same classes; a fixed parent (place -1) is one node for all.
    rows = rows.gather(1, place[rows].argsort(stable=True, dim=1))
    if bool((place[rows] != place[rows[:1]]).any()):
        return {}, group
    found: dict[int, Tensor] = {}
    for column in rows.unbind(1):
        owner = int(place[column[0]])
        if owner in found:
            return {}, distinct(rows)
        if owner >= 0:
            found[owner] = index[column]
    return found, None


def _in_order(
    groups: Sequence[Tensor], above: Sequence[dict[int, Tensor]]
) -> tuple[tuple[OrbitClass, ...], Tensor | None]:
    """Classes with parents first, without parents that another parent implies, their cells checked."""
    order: list[int] = []
    while len(order) < len(groups):
        order += [g for g in range(len(groups)) if g not in order and all(p in order for p in above[g])]
    ancestors: dict[int, dict[int, Tensor]] = {}
    classes: list[OrbitClass] = []
    for g in order:
        implied = {a: far[i] for p, i in above[g].items() for a, far in ancestors[p].items()}
        direct = {p: i for p, i in above[g].items() if not (p in implied and torch.equal(implied[p], i))}
        ancestors[g] = implied | above[g]
        cells = _cells(direct, groups[g].numel())
        if not _complete(direct, cells, ancestors, groups):
            return (), torch.cat([groups[p] for p in direct])
        parents = tuple((order.index(p), i) for p, i in sorted(direct.items()))
        classes.append(OrbitClass(groups[g], parents, cells))
    return tuple(classes), None


def _cells(direct: dict[int, Tensor], size: int) -> Tensor:
    """Number the distinct tuples of parents."""
    if not direct:
        return torch.zeros(size, dtype=torch.int64)
    return numbered_rows(torch.stack(list(direct.values()), 1))[1]


def _complete(
    direct: dict[int, Tensor],
    cells: Tensor,
    ancestors: dict[int, dict[int, Tensor]],
    groups: Sequence[Tensor],
) -> bool:
    """Whether every tuple of parents that the group can make has a cell, and all cells are of one size.

    Parents below a common ancestor meet only inside it, so the tuples are counted ancestor by ancestor.
    """
    sizes = cells.bincount()
    if bool((sizes != sizes[0]).any()):
        return False
    if len(direct) < 2:
        return not direct or sizes.numel() == groups[next(iter(direct))].numel()
    common = set.intersection(*(set(ancestors[p]) for p in direct))
    shared: list[tuple[Tensor, Tensor]] = []
    possible = torch.ones((), dtype=torch.int64)
    for p, index in direct.items():
        below = torch.stack([ancestors[p][a] for a in sorted(common)] or [torch.zeros_like(groups[p])], 1)
        keys, _, counts = numbered_rows(below)
        shared.append((below[index], keys))
        possible = possible * counts if len(shared) == 1 or possible.shape == counts.shape else possible * 0
    agree = all(torch.equal(mine, shared[0][0]) and torch.equal(keys, shared[0][1]) for mine, keys in shared)
    return agree and int(possible.sum()) == sizes.numel()


def reasons(units: Units) -> list[Mark]:
    """All marks, those that pin outright or tell every unit apart first."""
    return sorted(units.marks, key=lambda mark: -count_distinct(mark.keys) / max(mark.ids.numel(), 1))

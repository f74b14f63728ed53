"""The hidden units and all that is known of how they hang together.

Units are integers. The abstract execution states facts about them, each of which every group element g
must respect:
- *same*: a one-to-one pairing of units, u ~ v: then g(u) ~ g(v) in the same pairing;
- *family*: every child unit has one parent: then g(child) is a child of g(parent);
- *colour*: a unit has a key: then g(u) has the same key.
`isthmus.symmetry.orbits` solves these facts for the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.symmetry.partitions import count_distinct, counted, distinct, numbered

_CAPACITY = 1 << 12
_PINNED = ", which may not move ("


@dataclass(frozen=True, eq=False)
class Relation:
    """Pairs of units (left[i], right[i]); for a family, the left one is the child.

    Attributes:
        left: unit ids, shape (n,).
        right: unit ids, shape (n,).
    """

    left: Tensor
    right: Tensor


@dataclass(frozen=True, eq=False)
class Mark:
    """Keys that units carry, and why.

    Attributes:
        ids: distinct unit ids, shape (n,).
        keys: one key a unit, shape (n,).
        reason: in words.
    """

    ids: Tensor
    keys: Tensor
    reason: str


class Units:
    """The state of the solver: it grows by facts and forgets none.

    Attributes:
        count: how many units there are.
        batches: the first id of every batch of units that was made together.
        same: the pairings.
        families: the child-parent relations.
        marks: the colours.
    """

    def __init__(self) -> None:
        self.count = 0
        self.batches: list[int] = []
        self.same: list[Relation] = []
        self.families: list[Relation] = []
        self.marks: list[Mark] = []
        self._pinning = torch.full((_CAPACITY,), -1)

    def fresh(self, number: int) -> Tensor:
        """Ids of this many new units, interchangeable until a fact tells them apart."""
        self.batches.append(self.count)
        self.count += number
        if self.count > len(self._pinning):
            self._pinning = torch.cat([self._pinning, torch.full((self.count,), -1)])
        return torch.arange(self.count - number, self.count)

    def relate(self, first: Tensor, second: Tensor) -> Tensor:
        """Two labelings of the same elements: relate their units as their partitions say.

        Equal partitions are paired; the units of a finer one are children of the coarser one's; if neither
        is finer, each pair that occurs is a new unit with two parents. The comparison is of the ids as they
        were given out, never of what they were tied to later: that is not content.

        Args:
            first: unit ids, shape (n,).
            second: unit ids of the same elements, shape (n,).

        Returns:
            Ids of the finer labeling, shape (n,).
        """
        keys, inverse = numbered(first * self.count + second)
        left, right = keys // self.count, keys % self.count
        lefts, rights = count_distinct(left), count_distinct(right)
        if lefts == rights == keys.numel():
            self.same.append(Relation(left, right))
            return first
        if lefts == keys.numel():
            self.family(left, right)
            return first
        if rights == keys.numel():
            self.family(right, left)
            return second
        pairs = self.fresh(keys.numel())
        self.family(pairs, left)
        self.family(pairs, right)
        return pairs[inverse]

    def family(self, child: Tensor, parent: Tensor) -> None:
        """Every child (distinct ids) belongs to its parent; a parent's only child is paired with it."""
        _, inverse, counts = counted(parent)
        only = counts[inverse] == 1
        if bool(only.any()):
            self.same.append(Relation(child[only], parent[only]))
        if not bool(only.all()):
            self.families.append(Relation(child[~only], parent[~only]))

    def colour(self, ids: Tensor, keys: Tensor, reason: str) -> None:
        """Mark each unit by the multiset of the keys at which it occurs.

        Args:
            ids: unit ids, shape (n,), repetitions allowed.
            keys: hashes, shape (n,).
            reason: in words.
        """
        marked, inverse = numbered(ids)
        totals = torch.zeros(marked.numel(), dtype=torch.int64).scatter_add_(0, inverse, keys)
        if bool((totals != totals[0]).any()):
            self.marks.append(Mark(marked, totals, reason))
            if count_distinct(totals) == totals.numel():
                self._pinning[marked] = len(self.marks) - 1

    def block(self, ids: Tensor, reason: str) -> None:
        """These units (ids may repeat) may move among themselves only, if they occur equally often."""
        marked, _, counts = counted(ids)
        self.marks.append(Mark(marked, counts, reason))

    def pin(self, ids: Tensor, reason: str) -> None:
        """None of these units may move."""
        pinned = distinct(ids)
        self.marks.append(Mark(pinned, pinned, reason))
        self._pinning[pinned] = len(self.marks) - 1

    def fixed(self, ids: Tensor) -> bool:
        """Whether it is already certain that none of these units may move."""
        return bool((self._pinning[ids] >= 0).all())

    def cause(self, ids: Tensor) -> str:
        """What pinned the first one of these units, in words, without the operations in between."""
        reason = self.marks[int(self._pinning[ids.reshape(-1)[0]])].reason
        return reason.partition(_PINNED)[2].removesuffix(")") or reason.rpartition(": ")[2]

    def batch_of(self, ids: Tensor) -> Tensor:
        """The number of the batch in which each unit was made."""
        return torch.searchsorted(torch.tensor(self.batches), ids, right=True)


def components(count: int, pairings: Sequence[Relation]) -> Tensor:
    """The connected components of a graph on `count` nodes: each node's smallest companion."""
    root = torch.arange(count)
    if not pairings:
        return root
    left = torch.cat([pairing.left for pairing in pairings])
    right = torch.cat([pairing.right for pairing in pairings])
    while True:
        low = torch.minimum(root[left], root[right])
        new = root.scatter_reduce(0, left, low, "amin").scatter_reduce(0, right, low, "amin")
        new = torch.minimum(new, new[new])
        # Hook whole trees, not only single nodes, so that long chains take few rounds.
        new = new.scatter_reduce(0, root, new, "amin")[root]
        if torch.equal(new, root):
            return root
        root = new

"""A, the permuted B, and the steps of coordinate descent on ⟨A, π(B)⟩."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from isthmus.match.assignment import maximising_assignment
from isthmus.match.costs import Costs
from isthmus.match.places import Counted, counted_places, roots_of
from isthmus.match.slices import (
    inner_product,
    products,
    put,
    reordered,
    selected,
    stored,
)
from isthmus.symmetry import Alignment, Axis, Symmetry
from isthmus.symmetry.action import gathers, nearest
from isthmus.weights import Weights

# A step must gain more than the rounding of the objective, or equal optima would be exchanged for ever.
_GAIN = 1e-12

# If no more than this share of the positions along an axis of a tensor move, the others are left alone.
_FEW = 0.5


@dataclass(frozen=True)
class _Change:
    """What a step does to one tensor.

    Attributes:
        name: of the tensor.
        dim: along which alone it changes; None if it changes in any other way.
        fixed: A at the positions that change.
        old: B there.
        new: B there after the step.
        positions: those that change, along `dim`; None if `fixed`, `old` and `new` are whole tensors.
        moves: how the whole tensor changes, as `reordered` takes it.
    """

    name: str
    dim: int | None
    fixed: Tensor
    old: Tensor
    new: Tensor
    positions: Tensor | None
    moves: Mapping[tuple[int, int], Tensor]


class State:
    """A, the permuted B, and the objective ⟨A, π(B)⟩ kept parameter by parameter.

    B is kept permuted, so that a slice is a view and only the tensors of a moved axis are written again.
    """

    def __init__(
        self, symmetry: Symmetry, fixed: Weights, moving: Weights, start: Mapping[str, Tensor]
    ) -> None:
        self.symmetry = symmetry
        self.fixed = {name: stored(fixed[name]) for name in symmetry.layout.names}
        self.permutations = dict(start)
        self._still = {axis.name: torch.arange(axis.size) for axis in symmetry.axes}
        turned = any(not torch.equal(start[name], still) for name, still in self._still.items())
        moved = Alignment(symmetry, start).apply(moving) if turned else moving
        self.moving = {name: stored(moved[name]) for name in symmetry.layout.names}
        self.sizes = {name: tuple(tensor.shape) for name, tensor in self.fixed.items()}
        self._ours: set[str] = set()  # the tensors of B that may be written to
        self.costs = Costs(self.fixed)
        self.value()
        self._scale = math.prod(float(torch.linalg.vector_norm(w.vector)) for w in (fixed, moving))
        self._counted: dict[frozenset[str], dict[str, tuple[Counted, ...]]] = {}

    @property
    def objective(self) -> float:
        """⟨A, π(B)⟩ in float64."""
        return math.fsum(self.values.values())

    def value(self) -> None:
        """Take the inner products of all tensors anew, as after moves that were made `anyway`."""
        self.values = {name: inner_product(self.fixed[name], self.moving[name]) for name in self.fixed}

    def improve(self, root: str) -> set[str]:
        """Solve one axis and what lies below it; returns the roots to be visited again.

        The axes of a family may lie along one tensor; then the scores of the one hold only while the other
        stays, and a step of all together may lose. If it does, each of them is tried alone.
        """
        family = self.families[root]
        changed = self._step(frozenset(axis.name for axis in family))
        free = [axis for axis in family if axis.free]
        if changed or len(family) == 1:
            return changed
        for axis in free:
            changed |= self._step(frozenset([axis.name]))
        return changed

    def counted(self, moving: frozenset[str]) -> Mapping[str, tuple[Counted, ...]]:
        """The places that count for each of the axes that move."""
        if moving not in self._counted:
            self._counted[moving] = counted_places(self.symmetry.axes, moving, self.sizes)
        return self._counted[moving]

    def scores(self, moving: frozenset[str]) -> dict[str, Tensor]:
        """scores[i, j] = Σ over the places of ⟨A's slice at unit i, the permuted B's slice at unit j⟩."""
        found: dict[str, Tensor] = {}
        for name, counted in self.counted(moving).items():
            places = [each.place for each in counted]
            if name in self.alone:
                found[name] = self.costs.scores(name, places, self.moving)
                continue
            pairs = ((self.fixed[place.parameter], self.moving[place.parameter], place) for place in places)
            total = products(*next(pairs))
            for pair in pairs:
                total += products(*pair)
            found[name] = total
        return found

    def _step(self, moving: frozenset[str]) -> set[str]:
        """Move these axes to the best element for their scores if that raises the objective."""
        return self.move(self.scores(moving), moving)

    def move(self, scores: Mapping[str, Tensor], moving: frozenset[str], anyway: bool = False) -> set[str]:
        """Permute to the best element for these scores, if that raises the objective or `anyway`.

        Returns the roots whose scores have changed. After a move made `anyway`, `value` is to be called
        before the objective is read.
        """
        step = self._nearest(scores, moving)
        moves: dict[str, dict[tuple[int, int], Tensor]] = {}
        for (name, dim, blocks), index in gathers(self._carriers, step, self.sizes).items():
            moves.setdefault(name, {})[dim, blocks] = index
        changes = [self._change(name, found) for name, found in moves.items()]
        if not anyway:
            before = {each.name: inner_product(each.fixed, each.old) for each in changes}
            after = {each.name: inner_product(each.fixed, each.new) for each in changes}
            if not math.fsum(after.values()) - math.fsum(before.values()) > _GAIN * self._scale:
                return set()
            self.values |= {name: self.values[name] + (after[name] - before[name]) for name in moves}
        self._take(changes, step)
        solved = moving & self.alone  # an axis that stands alone is where it is best
        return {name for name, read in self.readers.items() if not read.isdisjoint(moves)} - solved

    def _take(self, changes: list[_Change], step: Mapping[str, Tensor]) -> None:
        """Carry out a step."""
        for each in changes:
            if each.dim is None:
                self.costs.forget(each.name)
            else:
                self.costs.change(each.name, each.dim, each.fixed, each.old, each.new)
            self._write(each)
        for name in self.permutations:
            if not torch.equal(step[name], self._still[name]):
                self.costs.turn(name, step[name])
                self.permutations[name] = self.permutations[name][step[name]]

    def _write(self, change: _Change) -> None:
        """Bring the tensor of B up to date."""
        if change.positions is not None and change.dim is not None and change.name in self._ours:
            put(self.moving[change.name], change.dim, change.positions, change.new)
            return
        old = self.moving[change.name]
        self.moving[change.name] = change.new if change.positions is None else reordered(old, change.moves)
        self._ours.add(change.name)

    def _change(self, name: str, moves: Mapping[tuple[int, int], Tensor]) -> _Change:
        """What becomes of one tensor."""
        fixed, old = self.fixed[name], self.moving[name]
        if len(moves) > 1 or any(blocks > 1 for _, blocks in moves):
            new = reordered(old, moves)
            return _Change(name, None, fixed, old, new, None, moves)
        (((dim, _), index),) = moves.items()
        moved = (index != torch.arange(index.numel())).nonzero()[:, 0]
        if moved.numel() > _FEW * index.numel():
            new = reordered(old, moves)
            return _Change(name, dim, fixed, old, new, None, moves)
        here, there = selected(old, dim, moved), selected(old, dim, index[moved])
        return _Change(name, dim, selected(fixed, dim, moved), here, there, moved, moves)

    def _nearest(self, scores: Mapping[str, Tensor], moving: frozenset[str]) -> dict[str, Tensor]:
        if len(moving) == 1:
            (name,) = moving
            if name in self._whole and name in scores:
                return {**self._still, name: maximising_assignment(scores[name])}
        return nearest(self.symmetry.axes, scores, maximising_assignment, self._still, moving)

    @cached_property
    def families(self) -> Mapping[str, list[Axis]]:
        """For each axis without parents, itself and all that lies below it."""
        roots = roots_of(self.symmetry.axes)
        families: dict[str, list[Axis]] = {a.name: [] for a in self.symmetry.axes if not a.parents}
        for axis in self.symmetry.axes:
            for root in roots[axis.name]:
                families[root].append(axis)
        return families

    @cached_property
    def alone(self) -> frozenset[str]:
        """The axes whose scores are kept: see `Costs`."""
        found = []
        for root, family in self.families.items():
            places = [place for place in family[0].places if place.parameter in self.fixed]
            once = len({place.parameter for place in places}) == len(places)
            if len(family) == 1 and once and all(place.blocks == 1 for place in places):
                found.append(root)
        return frozenset(found)

    @cached_property
    def _whole(self) -> frozenset[str]:
        """The axes that stand alone, all of whose units may change places."""
        return frozenset(
            root for root, family in self.families.items() if len(family) == 1 and not family[0].cells.any()
        )

    @cached_property
    def readers(self) -> Mapping[str, set[str]]:
        """For each root, the parameters that its scores depend on."""
        return {
            root: {place.parameter for axis in family for place in axis.places}
            for root, family in self.families.items()
        }

    @cached_property
    def _carriers(self) -> tuple[Axis, ...]:
        """The axes without their places in buffers, which do not count."""
        return tuple(
            replace(axis, places=tuple(place for place in axis.places if place.parameter in self.fixed))
            for axis in self.symmetry.axes
        )

"""A, the permuted B, and the steps of coordinate descent on ⟨A, π(B)⟩."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from isthmus.match.assignment import maximising_assignment
from isthmus.match.places import Counted, counted_places, roots_of
from isthmus.symmetry import Alignment, Axis, Symmetry
from isthmus.symmetry.action import Place, gathers, nearest, permute
from isthmus.weights import Weights

# A step must gain more than the rounding of the objective, or equal optima would be exchanged for ever.
_GAIN = 1e-12


class State:
    """A, the permuted B, and the objective ⟨A, π(B)⟩ kept parameter by parameter.

    B is kept permuted, so that a slice is a view and only the tensors of a moved axis are written again.
    """

    def __init__(
        self, symmetry: Symmetry, fixed: Weights, moving: Weights, start: Mapping[str, Tensor]
    ) -> None:
        self.symmetry = symmetry
        self.fixed = {name: real(fixed[name]) for name in symmetry.layout.names}
        self.permutations = dict(start)
        moved = Alignment(symmetry, start).apply(moving)
        self.moving = {name: real(moved[name]) for name in symmetry.layout.names}
        self.values = {name: inner_product(self.fixed[name], self.moving[name]) for name in self.fixed}
        self.sizes = {name: tuple(tensor.shape) for name, tensor in self.fixed.items()}
        self._scale = fixed.norm() * moving.norm()
        self._still = {axis.name: torch.arange(axis.size) for axis in symmetry.axes}
        self._counted: dict[frozenset[str], dict[str, tuple[Counted, ...]]] = {}

    @property
    def objective(self) -> float:
        """⟨A, π(B)⟩ in float64."""
        return math.fsum(self.values.values())

    def copy(self) -> State:
        """The same state, to go another way from here."""
        twin = copy(self)
        twin.moving, twin.values = dict(self.moving), dict(self.values)
        return twin

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

    def _step(self, moving: frozenset[str]) -> set[str]:
        """Move these axes to the best element for their scores if that raises the objective."""
        scores = {name: self._scores(places) for name, places in self.counted(moving).items()}
        return self.move(scores, moving)

    def move(self, scores: Mapping[str, Tensor], moving: frozenset[str], anyway: bool = False) -> set[str]:
        """Permute to the best element for these scores, if that raises the objective or `anyway`.

        Returns the roots whose scores have changed.
        """
        step = self._nearest(scores, moving)
        changes = gathers(self._carriers, step, self.sizes)
        touched = {name for name, _, _ in changes}
        tensors = {
            name: permute(
                self.moving[name], {(dim, blocks): i for (n, dim, blocks), i in changes.items() if n == name}
            )
            for name in touched
        }
        values = {name: inner_product(self.fixed[name], tensor) for name, tensor in tensors.items()}
        gain = math.fsum(values.values()) - math.fsum(self.values[name] for name in touched)
        if not (anyway or gain > _GAIN * self._scale):
            return set()
        self.moving |= tensors
        self.values |= values
        self.permutations = {name: p[step[name]] for name, p in self.permutations.items()}
        return {name for name, read in self.readers.items() if read & touched}

    def _nearest(self, scores: Mapping[str, Tensor], moving: frozenset[str]) -> dict[str, Tensor]:
        return nearest(self.symmetry.axes, scores, maximising_assignment, self._still, moving)

    def _scores(self, places: Iterable[Counted]) -> Tensor:
        """scores[i, j] = Σ over the places of ⟨A's slice at unit i, the permuted B's slice at unit j⟩."""
        total: Tensor | None = None
        for place in (each.place for each in places):
            left, right = (slices(side[place.parameter], place) for side in (self.fixed, self.moving))
            found = (left @ right.T).cpu().double()
            total = found if total is None else total.add_(found)
        assert total is not None
        return total

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


def slices(tensor: Tensor, place: Place) -> Tensor:
    """The slices of a tensor at each unit as rows, shape (units, occurrences * rest); a view if possible."""
    dim, index = place.dim, place.index
    if place.blocks > 1:
        tensor = tensor.reshape(place.blocks, -1, *tensor.shape[1:]).movedim(dim + 1, 1).flatten(0, 1)
        dim = 0
    front = tensor.movedim(dim, 0)
    whole = index.shape[1] == 1 and index.shape[0] == front.shape[0]
    if whole and torch.equal(index[:, 0], torch.arange(index.shape[0])):
        return front.reshape(front.shape[0], -1)
    return front[index].reshape(index.shape[0], -1)


def real(tensor: Tensor) -> Tensor:
    """The tensor, its real and imaginary parts side by side if it is complex."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def inner_product(first: Tensor, second: Tensor) -> float:
    """The inner product in float64, chunk by chunk."""
    return math.fsum(_chunked(first.reshape(-1), second.reshape(-1)))


def _chunked(first: Tensor, second: Tensor, size: int = 1 << 20) -> Iterable[float]:
    for left, right in zip(torch.split(first, size), torch.split(second, size), strict=True):
        yield float(torch.dot(left.double(), right.double()))

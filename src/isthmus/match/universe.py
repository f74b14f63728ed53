"""Several models brought to one frame, the universe, by ascent on the sum over all pairs of them.

The objective is Σ_{i<j} ⟨g_i θ_i, g_j θ_j⟩ over one group element g_i a model. Every pair is then aligned by
g_j⁻¹ g_i, and such pairs compose without drift: A to B to C is A to C.

Source: Crisostomi, Fumero, Baieri, Bernard & Rodolà 2024, "C²M³: Cycle-Consistent Multi-Model Merging" (arXiv
2405.17897), eq. 4, for the objective. The ascent is ours; their Frank-Wolfe is in `relaxation.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from isthmus.match.assignment import maximising_assignment
from isthmus.match.places import Counted, counted_places, roots_of
from isthmus.match.slices import inner_product, products, real
from isthmus.progress import Progress
from isthmus.symmetry import Alignment, Axis, Outcome, Symmetry
from isthmus.symmetry.action import gathers, nearest, permute
from isthmus.weights import Weights

_Item = TypeVar("_Item")

# A step must gain more than the rounding of the objective, or equal optima would be exchanged for ever.
_GAIN = 1e-12


@dataclass(frozen=True)
class Found:
    """Where a matching of many models ended.

    Attributes:
        permutations: for each model, axis name -> permutation.
        objective: Σ_{i<j} ⟨g_i θ_i, g_j θ_j⟩.
        outcome: how it ended.
        history: the objective at the start and after each sweep.
    """

    permutations: Sequence[Mapping[str, Tensor]]
    objective: float
    outcome: Outcome
    history: tuple[float, ...]


def ascend(
    universe: Universe,
    max_sweeps: int,
    generator: torch.Generator,
    progress: Progress,
    name: str,
    whole_models: bool = False,
) -> Found:
    """Improve one axis of one model after the other until none can be improved any more.

    Args:
        universe: the models at their starting point; it is changed.
        max_sweeps: the limit of sweeps over all axes and models.
        generator: of the order of visits, new in each sweep.
        progress: shows the sweeps.
        name: of their bar.
        whole_models: whether a model's axes are all settled before the next model's turn, as in MergeMany.
            Otherwise all models take their turn at one axis before the next axis.
    """
    members, roots = range(len(universe.moved)), list(universe.families)
    waiting = {(m, root) for m in members for root in roots} if len(members) > 1 else set()
    history = [universe.objective]
    with progress.bar(name, max_sweeps) as bar:
        while waiting and len(history) <= max_sweeps:
            for member, root in _sweep(members, roots, waiting, generator, whole_models):
                if (member, root) in waiting:
                    waiting.discard((member, root))
                    waiting.update((m, again) for again in universe.improve(member, root) for m in members)
            history.append(universe.objective)
            bar(len(history) - 1, f"objective {history[-1]:.6g}")
    outcome = Outcome.SWEEP_LIMIT if waiting else Outcome.CONVERGED
    return Found(universe.permutations, history[-1], outcome, tuple(history))


class Universe:
    """Models, each permuted by its element so far, and the steps of ascent on Σ_{i<j} ⟨g_i θ_i, g_j θ_j⟩.

    One aligned copy a model is held; the sum of the others is formed for the tensors of a step alone, so that
    no rounding is carried along.
    """

    def __init__(
        self, symmetry: Symmetry, models: Sequence[Weights], start: Sequence[Mapping[str, Tensor]]
    ) -> None:
        self.symmetry = symmetry
        self.permutations = [dict(each) for each in start]
        self.moved: list[dict[str, Tensor]] = []
        for model, each in zip(models, self.permutations, strict=True):
            image = Alignment(symmetry, each).apply(model)
            self.moved.append({name: real(image[name]).contiguous() for name in symmetry.layout.names})
        # The models' own norms, which no element changes, make Σ_{i<j} of the norm of the sum.
        self._own = math.fsum(inner_product(t, t) for tensors in self.moved for t in tensors.values())
        self.sizes = {name: tuple(tensor.shape) for name, tensor in self.moved[0].items()}
        self._still = {axis.name: torch.arange(axis.size) for axis in symmetry.axes}
        self._counted: dict[frozenset[str], dict[str, tuple[Counted, ...]]] = {}

    @property
    def objective(self) -> float:
        """Σ_{i<j} ⟨g_i θ_i, g_j θ_j⟩ = (‖Σ g_i θ_i‖² - Σ ‖θ_i‖²) / 2, accumulated in float64."""
        squares = []
        for name in self.sizes:
            total = self.moved[0][name].double()
            for each in self.moved[1:]:
                total = total + each[name]
            squares.append(inner_product(total, total))
        return (math.fsum(squares) - self._own) / 2

    def improve(self, member: int, root: str) -> set[str]:
        """Move one model's units of an axis and what lies below it; returns the roots whose scores changed.

        The axes of a family may lie along one tensor; then the scores of the one hold only while the other
        stays, and a step of all together may lose. If it does, each of them is tried alone.
        """
        family = self.families[root]
        changed = self._step(member, frozenset(axis.name for axis in family), root)
        if changed or len(family) == 1:
            return changed
        for axis in family:
            if axis.free:
                changed |= self._step(member, frozenset([axis.name]), root)
        return changed

    def _step(self, member: int, moving: frozenset[str], root: str) -> set[str]:
        """The best element of these axes for the sum of the others, taken if the objective rises."""
        own = self.moved[member]
        others = {name: self._others(member, name) for name in self.readers[root]}
        scores = {name: _scores(others, own, places) for name, places in self._places(moving).items()}
        step = nearest(self.symmetry.axes, scores, maximising_assignment, self._still, moving)
        changes = gathers(self._carriers, step, self.sizes)
        touched = {name for name, _, _ in changes}
        # All contiguous: `products` takes the numbers of a slice in the order that they have in memory.
        tensors = {
            name: permute(
                own[name], {(dim, blocks): i for (n, dim, blocks), i in changes.items() if n == name}
            ).contiguous()
            for name in touched
        }
        after = math.fsum(inner_product(others[name], tensors[name]) for name in touched)
        before = math.fsum(inner_product(others[name], own[name]) for name in touched)
        if not after - before > _GAIN * self._own:
            return set()
        own |= tensors
        self.permutations[member] = {n: p[step[n]] for n, p in self.permutations[member].items()}
        return {name for name, read in self.readers.items() if read & touched}

    def _others(self, member: int, name: str) -> Tensor:
        """The sum of the other models' tensors of a name."""
        rest = [each[name] for number, each in enumerate(self.moved) if number != member]
        total = rest[0].clone()
        for tensor in rest[1:]:
            total += tensor
        return total

    def _places(self, moving: frozenset[str]) -> Mapping[str, tuple[Counted, ...]]:
        if moving not in self._counted:
            self._counted[moving] = counted_places(self.symmetry.axes, moving, self.sizes)
        return self._counted[moving]

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
    def readers(self) -> Mapping[str, frozenset[str]]:
        """For each root, the parameters that its scores depend on."""
        return {
            root: frozenset(p.parameter for axis in family for p in axis.places if p.parameter in self.sizes)
            for root, family in self.families.items()
        }

    @cached_property
    def _carriers(self) -> tuple[Axis, ...]:
        """The axes without their places in buffers, which do not count."""
        return tuple(
            replace(axis, places=tuple(place for place in axis.places if place.parameter in self.sizes))
            for axis in self.symmetry.axes
        )


def _sweep(
    members: Sequence[int],
    roots: Sequence[str],
    waiting: Collection[tuple[int, str]],
    generator: torch.Generator,
    whole_models: bool,
) -> Iterator[tuple[int, str]]:
    """The visits of one sweep; a whole model's go on until none of its axes waits."""
    if not whole_models:
        for root in _shuffled(roots, generator):
            for member in _shuffled(members, generator):
                yield member, root
        return
    for member in _shuffled(members, generator):
        while any((member, root) in waiting for root in roots):
            for root in _shuffled(roots, generator):
                yield member, root


def _shuffled(items: Sequence[_Item], generator: torch.Generator) -> Iterator[_Item]:
    return (items[place] for place in torch.randperm(len(items), generator=generator).tolist())


def _scores(fixed: Mapping[str, Tensor], moving: Mapping[str, Tensor], places: Sequence[Counted]) -> Tensor:
    """scores[i, j] = Σ over the places of ⟨the fixed slice at unit i, the moving slice at unit j⟩."""
    total, *rest = (
        products(fixed[each.place.parameter], moving[each.place.parameter], each.place) for each in places
    )
    for found in rest:
        total += found
    return total

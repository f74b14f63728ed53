"""Git Re-Basin weight matching: maximise ⟨θ_A, π(θ_B)⟩ over the symmetry group.

Source: Ainsworth, Hayase & Srinivasa 2023, "Git Re-Basin: Merging Models modulo Permutation Symmetries"
(arXiv 2209.04836), section 3.2 and Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.fanout import Fanout, Serial
from isthmus.match.abstract import AbstractMatcher
from isthmus.match.assignment import maximising_assignment
from isthmus.seeds import seeded
from isthmus.symmetry import Alignment, Axis, Outcome, Symmetry
from isthmus.symmetry.action import gathers, nearest, permute
from isthmus.weights import Weights

Order = Literal["random", "forward"]
# A step must gain more than the rounding of the objective, or equal optima would be exchanged for ever.
_GAIN = 1e-12


def match_weights(
    a: Weights,
    b: Weights,
    symmetry: Symmetry,
    *,
    restarts: int = 1,
    order: Order = "random",
    seed: int = 0,
    max_sweeps: int = 100,
    fanout: Fanout = Serial(),  # noqa: B008 - a frozen value
) -> Alignment:
    """Align the units of one model with those of another by their weights.

    Coordinate descent: each axis in turn, the others fixed, is a linear assignment on
    Σ ⟨A's slice at unit i, B's slice at unit j⟩, summed over all parameters that carry the axis. A step is
    taken only
    if the objective, accumulated in float64, rises. Buffers are not in the objective, but `apply` carries
    them along.

    Args:
        a: the weights that stay.
        b: the weights that are to be brought to `a`: use `alignment.apply(b)`.
        symmetry: the group of their network.
        restarts: how many starting points; the first is the identity, the others are random group elements;
            the best result is kept.
        order: `random` visits the axes in a new random order each sweep, `forward` in the network's order.
        seed: of the random order and starting points.
        max_sweeps: the limit of sweeps for each start.
        fanout: where the starts run.

    Returns:
        The alignment, with the objective ⟨θ_A, π(θ_B)⟩, its history over sweeps, and how it ended.

    Raises:
        SettingError: `restarts` or `max_sweeps` is below 1, or `order` is unknown.
        SymmetryError: the weights do not fit the symmetry's network.

    Limits: a local optimum of the inner product, which is not the barrier: judge a matching by its barrier.

    Source: Ainsworth et al. 2023 (arXiv 2209.04836), Algorithm 1.
    """
    matcher = WeightMatcher(symmetry, restarts, order, seed, max_sweeps, fanout)
    return matcher.match(a, b)


@dataclass(frozen=True)
class WeightMatcher(AbstractMatcher):
    """Weight matching with its settings; see `match_weights`."""

    symmetry: Symmetry
    restarts: int = 1
    order: Order = "random"
    seed: int = 0
    max_sweeps: int = 100
    fanout: Fanout = Serial()  # noqa: RUF009 - a frozen value

    def __post_init__(self) -> None:
        if self.restarts < 1 or self.max_sweeps < 1:
            raise SettingError(
                "restarts and max_sweeps must be at least 1, but they are "
                f"{self.restarts} and {self.max_sweeps}"
            )
        if self.order not in ("random", "forward"):
            raise SettingError(f"the order of axes must be 'random' or 'forward', but it is {self.order!r}")

    def match(self, fixed: Weights, moving: Weights) -> Alignment:
        """The best alignment over all starting points."""
        self.symmetry.check(fixed)
        self.symmetry.check(moving)
        descend = partial(_descend, replace(self, fanout=Serial()), fixed, moving)
        found = self.fanout.map(descend, range(self.restarts))
        return max(found, key=_objective)


def _objective(alignment: Alignment) -> float:
    return -math.inf if alignment.objective is None else alignment.objective


def _descend(matcher: WeightMatcher, fixed: Weights, moving: Weights, start: int) -> Alignment:
    """Coordinate descent from one starting point."""
    generator = seeded(matcher.seed, "match", start)
    symmetry = matcher.symmetry
    first = symmetry.identity() if start == 0 else symmetry.random(generator)
    state = _State(symmetry, fixed, moving, dict(first.permutations))
    roots = [axis for axis in symmetry.axes if len(axis.parents) != 1]
    history = [state.objective]
    waiting = {axis.name for axis in roots}
    for _ in range(matcher.max_sweeps):
        places = range(len(roots)) if matcher.order == "forward" else _shuffled(len(roots), generator)
        for axis in (roots[place] for place in places):
            if axis.name not in waiting:
                continue
            waiting.discard(axis.name)
            if changed := state.improve(axis):
                waiting |= changed
        history.append(state.objective)
        if not waiting:
            break
    outcome = Outcome.SWEEP_LIMIT if waiting else Outcome.CONVERGED
    return Alignment(symmetry, state.permutations, state.objective, outcome, tuple(history))


def _shuffled(number: int, generator: torch.Generator) -> list[int]:
    order: list[int] = torch.randperm(number, generator=generator).tolist()
    return order


class _State:
    """A, the permuted B, and the objective ⟨A, π(B)⟩ kept parameter by parameter.

    B is kept permuted, so that a slice is a view and only the tensors of a moved axis are written again.
    """

    def __init__(self, symmetry: Symmetry, fixed: Weights, moving: Weights, start: dict[str, Tensor]) -> None:
        self.symmetry = symmetry
        self.fixed = {name: _real(fixed[name]) for name in symmetry.layout.names}
        self.permutations = start
        moved = Alignment(symmetry, start).apply(moving)
        self.moving = {name: _real(moved[name]) for name in symmetry.layout.names}
        self.values = {name: _dot(self.fixed[name], self.moving[name]) for name in self.fixed}
        self._sizes = {name: tuple(tensor.shape) for name, tensor in self.fixed.items()}
        self._scale = fixed.norm() * moving.norm()
        self._still = {axis.name: torch.arange(axis.size) for axis in symmetry.axes}

    @property
    def objective(self) -> float:
        """⟨A, π(B)⟩ in float64."""
        return math.fsum(self.values.values())

    def improve(self, root: Axis) -> set[str]:
        """Solve one axis and what lies below it; returns the roots to be visited again.

        The axes of a family may lie along one tensor; then the scores of the one hold only while the other
        stays, and a step of all together may lose. If it does, each of them is tried alone.
        """
        family = self.families[root.name]
        scores = {axis.name: self._scores(axis) for axis in family if axis.places}
        changed = self._step(scores, None)
        if changed or len(family) == 1:
            return changed
        for axis in family:
            if axis.places:
                changed |= self._step({axis.name: self._scores(axis)}, {axis.name})
        return changed

    def _step(self, scores: Mapping[str, Tensor], moving: Collection[str] | None) -> set[str]:
        """Move to the best element for these scores if that raises the objective."""
        step = nearest(self.symmetry.axes, scores, maximising_assignment, self._still, moving)
        changes = gathers(self._carriers, step, self._sizes)
        touched = {name for name, _, _ in changes}
        tensors = {
            name: permute(
                self.moving[name], {(dim, blocks): i for (n, dim, blocks), i in changes.items() if n == name}
            )
            for name in touched
        }
        values = {name: _dot(self.fixed[name], tensor) for name, tensor in tensors.items()}
        gain = math.fsum(values.values()) - math.fsum(self.values[name] for name in touched)
        if not gain > _GAIN * self._scale:
            return set()
        self.moving |= tensors
        self.values |= values
        self.permutations = {name: p[step[name]] for name, p in self.permutations.items()}
        return {name for name, read in self.readers.items() if read & touched}

    def _scores(self, axis: Axis) -> Tensor:
        """scores[i, j] = Σ over the places of ⟨A's slice at unit i, the permuted B's slice at unit j⟩."""
        total = torch.zeros(axis.size, axis.size, dtype=torch.float64)
        for place in axis.places:
            if place.parameter in self.fixed:
                left = _slices(self.fixed[place.parameter], place.dim, place.index, place.blocks)
                right = _slices(self.moving[place.parameter], place.dim, place.index, place.blocks)
                total += (left @ right.T).cpu()
        return total

    @cached_property
    def families(self) -> Mapping[str, list[Axis]]:
        """For each root, itself and the axes below it that have one parent each."""
        families: dict[str, list[Axis]] = {}
        root_of: dict[str, str] = {}
        for axis in self.symmetry.axes:
            root_of[axis.name] = root_of[axis.parents[0][0]] if len(axis.parents) == 1 else axis.name
            families.setdefault(root_of[axis.name], []).append(axis)
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


def _slices(tensor: Tensor, dim: int, index: Tensor, blocks: int) -> Tensor:
    """The slices of a tensor at each unit as rows, shape (units, occurrences * rest); a view if possible."""
    if blocks > 1:
        tensor = tensor.reshape(blocks, -1, *tensor.shape[1:]).movedim(dim + 1, 1).flatten(0, 1)
        dim = 0
    front = tensor.movedim(dim, 0)
    whole = index.shape[1] == 1 and index.shape[0] == front.shape[0]
    if whole and torch.equal(index[:, 0], torch.arange(index.shape[0])):
        return front.reshape(front.shape[0], -1)
    return front[index].reshape(index.shape[0], -1)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _dot(first: Tensor, second: Tensor) -> float:
    """The inner product in float64, chunk by chunk."""
    return math.fsum(_chunked(first.reshape(-1), second.reshape(-1)))


def _chunked(first: Tensor, second: Tensor, size: int = 1 << 20) -> Iterable[float]:
    for left, right in zip(torch.split(first, size), torch.split(second, size), strict=True):
        yield float(torch.dot(left.double(), right.double()))

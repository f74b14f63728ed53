"""What matchers that search by the task's loss share: where they start, their gradient, what they keep.

The gradient is that of the loss of a training batch at a point between the models. Which element of all that
come by is kept is decided on a fixed part of the training split in evaluation mode, batch norm recalibrated.
No test split is ever read: a choice made on examples would make the loss reported on them too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.landscape import Landscape
from isthmus.match.assignment import maximising_assignment
from isthmus.match.soft import Matrices
from isthmus.match.state import State
from isthmus.match.weight import match_weights
from isthmus.seeds import seeded
from isthmus.symmetry import Alignment, Outcome, Symmetry
from isthmus.weights import Weights, combine

Position = Literal["midpoint", "random"]
Start = Literal["weights", "identity"] | Alignment

_CHOOSING = 1024
_COUNTS = ("steps", "batch", "evaluate_every", "iterations", "points", "examples")
"""Training examples that decide which element is kept, unless another landscape is given for that."""


# -- where they start -----------------------------------------------------------------------------


def starting_element(
    start: Start, symmetry: Symmetry, fixed: Weights, moving: Weights, seed: int
) -> Alignment:
    """The element that a search begins from.

    Raises:
        SettingError: `start` is unknown, or an alignment of another network.
        SymmetryError: the weights do not fit the symmetry's network.
    """
    symmetry.check(fixed)
    symmetry.check(moving)
    if isinstance(start, Alignment):
        if start.symmetry is not symmetry and start.symmetry != symmetry:
            raise SettingError("the search must start from an alignment of the symmetry that it searches")
        return start
    if start == "weights":
        return match_weights(fixed, moving, symmetry, seed=seed)
    if start == "identity":
        return symmetry.identity()
    raise SettingError(f"the start must be 'weights', 'identity' or an Alignment, but it is {start!r}")


def require_above(owner: str, **settings: float | None) -> None:
    """Refuse settings that are not above zero; None is left to the default."""
    for name, value in settings.items():
        if value is not None and not 0 < value < math.inf:
            raise SettingError(f"{owner}'s {name} must be above 0, got {value}")
        if name in _COUNTS and value is not None and value != int(value):
            raise SettingError(f"{owner}'s {name} must be a whole number, got {value}")


def require_position(position: str) -> None:
    """Refuse an unknown training point."""
    if position not in get_args(Position):
        raise SettingError(f"the position must be 'midpoint' or 'random', but it is {position!r}")


def positions(position: Position, steps: int, seed: int) -> list[float]:
    """The share α of B at each step: one half, or uniform in (0, 1)."""
    if position == "midpoint":
        return [0.5] * steps
    drawn: list[float] = torch.rand(steps, generator=seeded(seed, "positions"), dtype=torch.float64).tolist()
    return drawn


# -- projections ----------------------------------------------------------------------------------


def project(
    symmetry: Symmetry, target: Weights, moving: Weights, start: Mapping[str, Tensor], sweeps: int
) -> dict[str, Tensor]:
    """The permutations π that maximise ⟨target, π(moving)⟩ by coordinate descent from a start.

    If the start is the optimum still, that takes one visit of each axis, in the network's order.
    """
    state = State(symmetry, target, moving, start)
    waiting = set(state.families)
    for _ in range(sweeps):
        for root in state.families:
            if root in waiting:
                waiting.discard(root)
                waiting |= state.improve(root)
        if not waiting:
            break
    return dict(state.permutations)


def nearest_element(symmetry: Symmetry, scores: Matrices) -> Alignment:
    """The element that maximises the sum of the chosen scores."""
    return symmetry.nearest({n: s.detach().cpu() for n, s in scores.items()}, maximising_assignment)


# -- the gradient ---------------------------------------------------------------------------------


Slope = Callable[[Tensor, float], tuple[float, Tensor]]
"""From the image of B and the share α: the loss at (1-α)·A + α·image, and its gradient in the image."""


@contextmanager
def slope_from(landscape: Landscape, fixed: Weights, batches: Iterator[Any]) -> Iterator[Slope]:
    """The loss of the next batch between A and an image of B, in training mode, as plain training has it."""
    vector, gradient = torch.empty_like(fixed.vector), torch.zeros_like(fixed.vector)
    # Matching trains nothing: parameters that training holds still tell as much about the units as others.
    with landscape.descent(vector, gradient, fixed.buffers, whole=True) as step:

        def slope(image: Tensor, share: float) -> tuple[float, Tensor]:
            torch.lerp(fixed.vector, image, share, out=vector)
            gradient.zero_()
            loss = step(next(batches))
            return loss, gradient.mul_(share)

        yield slope


def spans(steps: int, every: int) -> list[range]:
    """The steps in runs of `every`, after each of which what was found is evaluated."""
    return [range(low, min(low + every, steps)) for low in range(0, steps, every)]


# -- what they keep -------------------------------------------------------------------------------


class BestKept:
    """The best element so far of those that were offered, by an objective that is to be large.

    Args:
        objective: of an element.
        start: the first that is offered.
    """

    def __init__(self, objective: Callable[[Alignment], float], start: Alignment) -> None:
        self._objective = objective
        self._last, self._value = start, _finite(objective(start))
        self._found, self.best = start, self._value
        self._history = [self._value]

    def offer(self, element: Alignment) -> None:
        """Evaluate an element, unless it is the one that came last, and keep it if it is better."""
        same = same_element(self._last, element)
        self.see(element, self._value if same else self._objective(element))

    def see(self, element: Alignment, value: float, record: bool = True) -> None:
        """Keep an element whose objective is known if it is better; `record` adds it to the history."""
        self._last, self._value = element, _finite(value)
        if self._value > self.best:
            self._found, self.best = element, self._value
        if record:
            self._history.append(self._value)

    def alignment(self, outcome: Outcome = Outcome.BUDGET) -> Alignment:
        """The best, with its objective, how the search ended, and the history in the order it came."""
        return replace(self._found, objective=self.best, outcome=outcome, history=tuple(self._history))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def same_element(first: Alignment, second: Alignment) -> bool:
    """Whether two elements move all units alike."""
    return all(torch.equal(p, second.permutations[name]) for name, p in first.permutations.items())


def choosing_landscape(landscape: Landscape, held_out: Landscape | None) -> Landscape:
    """Where elements are compared: a given landscape, or a limited part of the training split."""
    if held_out is not None:
        return replace(held_out, batchnorm="recalibrate")
    # Whatever the landscape's own policy: a midpoint's statistics belong to neither model.
    return replace(landscape, batchnorm="recalibrate", limit=min(landscape.limit or _CHOOSING, _CHOOSING))


def midpoint_objective(landscape: Landscape, fixed: Weights, moving: Weights) -> Callable[[Alignment], float]:
    """Minus the mean loss of ½(A + π(B)) on the training split of a landscape."""

    def objective(element: Alignment) -> float:
        midpoint = combine((0.5, 0.5), (fixed, element.apply(moving))).with_buffers(fixed.buffers)
        return -mean_losses(landscape, [midpoint])[0]

    return objective


def mean_losses(landscape: Landscape, points: Sequence[Weights]) -> list[float]:
    """The mean loss of each point on the training split."""
    found: list[float] = landscape.evaluate(points, "train").mean_loss.tolist()
    return found


def nothing_to_do(symmetry: Symmetry, element: Alignment, fixed: Weights, moving: Weights) -> bool:
    """Whether no search is needed: nothing can move, or B lies on A already, to the last bit."""
    free = any(axis.free for axis in symmetry.axes)
    return not free or torch.equal(element.apply(moving).vector, fixed.vector)

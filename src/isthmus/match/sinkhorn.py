"""Sinkhorn re-basin: doubly stochastic matrices in place of permutations, trained by gradient descent.

Source: Peña, Medeiros, Dubail, Aminbeidokhti, Granger & Pedersoli 2023, "Re-basin via implicit Sinkhorn
differentiation" (arXiv 2212.12042).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.landscape import Landscape
from isthmus.match.abstract import AbstractMatcher
from isthmus.match.search import (
    BestKept,
    Start,
    choosing_landscape,
    midpoint_objective,
    nearest_element,
    nothing_to_do,
    positions,
    require_above,
    slope_from,
    spans,
    starting_element,
)
from isthmus.match.soft import Relaxation, SoftAction
from isthmus.progress import Bar, Progress, Silent
from isthmus.seeds import seeded
from isthmus.symmetry import Alignment, Outcome, Symmetry
from isthmus.weights import Weights

Loss = Literal["distance", "midpoint", "random"]

_NOISE = 0.1  # of the first free numbers, as in the authors' code


def match_sinkhorn(
    a: Weights,
    b: Weights,
    symmetry: Symmetry,
    landscape: Landscape | None = None,
    *,
    loss: Loss | None = None,
    steps: int = 300,
    rate: float = 0.1,
    batch: int | None = None,
    temperature: float = 1.0,
    iterations: int = 20,
    confidence: float = 0.9,
    start: Start = "weights",
    seed: int = 0,
    evaluate_every: int = 10,
    held_out: Landscape | None = None,
    progress: Progress | None = None,
) -> Alignment:
    """Align two models by descent on doubly stochastic matrices, rounded to permutations.

    Each axis has a matrix X of free numbers; S = Sinkhorn(X / τ) is doubly stochastic, computed in log space.
    The loss is taken at the models mixed by S, and its gradient goes through all iterations. Units in heads,
    groups or experts have one such matrix for every pair of parents, weighted with the parents' own entry.
    The matrices are rounded every few steps, and the best element that they come by is kept.

    Args:
        a: the weights that stay.
        b: the weights that are to be brought to `a`: use `alignment.apply(b)`.
        symmetry: the group of their network.
        landscape: gives training batches and gradients; the distance needs none.
        loss: `distance` is ‖θ_A - S·θ_B‖² / ‖θ_A‖²; `midpoint` and `random` are the task's loss of a batch at
            (1-α) θ_A + α S·θ_B with α = 1/2 or uniform each step. By default `midpoint` if there is a
            landscape, else `distance`.
        steps: gradient steps.
        rate: of Adam, on X.
        batch: examples a step; the recipe's by default.
        temperature: τ; the lower, the sooner X makes S sharp. To lower it on the way was tried: no gain.
        iterations: of Sinkhorn, each rows and columns.
        confidence: the entry of S at the pairs of the start, in (0, 1), before noise.
        start: X begins near this element: that of `match_weights`, the identity (as published), or a given
            alignment.
        seed: of the noise on X, the order of the data, augmentation, dropout and positions.
        evaluate_every: steps from one rounding to the next.
        held_out: where rounded elements are compared under the task's losses: on its *training* split, in
            evaluation mode. By default 1,024 examples of the landscape's own training split. The test split
            is never read.
        progress: shows the loss and the time left; silent by default.

    Returns:
        The best alignment. Its objective is minus the squared distance ‖θ_A - π(θ_B)‖² for the loss
        `distance`, else minus the loss at the midpoint on the examples that decide; its history the objective
        at each rounding, the start's first.

    Raises:
        SettingError: a setting is out of range, a task's loss is asked for without a landscape, or `start`
            belongs to another symmetry.
        SymmetryError: the weights do not fit the symmetry's network.

    Limits: mixing units that have little in common makes them small, which the distance rewards: it recovers
    a planted order from the identity, but between models trained apart it rounds to elements that are farther
    than weight matching's. It stops at the first loss that is not finite.

    Cost: each step about 2 · iterations passes over (size × size) numbers an axis, forward and back, the
    mixing, and a training step; memory as many (size × size) matrices an axis as there are such passes.

    Source: Peña et al. 2023 (arXiv 2212.12042), sections 3 and 4; gradients through the iterations in place
    of implicit ones, the start by confidence, and the choice of the best rounding are ours.
    """
    matcher = SinkhornMatcher(
        symmetry, landscape, loss, steps, rate, batch, temperature, iterations, confidence, start, seed,
        evaluate_every, held_out, progress,
    )  # fmt: skip
    return matcher.match(a, b)


@dataclass(frozen=True)
class SinkhornMatcher(AbstractMatcher):
    """Sinkhorn re-basin with its settings; see `match_sinkhorn`."""

    symmetry: Symmetry
    landscape: Landscape | None = None
    loss: Loss | None = None
    steps: int = 300
    rate: float = 0.1
    batch: int | None = None
    temperature: float = 1.0
    iterations: int = 20
    confidence: float = 0.9
    start: Start = "weights"
    seed: int = 0
    evaluate_every: int = 10
    held_out: Landscape | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        require_above(
            "the Sinkhorn matcher",
            steps=self.steps, rate=self.rate, batch=self.batch, temperature=self.temperature,
            iterations=self.iterations, evaluate_every=self.evaluate_every,
        )  # fmt: skip
        if not 0 < self.confidence < 1:
            raise SettingError(f"the confidence must lie in (0, 1), but it is {self.confidence}")
        if self.loss not in (None, *get_args(Loss)):
            raise SettingError(
                f"the loss must be one of {', '.join(map(repr, get_args(Loss)))}, but it is {self.loss!r}"
            )
        if self.loss not in (None, "distance") and self.landscape is None:
            raise SettingError(f"the loss {self.loss!r} is that of a task: give a landscape, or 'distance'")

    def match(self, fixed: Weights, moving: Weights) -> Alignment:
        """The best element that the search rounded to."""
        if self.landscape is not None:
            fixed, moving = fixed.to(self.landscape.device), moving.to(self.landscape.device)
        first = starting_element(self.start, self.symmetry, fixed, moving, self.seed)
        kept = BestKept(self._objective(fixed, moving), first)
        if nothing_to_do(self.symmetry, first, fixed, moving):
            return kept.alignment(Outcome.CONVERGED)
        shown = self.progress or Silent()
        with torch.random.fork_rng(), torch.enable_grad(), shown.bar("Sinkhorn re-basin", self.steps) as bar:
            outcome = self._search(fixed, moving, first, kept, bar)
        return kept.alignment(outcome)

    @property
    def _task(self) -> Landscape | None:
        """The landscape, if the loss is the task's."""
        return None if self.loss == "distance" else self.landscape

    def _objective(self, fixed: Weights, moving: Weights) -> Callable[[Alignment], float]:
        if self._task is not None:
            return midpoint_objective(choosing_landscape(self._task, self.held_out), fixed, moving)
        return lambda element: -(fixed.distance(element.apply(moving)) ** 2)

    def _search(self, fixed: Weights, moving: Weights, first: Alignment, kept: BestKept, bar: Bar) -> Outcome:
        action, relaxation = SoftAction(self.symmetry), Relaxation(self.symmetry)
        free = first_numbers(first, self.temperature, self.confidence, self.seed, fixed.vector)
        descent = torch.optim.Adam(free.values(), self.rate)
        batches, shares = self._batches(), self._shares()
        for span in spans(self.steps, self.evaluate_every):
            with self._losses(fixed, batches) as backward:
                for step in span:
                    matrices = relaxation.matrices(free, self._project)
                    descent.zero_grad()
                    loss = backward(action(matrices, moving), shares[step])
                    if not math.isfinite(loss):
                        return Outcome.DIVERGED
                    descent.step()
                    if not all(bool(each.isfinite().all()) for each in free.values()):
                        return Outcome.DIVERGED
            with torch.no_grad():
                rounded = nearest_element(self.symmetry, relaxation.matrices(free, self._project))
            kept.offer(rounded)
            bar(span.stop, f"loss {loss:.4f}, best {-kept.best:.4f}")
        return Outcome.BUDGET

    def _project(self, free: Tensor) -> Tensor:
        return sinkhorn(free / self.temperature, self.iterations)

    def _batches(self) -> Iterator[Any]:
        if self._task is None:
            return iter(())
        return self._task.stream(self.seed, self.batch or self._task.recipe.batch)

    def _shares(self) -> list[float]:
        return positions("random" if self.loss == "random" else "midpoint", self.steps, self.seed)

    @contextmanager
    def _losses(self, fixed: Weights, batches: Iterator[Any]) -> Iterator[Callable[[Tensor, float], float]]:
        """A function of mixed weights and the share α: gives the loss, and sends the gradient back."""
        if self._task is None:
            scale = fixed.dot(fixed)

            def from_distance(mixed: Tensor, _: float) -> float:
                loss = (fixed.vector - mixed).square().sum() / scale
                loss.backward()  # type: ignore[no-untyped-call]
                return float(loss.detach())

            yield from_distance
            return
        with slope_from(self._task, fixed, batches) as slope:

            def from_task(mixed: Tensor, share: float) -> float:
                loss, gradient = slope(mixed.detach(), share)
                mixed.backward(gradient)  # type: ignore[no-untyped-call]
                return loss

            yield from_task


def sinkhorn(free: Tensor, iterations: int) -> Tensor:
    """The doubly stochastic matrices that rescaling rows and columns makes of exp(free).

    Args:
        free: shape (..., n, n).
        iterations: how often rows and then columns are brought to sum to one, in log space.

    Returns:
        Matrices whose columns sum to one, and whose rows do in the limit.

    Example:
        >>> import torch
        >>> found = sinkhorn(torch.tensor([[4.0, 0.0], [0.0, 4.0]]).log1p(), 50)
        >>> [[round(x, 4) for x in row] for row in found.tolist()]
        [[0.8333, 0.1667], [0.1667, 0.8333]]

    Source: Sinkhorn 1964; in log space as in Peyré & Cuturi 2019, "Computational Optimal Transport", 4.4.
    """
    for _ in range(iterations):
        free = free - free.logsumexp(-1, keepdim=True)
        free = free - free.logsumexp(-2, keepdim=True)
    return free.exp()


def first_numbers(
    element: Alignment, temperature: float, confidence: float, seed: int, like: Tensor
) -> dict[str, Tensor]:
    """Free numbers whose matrices have about this entry at the pairs of an element, with some noise.

    In a cell of n units exp(x) / (exp(x) + n - 1) is the confidence at x = log(n - 1) + logit(confidence).
    """
    free = {}
    for axis in element.symmetry.axes:
        noise = torch.randn(axis.size, axis.size, generator=seeded(seed, "noise", axis.name))
        sizes = axis.cells.bincount()[axis.cells].to(noise.dtype)
        lift = (sizes - 1).clamp_min(1).log() + math.log(confidence / (1 - confidence))
        numbers = _NOISE * noise
        numbers[torch.arange(axis.size), element.permutations[axis.name]] += lift
        free[axis.name] = (temperature * numbers).to(like).requires_grad_(axis.free > 0)
    return free

"""The straight-through estimator: weight matching against a free point that the task's loss moves.

Source: Ainsworth, Hayase & Srinivasa 2023, "Git Re-Basin" (arXiv 2209.04836), section 3.3 and Algorithm 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from isthmus.landscape import Landscape
from isthmus.match.abstract import AbstractMatcher
from isthmus.match.search import (
    BestKept,
    Position,
    Start,
    choosing_landscape,
    midpoint_objective,
    nothing_to_do,
    positions,
    project,
    require_above,
    require_position,
    slope_from,
    spans,
    starting_element,
)
from isthmus.progress import Bar, Progress, Silent
from isthmus.symmetry import Alignment, Outcome, Symmetry
from isthmus.weights import Weights, combine

_PUBLISHED_RATE, _MOMENTUM = 0.01, 0.9
_SWEEPS = 100


def match_straight_through(
    a: Weights,
    b: Weights,
    symmetry: Symmetry,
    landscape: Landscape,
    *,
    steps: int = 400,
    rate: float | None = None,
    batch: int | None = None,
    position: Position = "midpoint",
    start: Start = "weights",
    seed: int = 0,
    evaluate_every: int = 10,
    held_out: Landscape | None = None,
    progress: Progress | None = None,
) -> Alignment:
    """Align two models by the task's loss between them, with permutations found by weight matching.

    A free point θ̂, at first θ_A, stands for B. Each step projects it onto B's orbit and descends the loss
    between the models as if the projection were the identity map:

        π = argmax_g ⟨θ̂, g(θ_B)⟩,     θ̂ ← θ̂ - η ∂/∂π(θ_B) L_batch((1-α) θ_A + α π(θ_B)),

    by SGD with momentum 0.9 as published. Of the elements that come by, the one with the lowest loss at the
    midpoint is kept.

    Args:
        a: the weights that stay.
        b: the weights that are to be brought to `a`: use `alignment.apply(b)`.
        symmetry: the group of their network.
        landscape: gives training batches and gradients, on its device. Batch norm uses the batch's own
            statistics there.
        steps: gradient steps.
        rate: η; by default that of the recipe if it trains by SGD, as the right one scales with the weights,
            and the published 0.01 otherwise.
        batch: examples a step; the recipe's by default.
        position: `midpoint` trains at α = 1/2, as published, `random` at a uniform α each step.
        start: `weights` begins with `match_weights`, which is the projection of θ_A. `identity` and a given
            alignment g begin there, with θ̂ at ½(θ_A + g(θ_B)), since a projection of θ_A itself would leave
            g at once.
        seed: of the order of the data, augmentation, dropout and positions.
        evaluate_every: steps from one evaluation of the midpoint to the next.
        held_out: where elements are compared: on its *training* split, in evaluation mode. By default 1,024
            examples of the landscape's own training split. The test split is never read, so that it can
            judge the result; the task's model was trained on the training split, which cannot.
        progress: shows the loss and the time left; silent by default.

    Returns:
        The best alignment; its objective is minus the loss at the midpoint on the examples that decide, its
        history the objective at each evaluation, the start's first.

    Raises:
        SettingError: a setting is out of range, or `start` belongs to another symmetry.
        SymmetryError: the weights do not fit the symmetry's network.

    Limits: it stops at the first loss that is not finite. Floating-point buffers other than batch-norm
    statistics are taken from `a`.

    Cost: a training step and a weight matching from the last π each step, about one sweep. Where layers are
    wide for the batch it is the larger part: 70 % of the time for four layers of 256 units and 64 examples.

    Source: Ainsworth et al. 2023 (arXiv 2209.04836), Algorithm 3; the choice on separate examples instead of
    by the batch loss, and α at random, are ours.
    """
    matcher = StraightThroughMatcher(
        symmetry, landscape, steps, rate, batch, position, start, seed, evaluate_every, held_out, progress
    )
    return matcher.match(a, b)


@dataclass(frozen=True)
class StraightThroughMatcher(AbstractMatcher):
    """Straight-through matching with its settings; see `match_straight_through`."""

    symmetry: Symmetry
    landscape: Landscape
    steps: int = 400
    rate: float | None = None
    batch: int | None = None
    position: Position = "midpoint"
    start: Start = "weights"
    seed: int = 0
    evaluate_every: int = 10
    held_out: Landscape | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        require_above(
            "the straight-through matcher",
            steps=self.steps, rate=self.rate, batch=self.batch, evaluate_every=self.evaluate_every,
        )  # fmt: skip
        require_position(self.position)

    def match(self, fixed: Weights, moving: Weights) -> Alignment:
        """The best element that the search came by."""
        fixed, moving = fixed.to(self.landscape.device), moving.to(self.landscape.device)
        first = starting_element(self.start, self.symmetry, fixed, moving, self.seed)
        chooser = choosing_landscape(self.landscape, self.held_out)
        kept = BestKept(midpoint_objective(chooser, fixed, moving), first)
        if nothing_to_do(self.symmetry, first, fixed, moving):
            return kept.alignment(Outcome.CONVERGED)
        shown = self.progress or Silent()
        with (
            torch.random.fork_rng(),
            torch.enable_grad(),
            shown.bar("matching straight through", self.steps) as bar,
        ):
            outcome = self._search(fixed, moving, first, kept, bar)
        return kept.alignment(outcome)

    def _search(self, fixed: Weights, moving: Weights, first: Alignment, kept: BestKept, bar: Bar) -> Outcome:
        free = fixed if self.start == "weights" else combine((0.5, 0.5), (fixed, first.apply(moving)))
        free = Weights(free.layout, free.vector.clone())
        recipe = self.landscape.recipe
        rate = self.rate or (recipe.rate if recipe.optimizer == "sgd" else _PUBLISHED_RATE)
        descent = torch.optim.SGD([free.vector], rate, _MOMENTUM)
        batches = self.landscape.stream(self.seed, self.batch or recipe.batch)
        shares = positions(self.position, self.steps, self.seed)
        element = first
        for span in spans(self.steps, self.evaluate_every):
            with slope_from(self.landscape, fixed, batches) as slope:
                for step in span:
                    found = project(self.symmetry, free, moving, element.permutations, _SWEEPS)
                    element = Alignment(self.symmetry, found)
                    loss, free.vector.grad = slope(element.apply(moving).vector, shares[step])
                    if not math.isfinite(loss):
                        return Outcome.DIVERGED
                    descent.step()
                    if not bool(free.vector.isfinite().all()):
                        return Outcome.DIVERGED
            kept.offer(element)
            bar(span.stop, f"loss {loss:.4f}, best {-kept.best:.4f}")
        return Outcome.BUDGET

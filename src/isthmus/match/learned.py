"""Learned matching: free scores for every axis, projected to the group, trained by the task's loss.

Source: Theus et al. 2025, "Generalized Linear Mode Connectivity for Transformers" (arXiv 2506.22712).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.landscape import Landscape
from isthmus.match.abstract import AbstractMatcher
from isthmus.match.search import (
    BestKept,
    Position,
    Start,
    choosing_landscape,
    midpoint_objective,
    nearest_element,
    nothing_to_do,
    positions,
    require_above,
    require_position,
    same_element,
    slope_from,
    spans,
    starting_element,
)
from isthmus.match.soft import SoftAction, matrices_of
from isthmus.progress import Bar, Progress, Silent
from isthmus.symmetry import Alignment, Outcome, Symmetry
from isthmus.weights import Weights


def match_learned(
    a: Weights,
    b: Weights,
    symmetry: Symmetry,
    landscape: Landscape,
    *,
    steps: int = 400,
    rate: float = 0.03,
    batch: int | None = None,
    position: Position = "midpoint",
    start: Start = "weights",
    seed: int = 0,
    evaluate_every: int = 10,
    held_out: Landscape | None = None,
    progress: Progress | None = None,
) -> Alignment:
    """Align two models by the task's loss between them, with free scores for all pairs of units.

    Each axis has a matrix Z of scores. Each step projects them to the group and moves them as if the
    projection were the identity map:

        P = argmax_P Σ_axis ⟨Z, P⟩,     Z ← Z - η Adam(∂/∂P L_batch((1-α) θ_A + α P·θ_B)).

    The gradient of a pair of units is what the loss would change by, to first order, if the one came in the
    other's place. Adam divides by one second moment an axis, not one a pair: divided pair by pair, those with
    small gradients drift as fast as those that matter, and the loss soon rises. Units in heads, groups or
    experts are projected together with them.

    Args:
        a: the weights that stay.
        b: the weights that are to be brought to `a`: use `alignment.apply(b)`.
        symmetry: the group of their network.
        landscape: gives training batches and gradients, on its device. Batch norm uses the batch's own
            statistics there.
        steps: gradient steps.
        rate: η, where the scores of an axis have a standard deviation of 1 at the start.
        batch: examples a step; the recipe's by default.
        position: `midpoint` trains at α = 1/2, `random` at a uniform α each step.
        start: Z starts from the inner products of the units' weights at this element: that of
            `match_weights`, the identity, or a given alignment.
        seed: of the order of the data, augmentation, dropout and positions.
        evaluate_every: steps from one evaluation of the midpoint to the next.
        held_out: where elements are compared: on its *training* split, in evaluation mode. By default 1,024
            examples of the landscape's own training split. The test split is never read.
        progress: shows the loss and the time left; silent by default.

    Returns:
        The best alignment; its objective is minus the loss at the midpoint on the examples that decide, its
        history the objective at each evaluation, the start's first.

    Raises:
        SettingError: a setting is out of range, or `start` belongs to another symmetry.
        SymmetryError: the weights do not fit the symmetry's network.

    Limits: permutations only. It stops at the first loss that is not finite. Floating-point buffers other
    than batch-norm statistics are taken from `a`.

    Cost: a training step, two products of (size × size) with (size × rest) for each place of an axis, and one
    assignment an axis each step; memory for four (size × size) matrices an axis.

    Source: Theus et al. 2025 (arXiv 2506.22712), learned matching; the scale of the scores, the moment an
    axis and the choice on separate examples are ours.
    """
    matcher = LearnedMatcher(
        symmetry, landscape, steps, rate, batch, position, start, seed, evaluate_every, held_out, progress
    )
    return matcher.match(a, b)


_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class LearnedMatcher(AbstractMatcher):
    """Learned matching with its settings; see `match_learned`."""

    symmetry: Symmetry
    landscape: Landscape
    steps: int = 400
    rate: float = 0.03
    batch: int | None = None
    position: Position = "midpoint"
    start: Start = "weights"
    seed: int = 0
    evaluate_every: int = 10
    held_out: Landscape | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        require_above(
            "the learned matcher",
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
            shown.bar("learning a matching", self.steps) as bar,
        ):
            outcome = self._search(fixed, moving, first, kept, bar)
        return kept.alignment(outcome)

    def _search(self, fixed: Weights, moving: Weights, first: Alignment, kept: BestKept, bar: Bar) -> Outcome:
        action = SoftAction(self.symmetry)
        scores = starting_scores(action, fixed, moving, first)
        moments = {name: _Moments.of(score) for name, score in scores.items()}
        batches = self.landscape.stream(self.seed, self.batch or self.landscape.recipe.batch)
        shares = positions(self.position, self.steps, self.seed)
        for span in spans(self.steps, self.evaluate_every):
            with slope_from(self.landscape, fixed, batches) as slope:
                for step in span:
                    element = nearest_element(self.symmetry, scores)
                    loss, gradient = slope(element.apply(moving).vector, shares[step])
                    if not math.isfinite(loss):
                        return Outcome.DIVERGED
                    for name, slopes in pulled_back(action, gradient, moving, element).items():
                        scores[name] -= self.rate * moments[name].step(slopes)
                    if not all(bool(each.isfinite().all()) for each in scores.values()):
                        return Outcome.DIVERGED
            kept.offer(element)
            bar(span.stop, f"loss {loss:.4f}, best {-kept.best:.4f}")
        return Outcome.BUDGET


@dataclass
class _Moments:
    """Adam's moments of one axis: the mean gradient of each pair, and one mean square of them all."""

    mean: Tensor
    square: Tensor
    taken: int = 0

    @classmethod
    def of(cls, scores: Tensor) -> _Moments:
        return cls(torch.zeros_like(scores), scores.new_zeros(()))

    def step(self, gradient: Tensor) -> Tensor:
        """The direction to go, of about unit size a pair (Kingma & Ba 2015, Algorithm 1)."""
        self.taken += 1
        self.mean.lerp_(gradient, 1 - _BETAS[0])
        self.square.lerp_(gradient.square().mean(), 1 - _BETAS[1])
        scale = (self.square / (1 - _BETAS[1] ** self.taken)).sqrt().clamp_min(1e-30)
        return self.mean / (1 - _BETAS[0] ** self.taken) / scale


def pulled_back(
    action: SoftAction, gradient: Tensor, moving: Weights, element: Alignment
) -> dict[str, Tensor]:
    """The gradient in each axis' matrix, at a group element, of what has this gradient in the weights."""
    matrices = matrices_of(element, moving.vector)
    names = [axis.name for axis in action.symmetry.axes if axis.free]
    for name in names:
        matrices[name].requires_grad_()
    found = torch.autograd.grad(
        action(matrices, moving), [matrices[name] for name in names], gradient, materialize_grads=True
    )
    return dict(zip(names, found, strict=True))


def starting_scores(
    action: SoftAction, fixed: Weights, moving: Weights, element: Alignment
) -> dict[str, Tensor]:
    """Scores whose nearest element is the given one: the inner products of A's units and B's.

    They are brought to a standard deviation of 1 an axis. If another element is nearer (the given one was not
    found by weights, or its axes share tensors), the pairs of the given one are raised until none is.
    """
    products = pulled_back(action, fixed.vector, moving, element)
    products = {name: score / score.std().clamp_min(1e-30) for name, score in products.items()}
    chosen = matrices_of(element, moving.vector)
    lift = 0.0
    while True:
        scores = {name: score + lift * chosen[name] for name, score in products.items()}
        if same_element(nearest_element(action.symmetry, scores), element) or lift > _HIGHEST:
            return scores
        lift = 2 * lift if lift else 0.25


_HIGHEST = 1e6
"""No lift beyond this: units that score nothing at all have no nearest order."""

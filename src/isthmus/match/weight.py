"""Git Re-Basin weight matching: maximise ⟨θ_A, π(θ_B)⟩ over the symmetry group.

Source: Ainsworth, Hayase & Srinivasa 2023, "Git Re-Basin: Merging Models modulo Permutation Symmetries"
(arXiv 2209.04836), section 3.2 and Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch

from isthmus.errors import SettingError
from isthmus.fanout import Fanout, Serial
from isthmus.match.abstract import AbstractMatcher
from isthmus.match.guess import guess
from isthmus.match.state import State
from isthmus.seeds import seeded
from isthmus.symmetry import Alignment, Outcome, Symmetry
from isthmus.weights import Weights

Order = Literal["random", "forward"]
Start = Literal["best", "identity", "invariant"]


def match_weights(
    a: Weights,
    b: Weights,
    symmetry: Symmetry,
    *,
    restarts: int = 1,
    order: Order = "random",
    seed: int = 0,
    max_sweeps: int = 100,
    start: Start = "best",
    fanout: Fanout = Serial(),  # noqa: B008 - a frozen value
) -> Alignment:
    """Align the units of one model with those of another by their weights.

    Coordinate descent: each axis in turn, the others fixed, is a linear assignment on
    Σ ⟨A's slice at unit i, B's slice at unit j⟩, summed over all parameters that carry the axis. Axes below
    it (units in heads, groups or experts) are solved for the pairs of its units, and count with their values.
    The sums are kept: when an axis has moved, its neighbours' change by the products of what moved.
    A step is taken only if the objective, accumulated in float64, rises. Buffers are not in the objective,
    but `apply` carries them along.

    Args:
        a: the weights that stay.
        b: the weights that are to be brought to `a`: use `alignment.apply(b)`.
        symmetry: the group of their network.
        restarts: how many starting points; the first is `start`, the others are random group elements; the
            best result is kept.
        order: `random` visits the axes in a new random order each sweep, `forward` in the network's order.
        seed: of the random order and starting points.
        max_sweeps: the limit of sweeps for each start.
        start: `identity` is B as it comes: with `restarts=1` the published algorithm. `invariant` is a guess
            that is the same for every order of B's units (see `match/guess.py`). `best` is the one of these
            two that has the larger objective.
        fanout: where the starts run.

    Returns:
        The alignment, with the objective ⟨θ_A, π(θ_B)⟩, its history over sweeps, and how it ended.

    Raises:
        SettingError: `restarts` or `max_sweeps` is below 1, or `order` is unknown.
        SymmetryError: the weights do not fit the symmetry's network.

    Limits: a local optimum of the inner product, which is not the barrier: judge a matching by its barrier.

    Cost: about twice that of one product of slices a place and one assignment an axis; VGG-16 (15.3 million
    parameters, untrained) takes 0.7 s of one CPU core. Products run where the weights are, in their
    precision, and the assignments in float64 on the CPU. Memory: two copies of the weights, and one (size,
    size) matrix an axis in float64.

    Source: Ainsworth et al. 2023 (arXiv 2209.04836), Algorithm 1, for the descent; the guess is our own.
    """
    matcher = WeightMatcher(symmetry, restarts, order, seed, max_sweeps, start, fanout)
    return matcher.match(a, b)


def match_pairs(
    pairs: Sequence[tuple[Weights, Weights]],
    symmetry: Symmetry,
    *,
    restarts: int = 1,
    order: Order = "random",
    seed: int = 0,
    max_sweeps: int = 100,
    start: Start = "best",
    fanout: Fanout = Serial(),  # noqa: B008 - a frozen value
) -> list[Alignment]:
    """Align many independent pairs of models of one network by their weights.

    Each pair gets exactly what `match_weights` would give it.

    Args:
        pairs: (the weights that stay, those that are brought to them), each pair by itself.
        symmetry: the group of their network, found once.
        restarts: how many starting points a pair, as in `match_weights`.
        order: of the axes in a sweep, `random` or `forward`.
        seed: of the random orders and starting points, the same for all pairs.
        max_sweeps: the limit of sweeps for each start.
        start: `best`, `identity` or `invariant`.
        fanout: where the pairs run; the starting points of a pair run one after the other.

    Returns:
        One alignment a pair, in their order.

    Raises:
        SettingError: `restarts` or `max_sweeps` is below 1, or `order` or `start` is unknown.
        SymmetryError: some weights do not fit the symmetry's network.

    Example:
        >>> import torch, isthmus as im
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> symmetry, a = im.discover(net, torch.zeros(1, 2)), im.Weights.from_module(net)
        >>> turned = im.Alignment(symmetry, {"0.weight[0]": torch.tensor([1, 2, 0])}).apply(a)
        >>> back, same = match_pairs([(a, turned), (a, a)], symmetry)
        >>> back.apply(turned).equal(a), same == im.match_weights(a, a, symmetry)
        (True, True)

    Source: Ainsworth et al. 2023 (arXiv 2209.04836), Algorithm 1, pair by pair.
    """
    matcher = WeightMatcher(symmetry, restarts, order, seed, max_sweeps, start)
    return fanout.map(partial(_match_pair, matcher), pairs)


@dataclass(frozen=True)
class WeightMatcher(AbstractMatcher):
    """Weight matching with its settings; see `match_weights`."""

    symmetry: Symmetry
    restarts: int = 1
    order: Order = "random"
    seed: int = 0
    max_sweeps: int = 100
    start: Start = "best"
    fanout: Fanout = Serial()  # noqa: RUF009 - a frozen value

    def __post_init__(self) -> None:
        if self.restarts < 1 or self.max_sweeps < 1:
            raise SettingError(
                "restarts and max_sweeps must be at least 1, but they are "
                f"{self.restarts} and {self.max_sweeps}"
            )
        if self.order not in ("random", "forward"):
            raise SettingError(f"the order of axes must be 'random' or 'forward', but it is {self.order!r}")
        if self.start not in get_args(Start):
            raise SettingError(
                f"the start must be one of {', '.join(map(repr, get_args(Start)))}, but it is {self.start!r}"
            )

    def match(self, fixed: Weights, moving: Weights) -> Alignment:
        """The best alignment over all starting points."""
        self.symmetry.check(fixed)
        self.symmetry.check(moving)
        descend = partial(_descend, replace(self, fanout=Serial()), fixed, moving)
        found = self.fanout.map(descend, range(self.restarts))
        return max(found, key=_objective)


def _match_pair(matcher: WeightMatcher, pair: tuple[Weights, Weights]) -> Alignment:
    return matcher.match(*pair)


def _objective(alignment: Alignment) -> float:
    return -math.inf if alignment.objective is None else alignment.objective


def _descend(matcher: WeightMatcher, fixed: Weights, moving: Weights, start: int) -> Alignment:
    """Coordinate descent from one starting point."""
    symmetry = matcher.symmetry
    generator = seeded(matcher.seed, "match", start)
    first = symmetry.random(generator) if start else symmetry.identity()
    state = State(symmetry, fixed, moving, first.permutations)
    waiting = set(state.families)
    if start == 0 and matcher.start != "identity":
        unmoved = state.objective
        waiting = guess(state)
        if matcher.start == "best" and not state.objective > unmoved:
            state = State(symmetry, fixed, moving, first.permutations)
            waiting = set(state.families)
    history = [state.objective]
    for _ in range(matcher.max_sweeps):
        roots = list(state.families)
        if matcher.order == "random":
            roots = [roots[place] for place in _shuffled(len(roots), generator)]
        for root in roots:
            if root in waiting:
                waiting.discard(root)
                waiting |= state.improve(root)
        history.append(state.objective)
        if not waiting:
            break
    outcome = Outcome.SWEEP_LIMIT if waiting else Outcome.CONVERGED
    return Alignment(symmetry, state.permutations, state.objective, outcome, tuple(history))


def _shuffled(number: int, generator: torch.Generator) -> list[int]:
    order: list[int] = torch.randperm(number, generator=generator).tolist()
    return order

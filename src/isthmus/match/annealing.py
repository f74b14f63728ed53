"""Simulated annealing over the orders of hidden units, with the barrier itself as the energy.

Source: Entezari, Sedghi, Saukh & Neyshabur 2022, "The Role of Permutation Invariance in Linear Mode
Connectivity of Neural Networks" (arXiv 2110.06296), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.landscape import Landscape
from isthmus.match.abstract import AbstractMatcher
from isthmus.match.search import (
    BestKept,
    Start,
    mean_losses,
    nothing_to_do,
    require_above,
    starting_element,
)
from isthmus.progress import Bar, Progress, Silent
from isthmus.seeds import seeded
from isthmus.symmetry import Alignment, Axis, Outcome, Symmetry
from isthmus.symmetry.action import follow, members_of
from isthmus.weights import Weights, combine

_PROBES = 32
_SHARE = 0.1
"""The first temperature is this share of the mean change of the energy by so many random swaps.

At the whole change most swaps that hurt are taken, and the steps that one can afford go into undoing them.
"""


def match_annealing(
    a: Weights,
    b: Weights,
    symmetry: Symmetry,
    landscape: Landscape,
    *,
    steps: int = 1000,
    points: int = 1,
    examples: int = 256,
    temperature: float | None = None,
    cooling: float = 1e-3,
    start: Start = "identity",
    seed: int = 0,
    evaluate_every: int = 20,
    progress: Progress | None = None,
) -> Alignment:
    """Align two models by simulated annealing: the baseline that knows nothing of the weights.

    A step swaps two units that may change places, and what belongs to them with them. If that lowers the
    barrier on a part of the training split, or raises it by Δ ≥ 0 and a uniform number is below exp(-Δ / T),
    the step is taken. T falls geometrically. The best order on the way is kept; a barrier of 0 ends it.

    Args:
        a: the weights that stay.
        b: the weights that are to be brought to `a`: use `alignment.apply(b)`.
        symmetry: the group of their network.
        landscape: gives losses.
        steps: how many swaps are tried.
        points: evenly spaced points within the segment at which the barrier is taken: the largest excess of
            the loss over the line between the ends' losses, and 0 if there is none. 1 is the midpoint.
        examples: how many training examples the energy is taken on; batch norm is recalibrated on as many.
        temperature: T before the first step, in the loss's unit; by default a tenth of the mean |Δ| of 32
            random swaps, which are evaluated for that.
        cooling: T at the last step over T before the first.
        start: the identity, as published; `weights` starts from `match_weights`, or give an alignment.
        seed: of the swaps and of what is taken.
        evaluate_every: steps from one entry of the history to the next.
        progress: shows the energy and the time left; silent by default.

    Returns:
        The best alignment; its objective is minus the barrier on these examples, its history that of the
        present order every few steps, the start's first.

    Raises:
        SettingError: a setting is out of range, or `start` belongs to another symmetry.
        SymmetryError: the weights do not fit the symmetry's network.

    Limits: finds little in large networks, as its authors say: a layer of n units has n(n-1)/2 swaps, of
    which one changes the loss little. The examples that decide are training examples; judge by others.

    Cost: `points` evaluations of `examples` examples each step, twice with batch norm, and a few copies of
    the weights.

    Source: Entezari et al. 2022 (arXiv 2110.06296), section 3 and its appendix on the search.
    """
    matcher = AnnealingMatcher(
        symmetry, landscape, steps, points, examples, temperature, cooling, start, seed, evaluate_every,
        progress,
    )  # fmt: skip
    return matcher.match(a, b)


@dataclass(frozen=True)
class AnnealingMatcher(AbstractMatcher):
    """Simulated annealing with its settings; see `match_annealing`."""

    symmetry: Symmetry
    landscape: Landscape
    steps: int = 1000
    points: int = 1
    examples: int = 256
    temperature: float | None = None
    cooling: float = 1e-3
    start: Start = "identity"
    seed: int = 0
    evaluate_every: int = 20
    progress: Progress | None = None

    def __post_init__(self) -> None:
        require_above(
            "the annealing matcher",
            steps=self.steps, points=self.points, examples=self.examples, temperature=self.temperature,
            cooling=self.cooling, evaluate_every=self.evaluate_every,
        )  # fmt: skip
        if self.cooling > 1:
            raise SettingError(f"annealing cools: expected cooling of at most 1, got {self.cooling}")

    def match(self, fixed: Weights, moving: Weights) -> Alignment:
        """The best element that the search came by."""
        fixed, moving = fixed.to(self.landscape.device), moving.to(self.landscape.device)
        first = starting_element(self.start, self.symmetry, fixed, moving, self.seed)
        walk = _Walk(first, first.apply(moving), self._energy(fixed, moving))
        kept = BestKept(lambda _: -walk.value, first)
        if not walk.value or nothing_to_do(self.symmetry, first, fixed, moving):
            return kept.alignment(Outcome.CONVERGED)
        with (self.progress or Silent()).bar("annealing", self.steps) as bar:
            self._search(walk, kept, bar)
        return kept.alignment(Outcome.BUDGET if walk.value else Outcome.CONVERGED)

    def _energy(self, fixed: Weights, moving: Weights) -> Callable[[Weights], float]:
        """The barrier between A and an image of B, on the examples that count."""
        limit = min(self.landscape.limit or self.examples, self.examples)
        landscape = replace(self.landscape, limit=limit, recalibration=self.examples, batchnorm="recalibrate")
        shares = [(k + 1) / (self.points + 1) for k in range(self.points)]
        low, high = mean_losses(landscape, [fixed, moving])
        line = [(1 - share) * low + share * high for share in shares]

        def energy(image: Weights) -> float:
            between = [
                combine((1 - share, share), (fixed, image)).with_buffers(fixed.buffers) for share in shares
            ]
            found = mean_losses(landscape, between)
            if not all(map(math.isfinite, found)):
                return math.inf  # max would let a nan pass as 0
            return max(0.0, *(loss - chord for loss, chord in zip(found, line, strict=True)))

        return energy

    def _search(self, walk: _Walk, kept: BestKept, bar: Bar) -> None:
        swaps = _Swaps(self.symmetry, seeded(self.seed, "swaps"))
        chances: list[float] = torch.rand(self.steps, generator=seeded(self.seed, "chances")).tolist()
        probes = _Swaps(self.symmetry, seeded(self.seed, "probes"))
        high = self.temperature or _first_temperature(walk, probes)
        for step, chance in enumerate(chances, start=1):
            temperature = high * self.cooling ** (step / self.steps)
            walk.step(swaps.draw(), temperature * -math.log(max(chance, 1e-30)))
            kept.see(walk.element, -walk.value, record=step % self.evaluate_every == 0)
            bar(step, f"barrier {walk.value:.4f}, best {-kept.best:.4f}")
            if not walk.value:
                return


class _Walk:
    """The present order of B's units, B in that order, and its energy."""

    def __init__(self, element: Alignment, image: Weights, energy: Callable[[Weights], float]) -> None:
        self.element, self.image, self.energy = element, image, energy
        self.value = energy(image)

    def step(self, swap: Alignment, allowed: float) -> None:
        """Take a swap if the energy rises by no more than is allowed."""
        image, value = self.tried(swap)
        if value - self.value <= allowed:
            self.element, self.image, self.value = swap @ self.element, image, value

    def tried(self, swap: Alignment) -> tuple[Weights, float]:
        """B after a swap, and the energy there."""
        image = swap.apply(self.image)
        return image, self.energy(image)


class _Swaps:
    """Random swaps of two units of one cell; every unit that can move is the first as often."""

    def __init__(self, symmetry: Symmetry, generator: torch.Generator) -> None:
        self.symmetry, self.generator = symmetry, generator
        self.still = symmetry.identity().permutations
        self.cells: list[tuple[Axis, Tensor]] = [
            (axis, units) for axis in symmetry.axes for units in members_of(axis) if units.numel() > 1
        ]
        self.sizes = torch.tensor([float(units.numel()) for _, units in self.cells])

    def draw(self) -> Alignment:
        """The next swap, with what lies below the two units."""
        axis, units = self.cells[int(torch.multinomial(self.sizes, 1, generator=self.generator))]
        two = units[torch.randperm(units.numel(), generator=self.generator)[:2]]
        swapped = torch.arange(axis.size)
        swapped[two] = two.flip(0)
        start = {**self.still, axis.name: swapped}
        return Alignment(self.symmetry, follow(self.symmetry.axes, start, axis.name))


def _first_temperature(walk: _Walk, swaps: _Swaps) -> float:
    """A share of the mean absolute change of the energy by a random swap, of those that are finite."""
    changes = [abs(walk.tried(swaps.draw())[1] - walk.value) for _ in range(_PROBES)]
    finite = [change for change in changes if math.isfinite(change)]
    return max(_SHARE * math.fsum(finite) / max(len(finite), 1), 1e-12)

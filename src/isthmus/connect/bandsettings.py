"""The settings of an elastic band: cycles of steps, between which pivots are inserted, and all the rest.

Source: Draxler et al. 2018, arXiv 1803.00885, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from isthmus.errors import SettingError
from isthmus.landscape import AbstractLandscape
from isthmus.path import Chain

Spring = float | Literal["redistribute"]
"""A spring constant, or "redistribute" for the infinitely stiff spring."""


@dataclass(frozen=True)
class Cycle:
    """Steps between two insertions.

    Attributes:
        steps: of gradient descent, each one of all pivots.
        rate: the learning rate.
    """

    steps: int
    rate: float

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.rate < math.inf:
            raise SettingError(
                f"a cycle needs at least 1 step and a finite rate above 0, got {self.steps} steps and the "
                f"rate {self.rate}"
            )


PUBLISHED: tuple[Cycle, ...] = (
    *(4 * [Cycle(1000, 0.1)]),
    *(2 * [Cycle(2000, 0.1)]),
    *(4 * [Cycle(1000, 0.01)]),
    *(4 * [Cycle(1000, 0.001)]),
)
"""The published schedule, for networks of CIFAR: 16,000 steps of every pivot, of which there are up to 31."""

_FEWEST = 1000
"""Steps of the default schedule, where a training has fewer: ten cycles of a few steps find nothing."""

_SHORTER = (5 * (0.3,)) + (5 * (0.1,))
"""Rates of the default schedule's cycles, as shares of the rate that the ends were trained with."""


def published() -> tuple[Cycle, ...]:
    """The schedule of the paper: 4 × 1000 steps and 2 × 2000 at 0.1, 4 × 1000 at 0.01, 4 × 1000 at 0.001.

    Example:
        >>> sum(cycle.steps for cycle in published()), len(published())
        (16000, 14)
    """
    return PUBLISHED


def shorter(steps: int, rate: float) -> tuple[Cycle, ...]:
    """A schedule for small tasks: ten cycles of equal length, five at 0.3 of a rate and five at 0.1 of it.

    The first share is that of published fits of curves (`CurveSettings`). At the whole rate, with which the
    published schedule spends half of its steps, the noise of the minibatches keeps a band that has few steps
    far above its valley.

    Args:
        steps: in total; at least 10 are taken, one a cycle.
        rate: of the training of the ends.

    Example:
        >>> [(cycle.steps, round(cycle.rate, 3)) for cycle in shorter(1005, 0.1)[4:6]]
        [(101, 0.03), (100, 0.01)]
    """
    if steps < 1:
        raise SettingError(f"an elastic band needs at least 1 step, got {steps}")
    count = len(_SHORTER)
    bounds = [-(-steps * k // count) for k in range(count + 1)]
    return tuple(Cycle(max(1, bounds[k + 1] - bounds[k]), rate * share) for k, share in enumerate(_SHORTER))


@dataclass(frozen=True)
class BandSettings:
    """How an elastic band is relaxed.

    Attributes:
        cycles: the schedule.
        batch: examples a step, the same for all pivots.
        pivots: inner pivots at the start.
        spring: "redistribute", or a spring constant k ≥ 0: the force k (|d_{i+1}| − |d_i|) along the tangent.
        slack: pivots are redistributed after a step that found a segment's length off the mean by at least
            this share of it; 0: after every step.
        insert: pivots that may be inserted before a cycle, at most one a segment.
        threshold: the smallest deviation that is inserted at, as a share of the band's range of losses.
        dense: positions evaluated inside each segment before each cycle.
        momentum: of SGD; every cycle starts at rest.
        decay: λ: the band lies in the landscape L + ½ λ ‖θ‖², which training itself descends.
        seed: of the order of the data, augmentation and dropout.
    """

    cycles: tuple[Cycle, ...]
    batch: int
    pivots: int = 3
    spring: Spring = "redistribute"
    slack: float = 0.01
    insert: int = 2
    threshold: float = 0.1
    dense: int = 9
    momentum: float = 0.9
    decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "cycles", tuple(self.cycles))
        for name, least in (("pivots", 1), ("batch", 1), ("insert", 0), ("dense", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise SettingError(
                    f"an elastic band's {name} must be a whole number of at least {least}, got {value}"
                )
        if not self.cycles:
            raise SettingError("an elastic band needs at least one cycle of steps, got none")
        spring = self.spring
        if spring != "redistribute" and not (isinstance(spring, (int, float)) and 0 <= spring < math.inf):
            raise SettingError(
                "an elastic band's spring is 'redistribute' (infinitely stiff) or a constant of at least 0, "
                f"got {spring!r}"
            )
        for name in ("threshold", "slack"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingError(f"an elastic band's {name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1 or not 0 <= self.decay < math.inf:
            raise SettingError(
                f"expected 0 <= momentum < 1 and decay >= 0, got {self.momentum} and {self.decay}"
            )

    @classmethod
    def for_landscape(
        cls,
        landscape: AbstractLandscape,
        *,
        cycles: Sequence[Cycle] | None = None,
        steps: int | None = None,
        rate: float | None = None,
        **changes: Any,
    ) -> BandSettings:
        """Settings that suit a landscape's models; every change that is not None is taken over.

        Args:
            landscape: whose recipe gives batch, momentum and decay (of SGD; 0.9 and 5e-4 otherwise).
            cycles: a schedule; by default `shorter` with as many steps as one training of the recipe has,
                and 1000 at least.
            steps: of the default schedule, instead.
            rate: that it takes its shares of; the recipe's by default (0.1 where the recipe does not train by
                SGD, because rates of other optimisers do not carry over).
            changes: the other settings.
        """
        if cycles is not None and (steps is not None or rate is not None):
            raise SettingError(
                "give cycles, which have steps and rates of their own, or steps and a rate; got "
                f"{len(cycles)} cycles, steps={steps} and rate={rate}"
            )
        recipe = landscape.recipe
        by_sgd = recipe.optimizer == "sgd"
        base = {
            "batch": recipe.batch,
            "momentum": recipe.momentum,
            "decay": recipe.weight_decay if by_sgd else 5e-4,
        } | {name: value for name, value in changes.items() if value is not None}
        if cycles is None:
            training = max(_FEWEST, round(recipe.epochs * landscape.steps_per_epoch(base["batch"])))
            peak = recipe.rate if by_sgd else 0.1
            cycles = shorter(training if steps is None else steps, peak if rate is None else rate)
        return cls(tuple(cycles), **base)

    @property
    def plain(self) -> dict[str, str | int | float]:
        """Every setting by name, the schedule as a text."""
        schedule = ", ".join(f"{cycle.steps} at {cycle.rate:g}" for cycle in self.cycles)
        return {"kind": Chain.kind} | asdict(self) | {"cycles": schedule}

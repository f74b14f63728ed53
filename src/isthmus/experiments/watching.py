"""Watching a curve while it is fitted, without a hand in the fit.

A fit's rate depends on its number of steps, so fits of growing length are other fits. One fit is looked at
as it goes instead, through its store: the loop hands the store its state after every step, and what a store
does with it changes nothing. `Watcher` is such a store. It measures the curve at the steps asked for and
keeps what it found beside the state, so that a killed fit resumes with all its looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isthmus.identity import digest_of
from isthmus.io.state import NoStore, Store
from isthmus.landscape import AbstractLandscape
from isthmus.path import AbstractPath
from isthmus.weights import Weights


@dataclass(frozen=True, eq=False)
class Watch:
    """The highest training loss on a curve as its fit went.

    Attributes:
        steps: gradient steps taken at each look, ascending from 0, shape (looks,).
        highest: the highest mean training loss over the watched positions, shape (looks,), float64.
        ends: the higher one of the two ends' losses on the same examples.
        points: positions watched, the ends among them.
        examples: training examples.
    """

    steps: Tensor
    highest: Tensor
    ends: float
    points: int
    examples: int

    def steps_to(self, level: float) -> float:
        """The first look's step at which all watched positions lie at or below a level; inf if there is none.

        Limits: known to within two looks, and a curve may rise above the level again.

        Example:
            >>> found = Watch(torch.tensor([0, 5, 10]), torch.tensor([2.0, 0.5, 0.6]), 0.1, 13, 500)
            >>> found.steps_to(0.5), found.steps_to(0.2)
            (5.0, inf)
        """
        below = (self.highest <= level).nonzero()
        return float(self.steps[below[0, 0]]) if len(below) else math.inf

    @property
    def lowest(self) -> float:
        """The lowest of the heights: the level that the fit came down to."""
        return float(self.highest.nan_to_num(nan=math.inf).min())


def look_steps(total: int, looks: int) -> tuple[int, ...]:
    """After which steps to look: in equal ratios from the first step to the last, as a loss falls.

    Args:
        total: steps of the fit.
        looks: how many, at least 2; fewer come out where steps are few.

    Example:
        >>> look_steps(1000, 7), look_steps(3, 7)
        ((1, 3, 10, 32, 100, 316, 1000), (1, 2, 3))
    """
    ratios = (round(total ** (look / (looks - 1))) for look in range(looks))
    return tuple(sorted({*ratios, total}))


class Watcher:
    """A store that measures the curve whose fit it is given.

    Args:
        start: the path that the fit begins with.
        landscape: where to measure; not the one that the fit descends on, as a network is at one point at a
            time.
        steps: after which steps to look; the start is measured besides.
        points: even positions on the curve, the ends included.
        store: where the fit's state is kept; nowhere by default.

    Cost: points × examples forward passes a look.
    """

    def __init__(
        self,
        start: AbstractPath,
        landscape: AbstractLandscape,
        steps: Sequence[int],
        points: int = 13,
        store: Store | None = None,
    ) -> None:
        self.start, self.landscape, self.wanted = start, landscape, frozenset(steps)
        self.t = torch.linspace(0, 1, points, dtype=torch.float64)
        self.kept = store or NoStore()
        self._looks: dict[int, tuple[float, float, int]] = {}
        self._due = False

    @property
    def watch(self) -> Watch:
        """What was seen so far."""
        steps = sorted(self._looks)
        found = [self._looks[step] for step in steps]
        return Watch(
            torch.tensor(steps), torch.tensor([height for height, _, _ in found], dtype=torch.float64),
            found[0][1], len(self.t), found[0][2],
        )  # fmt: skip

    def load(self, identity: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The fit's state, and the looks that were kept with it; without a state, a first look."""
        saved = self.kept.load(self._own(identity))
        if saved is None:
            self._looks = {0: self._measured(self.start)}
            return None
        self._looks = {
            int(step): (float.fromhex(height), float.fromhex(ends), examples)
            for step, (height, ends, examples) in saved[1]["looks"].items()
        }
        return saved

    def due(self) -> bool:
        """Always: `save` decides by the step whether there is anything to do."""
        self._due = self.kept.due()
        return True

    def save(self, identity: str, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> None:
        """Look if this is a step to look at, and keep the state if that is due."""
        if fields["step"] in self.wanted:
            first, last = self.start.ends
            inner = (Weights(first.layout, row.to(first.vector, copy=True)) for row in tensors["inner"])
            self._looks[fields["step"]] = self._measured(type(self.start)((first, *inner, last)))
        if self._due:
            looks = {
                step: (height.hex(), ends.hex(), count) for step, (height, ends, count) in self._looks.items()
            }
            self.kept.save(self._own(identity), tensors, {**fields, "looks": looks})

    def clear(self) -> None:
        """Forget the fit's state; what was seen stays."""
        self.kept.clear()

    def part(self, name: str) -> Store:
        """A piece's own store, which is not watched."""
        return self.kept.part(name)

    def _own(self, identity: str) -> str:
        """The fit's identity, with what is looked at."""
        return digest_of(identity, sorted(self.wanted), len(self.t))

    def _measured(self, path: AbstractPath) -> tuple[float, float, int]:
        """The highest loss, that of the higher end, and the number of examples."""
        with torch.random.fork_rng():  # a user's loader may draw from the fit's random numbers
            found = self.landscape.evaluate(path.at(self.t), "train")
        loss = found.mean_loss.nan_to_num(nan=math.inf)
        return float(loss.max()), float(torch.maximum(loss[0], loss[-1])), found.examples

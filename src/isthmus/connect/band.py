"""A nudged elastic band between two networks, refined where it misses the landscape (AutoNEB).

Pivots p_1 … p_n start on the straight line between the ends and descend the loss, each across the band only:
the part of its gradient along the band is taken out, and a spring, or redistribution, keeps the pivots
apart (`springs`). Before every cycle of steps the whole polyline is evaluated on the training split, and
pivots are inserted where it is higher than its pivots say. The highest point of the best cycle is an upper
bound of the saddle between the ends.

Source: Draxler et al. 2018, arXiv 1803.00885, section 3 and the schedule of section 4; Henkelman & Jonsson
2000, J. Chem. Phys. 113, 9978.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from isthmus.connect.abstract import AbstractConnector, Connection, Outcome, Saddle, highest
from isthmus.connect.bandsettings import BandSettings, Cycle, Spring
from isthmus.connect.springs import (
    advance,
    insertions,
    measure,
    pulls,
    redistribute,
    segment_lengths,
    tangents,
    unevenness,
    with_inserted,
)
from isthmus.errors import SettingError
from isthmus.fanout import Fanout, Serial
from isthmus.identity import digest_of
from isthmus.io.state import Store
from isthmus.landscape import AbstractLandscape
from isthmus.path import Chain
from isthmus.progress import Progress
from isthmus.seeds import seed_default
from isthmus.stepping import take_steps
from isthmus.weights import Weights


@dataclass(frozen=True, eq=False)
class Band(Connection):
    """An elastic band: a `Connection` along a `Chain`, and how it came about.

    The history is that of the highest pivot's loss on the minibatches.

    Attributes:
        cycle_saddles: the highest mean training loss of the polyline before each cycle and after the last,
            shape (cycles + 1,), float64; nan where the procedure did not come so far.
        cycle_pivots: the inner pivots that it had then, shape (cycles + 1,).
    """

    cycle_saddles: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    cycle_pivots: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))


def elastic_band(
    a: Weights,
    b: Weights,
    landscape: AbstractLandscape,
    *,
    through: Sequence[Weights] = (),
    pivots: int | None = None,
    spring: Spring = "redistribute",
    slack: float = 0.01,
    cycles: Sequence[Cycle] | None = None,
    steps: int | None = None,
    rate: float | None = None,
    insert: int = 2,
    threshold: float = 0.1,
    dense: int = 9,
    batch: int | None = None,
    momentum: float | None = None,
    decay: float | None = None,
    seed: int = 0,
    store: Store | None = None,
    progress: Progress | None = None,
    fanout: Fanout | None = None,
) -> Band:
    """Find a low polyline between two networks, and its highest point: an upper bound of their saddle.

    A step takes one minibatch, the same for all pivots, and moves every pivot by SGD with momentum against
    F_i = −g_i + (g_i · τ_i) τ_i + spring, where g_i = ∇L(p_i) + λ p_i and the tangents τ_i see the energies
    L + ½ λ ‖p‖² of the same forward passes (those of the ends, which never move, from the last evaluation of
    the whole split). So weight decay acts on pivots as it does in training: it is part of the landscape,
    and what it does along the band is taken out like the rest of the gradient. The saddle is a loss without
    it. Each cycle starts at rest, so an inserted pivot inherits no momentum; when pivots are redistributed,
    velocities move along the band with the positions.

    Args:
        a: the weights at t = 0, best a minimum.
        b: the weights at t = 1, likewise.
        landscape: gives batches, gradients and evaluations of the training split.
        through: inner pivots to start from; by default they are evenly spaced on the straight line.
        pivots: inner pivots at the start, where `through` does not give them; 3 by default.
        spring: "redistribute" moves the pivots to equal spacing (an infinitely stiff spring); or a spring
            constant k, in units of the loss over distance squared. With a finite one take a momentum of 0.5
            at most: pivots that overshoot their valley may pass one another, and a band that has folded back
            does not unfold.
        slack: pivots are redistributed after a step that found the length of a segment off the mean by at
            least this share of it: a pass over the coordinates is saved where they are evenly spaced, and
            corners are cut less often. 0 redistributes after every step.
        cycles: steps and rates, as `Cycle`s. `published()` is the schedule of the paper. By default
            `shorter(steps, rate)`: ten cycles, as the published one is made for trainings of 64,000 steps.
        steps: of all cycles of the default schedule; by default as many as one training of the recipe has,
            and 1000 at least.
        rate: of the training of the ends, which the default schedule takes shares of; the recipe's SGD rate
            by default (0.1 where it does not train by SGD).
        insert: pivots inserted before a cycle, at most.
        threshold: insert where (loss − linear interpolation between the pivots) / (max − min on the band)
            exceeds this.
        dense: positions evaluated inside a segment.
        batch: examples a step; the recipe's by default.
        momentum: of SGD; the recipe's by default.
        decay: λ; the recipe's by default. 0 gives the lowest path of the training loss alone.
        seed: of the data's order, augmentation and dropout (which is the same for all pivots of a step).
        store: where the state is kept for resuming; nowhere by default.
        progress: shows the highest pivot's loss and the time left; silent by default.
        fanout: spreads the pivots' gradients, and the evaluated positions, over processes: the same result.
            It pays where a gradient takes longer than to send a pivot and a batch.

    Returns:
        A `Band`: the chain of the cycle with the lowest maximum (inner controls carry no buffers), its
        highest evaluated point as `saddle`, and the course of the cycles.

    Raises:
        SettingError: a setting is out of range.
        LayoutError: the ends are of different architectures.

    Example:
        >>> from isthmus.landscape import AnalyticLandscape
        >>> def wells(x):  # zero at (−1, 0) and (1, 0), joined by a parabola whose top has height 1
        ...     return (x[0] ** 2 - 1) ** 2 + 4 * (x[1] + x[0] ** 2 - 1) ** 2
        >>> ends = [Weights.from_state_dict({"x": torch.tensor([x, 0.0])}) for x in (-1.0, 1.0)]
        >>> found = elastic_band(*ends, AnalyticLandscape(wells), steps=300, rate=0.05, decay=0.0)
        >>> round(found.saddle.loss, 3)  # the straight line crosses a hill of height 5
        1.0

    Limits: a band finds a pass near the path it starts from, not the lowest one; on a ridge that is
    symmetric about the line it stays there. A polyline cuts the corners of its valley: on the surface of
    Mueller and Brown the default pivots and threshold stop 2 % of its energy off the pass; more `pivots`, or
    a `threshold` of 0.02, bring it within 1 %. Batch norm uses batch statistics while the band is relaxed,
    and the landscape's policy when it is evaluated.

    Cost: a step is one forward and backward pass a pivot and about ten passes over its coordinates; a cycle
    adds (dense + 1)(pivots + 1) + 1 evaluations of the training split. Memory: four vectors a pivot.

    Source: Draxler et al. 2018, arXiv 1803.00885, algorithms 1 and 2.
    """
    settings = BandSettings.for_landscape(
        landscape, cycles=cycles, steps=steps, rate=rate, pivots=_pivots(pivots, through), spring=spring,
        slack=slack, insert=insert, threshold=threshold, dense=dense, batch=batch, momentum=momentum,
        decay=decay, seed=seed,
    )  # fmt: skip
    start = Chain((a, *through, b)) if through else Chain.between(a, b, settings.pivots)
    relaxing = _Relaxing(start, landscape, settings, fanout or Serial())
    course = take_steps(relaxing, relaxing.identity, store, progress)
    return Band(
        path=relaxing.relaxed(),
        outcome=Outcome.COMPLETED if course.finite else Outcome.DIVERGED,
        history=course.history,
        steps=course.taken,
        settings=settings.plain,
        saddle=relaxing.saddle,
        cycle_saddles=relaxing.saddles,
        cycle_pivots=relaxing.counts,
    )


def _pivots(pivots: int | None, through: Sequence[Weights]) -> int | None:
    if through and pivots not in (None, len(through)):
        raise SettingError(
            f"the band starts through {len(through)} given points, and {pivots} pivots are asked for: leave "
            "one of them out"
        )
    return len(through) or pivots


@dataclass(frozen=True)
class BandConnector(AbstractConnector):
    """`elastic_band` with its settings held.

    Attributes:
        pivots: see `elastic_band`, as for all that follow.
        spring: likewise.
        slack: likewise.
        cycles: likewise.
        steps: likewise.
        rate: likewise.
        insert: likewise.
        threshold: likewise.
        dense: likewise.
        batch: likewise.
        momentum: likewise.
        decay: likewise.
        seed: likewise.
        fanout: likewise.
    """

    pivots: int | None = None
    spring: Spring = "redistribute"
    slack: float = 0.01
    cycles: tuple[Cycle, ...] | None = None
    steps: int | None = None
    rate: float | None = None
    insert: int = 2
    threshold: float = 0.1
    dense: int = 9
    batch: int | None = None
    momentum: float | None = None
    decay: float | None = None
    seed: int = 0
    fanout: Fanout | None = None

    def connect(
        self,
        points: Sequence[Weights],
        landscape: AbstractLandscape,
        *,
        store: Store | None = None,
        progress: Progress | None = None,
    ) -> Band:
        """Relax a band from the first point to the last; it starts through those in between."""
        if len(points) < 2:
            raise SettingError(
                f"an elastic band needs at least 2 control points, its ends, got {len(points)}"
            )
        first, *through, last = points
        return elastic_band(
            first, last, landscape, through=through, pivots=None if through else self.pivots,
            spring=self.spring, slack=self.slack, cycles=self.cycles, steps=self.steps, rate=self.rate,
            insert=self.insert, threshold=self.threshold, dense=self.dense, batch=self.batch,
            momentum=self.momentum, decay=self.decay, seed=self.seed, store=store, progress=progress,
            fanout=self.fanout,
        )  # fmt: skip


@dataclass(frozen=True)
class _Slopes:
    """Losses and gradients of some pivots on one batch: a function that travels to other processes.

    Attributes:
        landscape: where.
        decay: λ.
        batch: of examples, the same for all.
        seed: of dropout, the same noise for every pivot, so that their losses can be compared.
        step: likewise.
    """

    landscape: AbstractLandscape
    decay: float
    batch: Any
    seed: int
    step: int

    def __call__(self, rows: Tensor, out: Tensor | None = None) -> tuple[list[float], Tensor]:
        """The mean loss of each row, and ∇L + λ θ, shape (rows, P)."""
        found = torch.empty_like(rows) if out is None else out
        losses: list[float] = []
        for row, place in zip(rows, found, strict=True):
            torch.mul(row, self.decay, out=place)
            seed_default(self.seed, "dropout", self.step)
            with self.landscape.descent(row, place) as slope:  # in place: a pivot is never copied
                losses.append(slope(self.batch))
        return losses, found


class _Relaxing:
    """All cycles as one procedure of gradient steps."""

    def __init__(
        self, start: Chain, landscape: AbstractLandscape, settings: BandSettings, fanout: Fanout
    ) -> None:
        self.start, self.landscape, self.settings, self.fanout = start, landscape, settings, fanout
        self.name = "relaxing an elastic band"
        self.steps = sum(cycle.steps for cycle in settings.cycles)
        self.per_epoch = landscape.steps_per_epoch(settings.batch)
        lengths = [cycle.steps for cycle in settings.cycles]
        self.begins = {at: number for number, at in enumerate(accumulate(lengths[:-1], initial=0))}
        self.rates = [cycle.rate for cycle in settings.cycles for _ in range(cycle.steps)]
        home = landscape.device
        self.band = torch.stack([control.vector.to(home) for control in start.controls])
        self.velocity = torch.zeros_like(self.band[1:-1])
        self.gradients = torch.zeros_like(self.velocity)
        self.best = self.band[1:-1].clone()
        self.figures = torch.tensor([math.inf, 0, 0, 0, 0], dtype=torch.float64)
        self.at_ends = torch.zeros(2, dtype=torch.float64)
        self.saddles = torch.full((len(settings.cycles) + 1,), math.nan, dtype=torch.float64)
        self.counts = torch.zeros(len(settings.cycles) + 1, dtype=torch.int64)

    @property
    def identity(self) -> str:
        """A digest of the settings, the chain that it starts from, and the landscape."""
        controls = [control.digest() for control in self.start.controls]
        return digest_of(self.settings.plain, controls, self.landscape.identity)

    @contextmanager
    def begin(self, start: int) -> Iterator[Callable[[int], float]]:
        """Step k, after an insertion where it is the first of a cycle."""
        batches = self.landscape.stream(self.settings.seed, self.settings.batch, start)

        def take(step: int) -> float:
            if step in self.begins:
                self._begin_cycle(self.begins[step])
            loss = self._step(step, next(batches))
            if step + 1 == self.steps:
                self._survey(len(self.settings.cycles))
            return loss

        yield take

    def _begin_cycle(self, number: int) -> None:
        """Evaluate, insert, and come to rest: each cycle is a descent of its own, as published."""
        loss = self._survey(number)
        settings = self.settings
        places = insertions(loss, settings.dense, settings.insert, settings.threshold)
        self.band = with_inserted(self.band, places)
        self.velocity = torch.zeros_like(self.band[1:-1])
        self.gradients = torch.zeros_like(self.velocity)

    def _survey(self, number: int) -> Tensor:
        """The losses along the whole polyline; keeps the band if its highest is the lowest so far."""
        chain = self._chain(self.band[1:-1])
        t = torch.linspace(0, 1, (len(self.band) - 1) * (self.settings.dense + 1) + 1, dtype=torch.float64)
        found = self.landscape.evaluate(chain.at(t), "train", self.fanout)
        saddle = highest(chain, found, t)
        self.at_ends = found.mean_loss[[0, -1]]
        self.saddles[number], self.counts[number] = saddle.loss, len(self.velocity)
        if number == 0 or saddle.loss < float(self.figures[0]):
            self.best = self.band[1:-1].clone()
            self.figures = torch.tensor(
                [saddle.loss, saddle.error, saddle.t, saddle.examples, saddle.points], dtype=torch.float64
            )
        return found.mean_loss

    def _step(self, step: int, batch: Any) -> float:
        """One step of all pivots; gives the loss of the highest."""
        settings = self.settings
        losses = self._slopes(step, batch)
        geometry = measure(self.band, self.gradients)
        energies = torch.cat([self.at_ends[:1], losses, self.at_ends[1:]]).to(geometry.squares)
        tangent = tangents(
            energies + 0.5 * settings.decay * geometry.squares, geometry.lengths, geometry.bends
        )
        spring = None if settings.spring == "redistribute" else float(settings.spring)
        pull = pulls(geometry, tangent, spring)
        advance(self.band, self.velocity, self.gradients, pull, self.rates[step], settings.momentum)
        if spring is None and unevenness(geometry.lengths) >= settings.slack:
            redistribute(self.band, self.velocity, segment_lengths(self.band))
        return float(losses.max())

    def _slopes(self, step: int, batch: Any) -> Tensor:
        """Fill in the gradients of all pivots; gives their losses, shape (n,), float64."""
        slopes = _Slopes(self.landscape, self.settings.decay, batch, self.settings.seed, step)
        rows = self.band[1:-1]
        if self.fanout.workers == 1:
            losses, _ = slopes(rows, self.gradients)
            return torch.tensor(losses, dtype=torch.float64)
        groups = rows.tensor_split(min(self.fanout.workers, len(rows)))
        pieces = self.fanout.map(slopes, [group.clone() for group in groups])  # a view would travel whole
        torch.cat([gradients for _, gradients in pieces], out=self.gradients)
        return torch.tensor([loss for losses, _ in pieces for loss in losses], dtype=torch.float64)

    @property
    def saddle(self) -> Saddle:
        """The highest point of the best band."""
        loss, error, t, examples, points = self.figures.tolist()
        return Saddle(loss, error, t, "train", int(examples), int(points))

    def tensors(self) -> dict[str, Tensor]:
        """The present band, its velocity, the best so far, and what the surveys found."""
        return {
            "pivots": self.band[1:-1], "velocity": self.velocity, "best": self.best, "figures": self.figures,
            "at_ends": self.at_ends, "saddles": self.saddles, "counts": self.counts,
        }  # fmt: skip

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        home = self.band
        self.band = torch.cat([home[:1], tensors["pivots"].to(home), home[-1:]])
        self.velocity, self.best = (tensors[name].to(home).clone() for name in ("velocity", "best"))
        self.gradients = torch.zeros_like(self.velocity)
        self.figures, self.at_ends = tensors["figures"].clone(), tensors["at_ends"].clone()
        self.saddles, self.counts = tensors["saddles"].clone(), tensors["counts"].clone()

    def relaxed(self) -> Chain:
        """The best band; its inner pivots carry no buffers."""
        return self._chain(self.best)

    def _chain(self, inner: Tensor) -> Chain:
        first, last = self.start.ends
        home = first.vector.device
        return Chain((first, *(Weights(first.layout, row.to(home, copy=True)) for row in inner), last))

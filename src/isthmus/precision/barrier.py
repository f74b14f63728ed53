"""A barrier to a stated precision, at a fraction of the forward passes of a whole profile.

The full protocol evaluates 25 positions on every example (and measures batch-norm statistics at each). Most
of that work says nothing about the barrier: only the highest positions and the ends do, and often few
examples tell which those are. `barrier_to` starts with seven positions on 64 examples and spends what
follows where the interval is wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from isthmus.barriers import Above, Barrier, Quantity, Verdict
from isthmus.errors import SettingError
from isthmus.fanout import Fanout
from isthmus.landscape import Landscape
from isthmus.landscape.subsets import Subsets
from isthmus.path import AbstractPath
from isthmus.precision.race import Race
from isthmus.progress import Progress, Silent


@dataclass(frozen=True)
class PreciseBarrier:
    """A barrier from as few forward passes as its precision allows.

    Attributes:
        barrier: the barrier; `low` and `high` in it are for *new* examples of the same kind, as everywhere
            in this library. No cheapness narrows these below what all examples together would give.
        low: lower end of the interval of what the full protocol would find: every position of the grid, all
            of these examples, the whole recalibration.
        high: its upper end.
        precision: the width of that interval that was asked for.
        reached: whether it is that narrow. If not, all examples were used at the positions that matter.
        total: how many examples there are.
        at_ends: how many of them were used at the ends; `barrier.examples` were used inside.
        recalibration: training examples that batch-norm statistics were measured on; 0 where there are none.
        effect: half the width that this adds to the interval, beside whole recalibration.
        t: the positions that were looked at, ascending.
        rise: the height of each above the ends.
        used: how many examples each was evaluated on.
        forwards: forward passes: an example at a position each, recalibration and its checks among them.
        full: those of the full protocol.
    """

    barrier: Barrier
    low: float
    high: float
    precision: float
    reached: bool
    total: int
    at_ends: int
    recalibration: int
    effect: float
    t: tuple[float, ...]
    rise: tuple[float, ...]
    used: tuple[int, ...]
    forwards: int
    full: int

    @property
    def share(self) -> float:
        """Its cost as a share of the full protocol's."""
        return self.forwards / self.full

    def verdict(self, tolerance: float = 0.02) -> Verdict:
        """What the interval for new examples says at a tolerance: see `Verdict`."""
        return self.barrier.verdict(tolerance)


@dataclass(frozen=True)
class PreciseBarriers:
    """A path's barrier on held-out and on training examples, as `isthmus barrier --precision` keeps it.

    Attributes:
        barriers: held-out first.
    """

    barriers: tuple[PreciseBarrier, ...]


def barrier_to(
    path: AbstractPath,
    landscape: Landscape,
    precision: float,
    *,
    of: Quantity = "error",
    split: str = "test",
    above: Above = "mean",
    points: int = 25,
    level: float = 0.95,
    seed: int = 0,
    fanout: Fanout | None = None,
    progress: Progress | None = None,
) -> PreciseBarrier:
    """Measure a barrier until the interval of what the full protocol would find is narrow enough.

    Every quantity is a mean over a growing subset of the examples, of n at the positions inside and of
    n' ≤ n at the ends, the first of one fixed random order. With X_k the loss of an example at position k
    and E_k that of the ends beneath it, the heights ĉ_k = mean_n X_k − mean_n' E_k have the covariance

        (1/n − 1/N) Cov(X_k − E_k, X_l − E_l) + (1/n' − 1/n) Cov(E_k, E_l),

    N being all examples there are. The interval is that of the maximum of a normal vector with these means
    and covariances: the union of the percentile and the basic interval, as in `barrier`, and cut off at 0.

    - Positions: every fourth of the grid; then the grid is filled in on both sides of the highest, always,
      and beside others that may be highest where a second difference shows that the maximum may lie
      between; at the end beside all that may still be highest. A position is left out when it is, with
      confidence, no more than a tenth of the precision above the highest.
    - Examples: each round the subset inside, or the one at the ends, grows by half, whichever narrows the
      interval more per forward pass; at least 256 are used, because few errors make skewed means. Every
      variance is taken as if one more example lay at the end of the range that was seen.
    - Batch norm under "recalibrate": statistics of a sixteenth of the recalibration examples for the first
      look, of a quarter for the positions that stay. What leaving out each quarter of *these* changes about
      the height gives a jackknife estimate of noise and bias (Student's t, 3 degrees of freedom); while that
      is more than a quarter of the precision, twice as many are taken. What is left widens the interval.

    Args:
        path: any path of one dimension.
        landscape: the task; its `limit` says which examples count as all.
        precision: the width of the interval at which to stop: in nats for the loss, a share of examples for
            the error (0.005 is half a percentage point).
        of: "loss" or "error".
        split: "train" or "test".
        above: what the height is measured above, "mean" or "chord".
        points: positions of the grid that is stood in for.
        level: the interval's coverage.
        seed: of the draws of the interval.
        fanout: spreads positions.
        progress: shows how many examples are used; silent by default.

    Returns:
        The barrier, both intervals, and what it cost.

    Raises:
        SettingError: a precision or level out of range, or fewer than 5 positions.

    Limits: a peak much narrower than four positions of the grid can be missed, as a peak between positions
    is by the full protocol. Stopping by the width, few errors and the choice of a maximum cost coverage: over
    800 random orders of MNIST's test set (naive and aligned lines of a perceptron and of LeNet-5, five
    precisions each) the nominal 95 % were 93 % in all, and between 82 and 100 % for one of the twenty
    cases (40 orders each). Of a loader the subset
    is its head: fair only if its order is random. Flat paths cost more than high barriers, because many
    positions stay in question; and where recalibration examples are few beside the precision, all are used.

    Source: Cochran 1977, Sampling Techniques, sections 2.6 (finite populations) and 12.2 (double sampling);
    Even-Dar, Mannor, Mansour 2006, JMLR 7, section 3 (elimination); Chow & Robbins 1965 (fixed width);
    Efron & Stein 1981 (jackknife).
    """
    if not 0 < precision < math.inf or not 0 < level < 1:
        raise SettingError(
            f"expected a precision above 0 and a level between 0 and 1, got {precision} and {level}"
        )
    if above not in ("mean", "chord") or of not in ("loss", "error"):
        raise SettingError(f"expected above='mean'|'chord' and of='loss'|'error', got {above!r} and {of!r}")
    if points < 5:
        raise SettingError(f"a grid to be refined needs at least 5 positions, got {points}")
    grid = torch.linspace(0, 1, points, dtype=torch.float64)
    source = Subsets(path, landscape, grid, split, fanout)
    race = Race(source, precision, of, above, level, seed)
    with (progress or Silent()).bar(f"examples of {split}", source.examples) as bar:
        while race.round():
            bar(race.inside, f"± {race.width / 2:.4g}")
    return _record(race, path.kind)


def _record(race: Race, kind: str) -> PreciseBarrier:
    """What the race found."""
    estimate, source, order = race.estimate(), race.source, sorted(race.seen)
    low, high = race.interval(estimate.covariance)
    new_low, new_high = race.interval(estimate.new)
    barrier = Barrier(
        float(estimate.height.max()), min(low, new_low), max(high, new_high), float(source.t[estimate.top]),
        race.of, race.above, source.split, race.inside, len(order), race.level, kind,
    )  # fmt: skip
    return PreciseBarrier(
        barrier, low, high, race.precision, race.width <= race.precision, source.examples, race.ends,
        source.seen(race.blocks), race.effect, tuple(float(source.t[k]) for k in order),
        tuple(float(race.height(k)) for k in order), tuple(len(race.seen[k]) for k in order),
        source.forwards, source.full,
    )  # fmt: skip

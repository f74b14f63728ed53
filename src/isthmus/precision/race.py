"""The race behind a precise barrier: which positions are looked at next, and on how many examples."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.barriers import Above, Quantity
from isthmus.landscape.subsets import Subsets
from isthmus.seeds import seeded

_FIRST = 64
"""Examples of the first look."""
_LEAST = 256
"""Examples at the ends, at least: networks are wrong about few there, so means of fewer are skewed."""
_COARSE = 4
"""Every so-manieth position of the grid is looked at first."""
_GROWTH = 1.5
"""How much a subset grows at a time."""
_PROBE = (128, 512)
"""Examples, at least and at most, on which the effect of few recalibration examples is measured."""
_SHARE = 0.1
"""The part of the precision that a position may be higher by and still be left out, or not be looked at."""
_AIM = 0.95
"""The width aimed at, as a share of the one asked for: what is not known before is how it turns out."""
_DRAWS = 4000
"""Draws of the normal vector whose maximum gives the interval."""


@dataclass(frozen=True)
class Estimate:
    """Heights of the positions in question, and how uncertain they are.

    Attributes:
        which: the positions, the ends first and last.
        height: of each above the ends, shape (n,).
        covariance: of these as estimates of those of all examples, shape (n, n).
        new: the same as estimates of those of new examples.
    """

    which: list[int]
    height: Tensor
    covariance: Tensor
    new: Tensor

    @property
    def top(self) -> int:
        """The highest position."""
        return self.which[int(self.height.argmax())]


class Race:
    """One measurement as it goes: what was seen, and which positions are still in question.

    Args:
        source: evaluates positions on parts of the examples.
        precision: the width of the interval to be reached.
        of: "loss" or "error".
        above: "mean" or "chord".
        level: the interval's coverage.
        seed: of the draws of the interval.

    Attributes:
        inside: examples that the positions in question have seen.
        ends: examples that the ends have seen.
        blocks: of recalibration examples.
        effect: half the width that recalibration on these, and not on all, adds to the interval.
        width: of the interval.
        seen: the loss, or error, of every example so far at each position.
        active: positions inside that may be the highest.
    """

    def __init__(
        self, source: Subsets, precision: float, of: Quantity, above: Above, level: float, seed: int
    ) -> None:
        self.source, self.precision, self.of, self.above = source, precision, of, above
        self.level, self.seed = level, seed
        self.last = len(source.t) - 1
        self.all = source.examples
        self.inside = self.ends = min(_FIRST, self.all)
        self.blocks = min(1, source.blocks)
        self.effect = 0.0
        self.left_out = 0.0
        self.width = math.inf
        self.seen: dict[int, Tensor] = {}
        self.active: list[int] = []
        self.z = _normal(0.5 + level / 2)
        self.sure = _normal(1 - (1 - level) / 10)

    def round(self) -> bool:
        """Look once more; False when there is nothing left to do."""
        if not self.seen:
            step = min(_COARSE, self.last // 2)
            coarse = sorted({*range(0, self.last, step), self.last})
            self._look([0, self.last])
            self.active = coarse[1:-1]
            self._look(self.active)
        else:
            self._grow()
        self._narrow()
        done = self._done()
        # Statistics of more examples cost as much as they have: they are measured once few positions are
        # left, and at the latest before the last word.
        if self.rough and (done or self.inside >= self.source.seen(4)):
            self._calibrate()
            self._narrow()
            done = self._done()
        if done:
            # A flat path's highest position may be any: before the last word none beside those still in
            # question is left unseen.
            self._narrow(everywhere=True)
            done = self._done()
        return not done

    @property
    def rough(self) -> bool:
        """Whether batch-norm statistics are still those of the first look."""
        return self.blocks < min(4, self.source.blocks)

    def _done(self) -> bool:
        """Whether the interval is narrow enough, or everything was used."""
        low, high = self.interval(self.estimate().covariance)
        self.width = (high - low) if math.isfinite(high) else 0.0
        if not math.isfinite(high):
            return True
        few = self.ends < min(_LEAST, self.all)
        return (not few and self.width <= self.precision) or self.inside == self.ends == self.all

    def _look(self, which: Iterable[int]) -> None:
        """Evaluate positions on the examples that they have not seen yet."""
        pending: dict[tuple[int, int], list[int]] = {}
        for k in which:
            start, stop = len(self.seen.get(k, ())), self.ends if k in (0, self.last) else self.inside
            if start < stop:
                pending.setdefault((start, stop), []).append(k)
        for (start, stop), members in pending.items():
            found = self.source.evaluate(members, start, stop, self.blocks)
            each = (found.loss if self.of == "loss" else found.error).double()
            each = each.nan_to_num(nan=math.inf, posinf=math.inf)
            for k, row in zip(members, each, strict=True):
                self.seen[k] = torch.cat([self.seen[k], row]) if k in self.seen else row

    def _below(self, k: int, count: int) -> Tensor:
        """What position k is measured above, for each of the first examples."""
        first, last = self.seen[0][:count], self.seen[self.last][:count]
        share = float(self.source.t[k]) if self.above == "chord" else 0.5
        return (1 - share) * first + share * last

    def height(self, k: int) -> Tensor:
        """The height of position k above the ends, by all that was seen of it."""
        return self.seen[k].mean() - self._below(k, self.ends).mean()

    def _rises(self, k: int, count: int) -> Tensor:
        """Its height, example by example."""
        return self.seen[k][:count] - self._below(k, count)

    def estimate(self) -> Estimate:
        """Heights of the active positions and the ends, with their covariance."""
        which = [0, *self.active, self.last]
        height = torch.stack([self.height(k) for k in which])
        rises = torch.stack([self._rises(k, self.ends) for k in which])
        below = torch.stack([-self._below(k, self.ends) for k in which])
        below[0], below[-1] = rises[0], rises[-1]  # the ends are known from the ends' examples alone
        doubt = self._doubt() / self.ends
        whole = torch.cov(rises) + doubt * torch.eye(len(which), dtype=rises.dtype)
        foot = torch.cov(below) + doubt  # the same for all: they stand on the same ends
        inside, ends, every = 1 / self.inside, 1 / self.ends, 1 / self.all
        new = inside * whole + (ends - inside) * foot
        return Estimate(which, height, new - every * whole, new)

    def interval(self, covariance: Tensor) -> tuple[float, float]:
        """The interval of the highest height, widened by what was left out."""
        height = self.estimate().height
        top = float(height.max())
        if not math.isfinite(top):
            return top, top
        values, vectors = torch.linalg.eigh(covariance)
        noise = torch.randn(_DRAWS, len(values), generator=seeded(self.seed, "interval"), dtype=torch.float64)
        draws = (height + (noise * values.clamp_min(0).sqrt()) @ vectors.T).max(dim=1).values
        tail = (1 - self.level) / 2
        low, high = (float(draws.quantile(q)) for q in (tail, 1 - tail))
        down = math.hypot(max(top - low, high - top), self.effect)
        up = math.hypot(max(high - top, top - low), self.effect)
        return max(0.0, top - down), top + up + self.left_out

    def _narrow(self, everywhere: bool = False) -> None:
        """Fill the grid in about positions that may be highest, and leave out those that are not."""
        while True:
            self._drop()
            estimate = self.estimate()
            if not math.isfinite(float(estimate.height.max())):
                return
            top = estimate.top
            fresh = sorted({new for k in self.active for new in self._middles(k, top, everywhere)})
            if not fresh:
                return
            self._look(fresh)
            self.active = sorted({*self.active, *fresh})

    def _drop(self) -> None:
        """Leave out what is surely at most a tenth of the precision above the highest."""
        estimate = self.estimate()
        top = estimate.top
        if not math.isfinite(float(estimate.height.max())):
            return
        kept = []
        for k in self.active:
            over = self._over(k, top)
            if k == top or over > _SHARE * self.precision:
                kept.append(k)
            else:
                self.left_out = max(self.left_out, over)
        self.active = kept

    def _over(self, k: int, top: int) -> float:
        """How much higher than the highest position k may be."""
        count = min(len(self.seen[j]) for j in (k, top))
        if self.above == "chord":
            count = min(count, self.ends)
            apart = self._rises(k, count) - self._rises(top, count)
        else:
            apart = self.seen[k][:count] - self.seen[top][:count]
        return float(apart.mean()) + self.sure * self._spread(apart)

    def _middles(self, k: int, top: int, everywhere: bool) -> list[int]:
        """Positions of the grid beside an active one at which the maximum may lie."""
        low, high = self._neighbours(k)
        if k != top and not everywhere and not self._bends(k):
            return []
        return [(a + b) // 2 for a, b in ((low, k), (k, high)) if b - a > 1]

    def _bends(self, k: int) -> bool:
        """Whether the parabola through k and its neighbours rises above k by more than can be left out.

        With the second divided difference q and the wider gap h its vertex is at most |q| h² / 4 higher.
        """
        low, high = self._neighbours(k)
        count = min(len(self.seen[j]) for j in (low, k, high))
        left, right = k - low, high - k
        pieces = [self.seen[j][:count] for j in (low, k, high)]
        each = (pieces[1] - pieces[0]) / left - (pieces[2] - pieces[1]) / right
        scale = max(left, right) ** 2 / (left + right) / 4
        rise = scale * abs(float(each.mean()))
        return rise > max(_SHARE * self.precision, scale * self.sure * self._spread(each))

    def _neighbours(self, k: int) -> tuple[int, int]:
        """The nearest positions on both sides that were looked at."""
        return max(j for j in self.seen if j < k), min(j for j in self.seen if j > k)

    def _spread(self, each: Tensor) -> float:
        """The standard error of a mean as an estimate of that over all examples."""
        apart = (each - each.mean()).square()
        # As if the largest came once more: few examples may show none of those that tell positions apart.
        once = 1.0 if self.of == "error" else float(apart.max())
        square = (float(apart.sum()) + once) / max(len(each) - 1, 1)
        return math.sqrt(square * max(1 / len(each) - 1 / self.all, 0.0))

    def _doubt(self) -> float:
        """The square of half the range of all that was seen.

        A network is wrong about few examples, and its loss there is large. Among few examples there may be
        none of them, and then both the mean and its standard error look too small. So every variance is
        taken as if one more example lay at the end of the range, as rates of rare events are.
        """
        every = torch.cat(list(self.seen.values()))
        every = every[every.isfinite()]
        return float((every.max() - every.min()) / 2) ** 2 if len(every) else 0.0

    def _grow(self) -> None:
        """More examples where they narrow the interval most for their price."""
        estimate = self.estimate()
        top = estimate.top
        doubt = self._doubt() / self.ends
        foot = float(self._below(top, self.ends).var()) + doubt
        whole = float(self._rises(top, self.ends).var()) + doubt
        if top in (0, self.last):
            foot = whole  # all that is known of the height is known at the ends

        def variance(inside: int, ends: int) -> float:
            return (1 / inside - 1 / self.all) * (whole - foot) + (1 / ends - 1 / self.all) * foot

        now = variance(self.inside, self.ends)
        inside, ends = (min(self.all, math.ceil(_GROWTH * n)) for n in (self.inside, self.ends))
        gains = {}
        for sizes in {(inside, self.ends), (self.inside, min(ends, self.inside)), (inside, ends)}:
            price = len(self.active) * (sizes[0] - self.inside) + 2 * (sizes[1] - self.ends)
            if price:
                gains[sizes] = (now - variance(*sizes)) / price
        chosen = max(gains, key=lambda sizes: (gains[sizes], sizes))
        steps = [
            tuple(round(n + x / 8 * (m - n)) for n, m in zip((self.inside, self.ends), chosen, strict=True))
            for x in range(1, 9)
        ]
        goal = now * (_AIM * self.precision / self.width) ** 2 if self.width > 0 else 0.0
        self.inside, self.ends = next((step for step in steps if variance(*step) <= goal), chosen)
        if self.ends < _LEAST:
            self.inside, self.ends = inside, ends
        self._look([0, *self.active, self.last])

    def _calibrate(self) -> None:
        """Take as many recalibration examples as the precision needs, and look again with these."""
        most = self.source.blocks
        self.blocks = min(4, most)
        estimate = self.estimate()
        top = estimate.top
        effect = 0.0
        while self.blocks < most and (effect := self._jackknife(top)) > self.precision / 4:
            self.blocks = min(2 * self.blocks, most)
        self.effect = 0.0 if self.blocks == most else effect
        again = [0, *self.active, self.last]
        for k in again:
            del self.seen[k]
        self._look(again)

    def _jackknife(self, top: int) -> float:
        """Half the width of the effect that statistics of these blocks, and not of all, have on a height."""
        probe = min(max(self.inside, _PROBE[0]), _PROBE[1], self.all)
        place = top or self.last
        which = sorted({0, place, self.last})
        share = float(self.source.t[place]) if self.above == "chord" else 0.5

        def height(without: int | None) -> float:
            found = self.source.evaluate(which, 0, probe, self.blocks, without)
            mean = found.mean_loss if self.of == "loss" else found.mean_error
            return float(mean[which.index(place)] - (1 - share) * mean[0] - share * mean[-1])

        whole = height(None)
        parts = torch.tensor([height(without) for without in range(4)], dtype=torch.float64)
        left = 1 - self.source.seen(self.blocks) / self.source.calibration
        noise = math.sqrt(left * 3 / 4 * float((parts - parts.mean()).square().sum()))
        bias = left * 3 * abs(float(parts.mean()) - whole)
        return _student3(0.5 + self.level / 2) * noise + bias


def _normal(q: float) -> float:
    """A quantile of the normal distribution."""
    return float(torch.special.ndtri(torch.tensor(q, dtype=torch.float64)))


def _student3(q: float) -> float:
    """A quantile, above the median, of Student's t with 3 degrees of freedom, by bisection.

    Example:
        >>> round(_student3(0.975), 3)
        3.182
    """
    low, high = 0.0, 1e6
    for _ in range(100):
        x = (low + high) / 2
        below = 0.5 + (x / math.sqrt(3) / (1 + x * x / 3) + math.atan(x / math.sqrt(3))) / math.pi
        low, high = (x, high) if below < q else (low, x)
    return high

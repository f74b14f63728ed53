"""Two pieces of work timed in turns, so that whatever else the machine does falls on both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Times of a piece of work over those of its floor.

    Attributes:
        name: what was measured.
        floor: median seconds of the bare work.
        ours: median seconds of ours.
        ratio: median of the ratios of neighbouring rounds.
        low: first quartile of those ratios.
        high: third quartile.
        rounds: how many rounds.
    """

    name: str
    floor: float
    ours: float
    ratio: float
    low: float
    high: float
    rounds: int


def side_by_side(
    name: str, floor: Callable[[], object], ours: Callable[[], object], rounds: int, repeat: int = 1
) -> Ratio:
    """Time both in turns, the order swapped every round, after one round that does not count."""
    times: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        pair = [(0, floor), (1, ours)]
        spent = [0.0, 0.0]
        for which, work in pair if number % 2 else pair[::-1]:
            start = time.perf_counter()
            for _ in range(repeat):
                work()
            spent[which] = (time.perf_counter() - start) / repeat
        times.append((spent[0], spent[1]))
    times = times[1:]
    ratios = sorted(two / one for one, two in times)
    quarters = statistics.quantiles(ratios, n=4)
    return Ratio(
        name,
        statistics.median(one for one, _ in times),
        statistics.median(two for _, two in times),
        statistics.median(ratios),
        quarters[0],
        quarters[2],
        rounds,
    )

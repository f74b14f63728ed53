"""Where work runs: `Fanout` spreads independent pieces, `World` joins data-parallel ranks.

Everything that can spread takes `fanout=Serial()` and `world=Alone()`. Nothing below `parallel/` knows
of processes, ranks or machines; an implementation there replaces these defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


@runtime_checkable
class Fanout(Protocol):
    """Maps a function over independent items (points, pairs, replicas), keeping their order."""

    @property
    def workers(self) -> int:
        """How many items it works on at a time."""
        ...

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results of `function` on every item, in the items' order."""
        ...


@runtime_checkable
class World(Protocol):
    """The ranks that share one data-parallel computation."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many ranks there are."""
        ...

    def mean(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its mean over all ranks, in place, and return it."""
        ...


@dataclass(frozen=True)
class Serial:
    """The default fan-out: one item after the other, in this process."""

    workers: int = 1

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results of `function` on every item, one after the other."""
        return [function(item) for item in items]


@dataclass(frozen=True)
class Alone:
    """The default world: a single rank."""

    rank: int = 0
    size: int = 1

    def mean(self, tensor: Tensor) -> Tensor:
        """The tensor itself: the mean over one rank."""
        return tensor

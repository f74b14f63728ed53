"""Points of a path on growing subsets of the examples, every forward pass counted.

A cheap measurement looks at few examples first, and at more of them only where it matters. Here are the
parts of that: positions evaluated on the examples from one number to another, and batch-norm statistics
measured on a growing number of blocks of training examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any, overload

import torch
from torch import Tensor

from isthmus.fanout import Fanout
from isthmus.landscape.abstract import Evaluation, require_split
from isthmus.landscape.dataset import batch_size, to_device
from isthmus.landscape.network import Landscape
from isthmus.path import AbstractPath
from isthmus.repair.batchnorm import BatchNormPolicy, measure, statistics
from isthmus.stats import Moments
from isthmus.weights import Weights

BLOCKS = 16
"""Blocks that the recalibration examples are cut into."""

_LEAST_BLOCK = 32
"""Examples a block at least: batch norm needs a batch to normalise by."""


class Subsets:
    """Positions of a path on parts of one split.

    Args:
        path: any path of one dimension.
        landscape: gives the task, the policy, and which examples there are (its `limit`).
        t: positions that may be asked for, shape (positions,).
        split: "train" or "test".
        fanout: spreads positions.

    Attributes:
        examples: how many examples there are in all.
        forwards: forward passes so far, an example at a position each, recalibration among them.

    Limits: a loader's parts follow its own order; they are a fair sample only if that order is random.
    """

    def __init__(
        self, path: AbstractPath, landscape: Landscape, t: Tensor, split: str, fanout: Fanout | None = None
    ) -> None:
        self.path, self.landscape, self.t, self.fanout = path, landscape, t, fanout
        self.split = require_split(split)
        self.examples = landscape.task.split(split).count(landscape.limit)
        self.forwards = 0
        self._moments: dict[int, list[dict[str, Moments]]] = {}

    @property
    def calibrates(self) -> bool:
        """Whether points need batch-norm statistics of their own."""
        return self.landscape.policy == BatchNormPolicy.RECALIBRATE.value

    @cached_property
    def calibration(self) -> int:
        """Training examples of a whole recalibration at a position; 0 where there is none."""
        if not self.calibrates:
            return 0
        return self.landscape.task.split("train").count(self.landscape.recalibration)

    @cached_property
    def full(self) -> int:
        """Forward passes of the full protocol: every position on all examples, wholly recalibrated."""
        return len(self.t) * (self.examples + self.calibration)

    @property
    def blocks(self) -> int:
        """How many blocks a whole recalibration has; 0 where there is none."""
        return len(self._blocks) if self.calibrates else 0

    def seen(self, blocks: int) -> int:
        """Training examples in the first so many blocks."""
        return sum(batch_size(block) for block in self._blocks[:blocks]) if blocks else 0

    def evaluate(
        self, which: Sequence[int], start: int, stop: int, blocks: int = 0, without: int | None = None
    ) -> Evaluation:
        """Loss and error of some positions on the examples from number `start` to before `stop`.

        Args:
            which: numbers of positions.
            start: the first example.
            stop: where to end.
            blocks: batch-norm statistics are of this many blocks (ignored where none are measured).
            without: one of the four quarters of these blocks that is left out.
        """
        task = self.landscape.task
        part = task.split(self.split).part(start, stop)
        model = self.landscape.network.module
        if self.split == "train":
            here = replace(task, model=model, train=part)
        else:
            here = replace(task, model=model, test=part)
        self.forwards += len(which) * (stop - start)
        if not self.calibrates:
            land = replace(self.landscape, task=here, limit=None)
            return land.evaluate(self.path.at(self.t[list(which)]), self.split, self.fanout)
        buffers = [self._buffers(index, blocks, without) for index in which]
        land = replace(self.landscape, task=here, limit=None, batchnorm=BatchNormPolicy.KEEP)
        points = _Settled(self.path, tuple(float(self.t[index]) for index in which), tuple(buffers))
        return land.evaluate(points, self.split, self.fanout)

    def _buffers(self, index: int, blocks: int, without: int | None) -> dict[str, Tensor]:
        """The buffers of a position: those of the path, and statistics of these blocks."""
        measured = self._moments.setdefault(index, [])
        if len(measured) < blocks:
            self._measure(index, measured, blocks)
        kept = [found for k, found in enumerate(measured[:blocks]) if without is None or k % 4 != without]
        layers = {name: reduce(Moments.merge, (found[name] for found in kept)) for name in kept[0]}
        base = self._plain.settled(self.path.at(self.t[[index]])).buffers
        return {**base, **statistics(self.landscape.network.module, layers)}

    @cached_property
    def _plain(self) -> Landscape:
        """Gives the path's own buffers: what is beside the statistics."""
        return replace(self.landscape, batchnorm=BatchNormPolicy.INTERPOLATE)

    def _measure(self, index: int, measured: list[dict[str, Moments]], blocks: int) -> None:
        """Add the moments of the blocks that are missing at a position."""
        network, task = self.landscape.network, self.landscape.task
        with torch.no_grad(), network.at(self.path(float(self.t[index])).to(network.device)) as module:
            for block in self._blocks[len(measured) : blocks]:
                measured.append(measure(module, [block], task.run))
                self.forwards += batch_size(block)

    @cached_property
    def _blocks(self) -> list[Any]:
        """The examples of a whole recalibration, in blocks of one size (the last one may be smaller)."""
        size = min(self.landscape.batch, max(_LEAST_BLOCK, -(-self.calibration // BLOCKS)))
        chunks = self.landscape.task.split("train").chunks(size, self.calibration)
        found = [to_device(batch, self.landscape.network.device) for chunk in chunks for batch in chunk]
        if len(found) > 1 and batch_size(found[-1]) == 1:
            found.pop()
        return found


@dataclass(frozen=True)
class _Settled(Sequence[Weights]):
    """Points of a path with buffers of their own, computed on demand."""

    path: AbstractPath
    t: tuple[float, ...]
    buffers: tuple[dict[str, Tensor], ...]

    def __len__(self) -> int:
        return len(self.t)

    @overload
    def __getitem__(self, index: int) -> Weights: ...
    @overload
    def __getitem__(self, index: slice) -> _Settled: ...
    def __getitem__(self, index: int | slice) -> Weights | _Settled:
        if isinstance(index, slice):
            return _Settled(self.path, self.t[index], self.buffers[index])
        return self.path(self.t[index]).with_buffers(self.buffers[index])

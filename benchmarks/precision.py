"""Barriers to a stated precision against the full protocol: the same answer, and what it cost.

The full protocol evaluates 25 positions on all examples, each with batch-norm statistics of 2,048 training
examples where the model has batch norm. Both costs are forward passes counted where they happen, in the
task's own `forward`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from isthmus import Landscape, Segment, Task, Weights, profile, train
from isthmus import barrier as barrier_of
from isthmus.barriers import Quantity
from isthmus.io.checkpoints import read_checkpoint
from isthmus.landscape.dataset import Batch, batch_size
from isthmus.landscape.task import default_forward
from isthmus.match import match_weights
from isthmus.precision import barrier_to
from isthmus.symmetry import discover
from isthmus.tasks import digits, mnist

_MODELS = Path("runs/gallery")
_WANTED: tuple[tuple[Quantity, float], ...] = (
    ("error", 0.05), ("error", 0.02), ("error", 0.01), ("error", 0.005),
    ("loss", 0.2), ("loss", 0.05), ("loss", 0.02),
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One barrier to one precision, beside the full protocol's.

    Attributes:
        name: task, split and line.
        of: "loss" or "error".
        precision: what was asked.
        full: the full protocol's height.
        height: ours.
        low: lower end of our interval of the full protocol's height.
        high: its upper end.
        reached: whether it is as narrow as asked.
        forwards: our forward passes, counted.
        told: our forward passes as the record has them.
        cost: the full protocol's, counted.
    """

    name: str
    of: str
    precision: float
    full: float
    height: float
    low: float
    high: float
    reached: bool
    forwards: int
    told: int
    cost: int

    @property
    def same(self) -> bool:
        """Whether the interval holds the full protocol's answer."""
        return self.low - 1e-9 <= self.full <= self.high + 1e-9

    @property
    def share(self) -> float:
        """Our cost over the full protocol's."""
        return self.forwards / self.cost


class Counted:
    """A task whose forward passes are counted, an example each."""

    def __init__(self, task: Task) -> None:
        self.passes = 0
        forward = task.forward or default_forward

        def counting(module: nn.Module, batch: Batch) -> object:
            self.passes += batch_size(batch)
            return forward(module, batch)

        self.task = replace(task, forward=counting)


def measured(
    name: str, task: Task, line: Segment, split: str, wanted: tuple[tuple[Quantity, float], ...] = _WANTED
) -> Iterator[Measured]:
    """The full protocol once, then a barrier to each precision."""
    counted = Counted(task)
    whole = profile(line, Landscape(counted.task), 25, split, refine=0)
    cost = counted.passes
    for of, precision in wanted:
        counted = Counted(task)
        found = barrier_to(line, Landscape(counted.task), precision, of=of, split=split)
        full = barrier_of(whole, of=of, resamples=2).height
        yield Measured(
            name, of, precision, full, found.barrier.height, found.low, found.high, found.reached,
            counted.passes, found.forwards, cost,
        )  # fmt: skip


def lines(task: Task, a: Weights, b: Weights) -> dict[str, Segment]:
    """The straight line, and the one to the second network aligned to the first by its weights."""
    found = match_weights(a, b, discover(task.traceable, task.example))
    return {"naive": Segment(a, b), "aligned": Segment(a, found.apply(b))}


def pairs() -> Iterator[tuple[str, Task, tuple[Weights, Weights]]]:
    """Pairs of digits networks, trained here unless they are kept; of MNIST where data and networks are."""
    for task in (digits.mlp(), digits.cnn()):
        yield task.name, task, _kept(task.name, task) or (train(task, 1), train(task, 2))
    if os.environ.get("ISTHMUS_DATA"):
        for name, task in (("mnist-mlp-512", mnist.mlp(width=512)), ("mnist-lenet", mnist.lenet())):
            if kept := _kept(name, task):
                yield name, task, kept


def _kept(name: str, task: Task) -> tuple[Weights, Weights] | None:
    """Two trained networks of the gallery, if they are there."""
    files = [_MODELS / f"{name}-seed{seed}.safetensors" for seed in (1, 2)]
    if not all(file.exists() for file in files):
        return None
    one, two = (read_checkpoint(file, like=task.network).weights for file in files)
    return one, two


def run(only: tuple[str, ...] = (), splits: tuple[str, ...] = ("test",)) -> Iterator[Measured]:
    """All pairs, both lines."""
    for name, task, (a, b) in pairs():
        if only and name not in only:
            continue
        for kind, line in lines(task, a, b).items():
            for split in splits:
                yield from measured(f"{name}, {kind} line, {split}", task, line, split)


def table(found: Iterator[Measured]) -> list[str]:
    """The figures as a Markdown table, and how many of them hold."""
    rows = [
        "| barrier to a precision | width asked | full protocol | isthmus | interval | forward passes "
        "| share |",
        "|---|---|---|---|---|---|---|",
    ]
    held = total = 0
    for one in found:
        held, total = held + one.same, total + 1
        note = "" if one.reached else " (all examples used)"
        rows.append(
            f"| {one.name}, {one.of} | {one.precision:g}{note} | {one.full:.4f} | {one.height:.4f} | "
            f"{one.low:.4f} to {one.high:.4f} | {one.forwards:,} of {one.cost:,} | **{one.share:.1%}** |"
        )
        assert one.told == one.forwards, f"{one.name}: {one.told} forward passes told, {one.forwards} counted"
    return [*rows, "", f"The interval holds the full protocol's answer in {held} of {total} cases."]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("\n".join(table(run(tuple(sys.argv[1:])))))

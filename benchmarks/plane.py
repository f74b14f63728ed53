"""A plane of 21 × 21 nodes over the bare forward passes that it needs; and coarse to fine against it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from benchmarks.side_by_side import Ratio, side_by_side
from isthmus import Landscape, Plane, Task, Weights, train
from isthmus.repair.batchnorm import batchnorm_layers
from isthmus.surfaces import Surface, scale_of, scan_plane
from isthmus.tasks.userfile import load_task

_NODES, _EXAMPLES, _BATCH = 21, 512, 256
_SPENT = ((0.1, 0), (0.05, 0), (0.1, 500), (0.05, 500), (0.05, 300), (0.1, 300), (0.2, 300))
"""Precisions and examples (0: all) that are compared with the full protocol."""


def run(rounds: int, names: tuple[str, ...] = ("digits-cnn",)) -> Iterator[Ratio]:
    """441 × (n examples to evaluate + n to recalibrate), against as many forwards of the bare module."""
    for name in names:
        task = load_task(name)
        land = Landscape(task, batch=_BATCH, recalibration=_EXAMPLES, limit=_EXAMPLES)
        plane = _square(task)
        module = task.build(0)
        pieces = [held[0] for chunk in task.split("test").chunks(_BATCH, _EXAMPLES) for held in chunk]
        layers = list(batchnorm_layers(module).values())

        @torch.no_grad()
        def bare(module=module, pieces=pieces, layers=layers) -> None:
            module.eval()
            for training in (True, False) if layers else (False,):
                for layer in layers:
                    layer.train(training)
                for _ in range(_NODES**2):
                    for piece in pieces:
                        module(piece)

        def ours(land=land, plane=plane) -> None:
            found = scan_plane(plane, land, resolution=_NODES)
            assert found.nodes == _NODES**2

        yield side_by_side(f"plane of 21 × 21 nodes, {name}, n = {_EXAMPLES}", bare, ours, rounds)


def _square(task: Task) -> Plane:
    """A plane whose three models span a square, so that the grid is one."""
    a, b, c = (Weights.from_module(task.build(seed)) for seed in (1, 2, 3))
    corners = Plane(a, b, c).corners
    return Plane(a, b, a + (c - a) * float(corners[1, 0] / corners[2, 1]))


@dataclass(frozen=True)
class Spent:
    """A plane to a precision beside the full protocol: every node, all examples.

    Attributes:
        task: the task.
        split: the data.
        precision: asked for; None where every node was evaluated.
        examples: at every node.
        share: its forward passes over those of the full protocol, the models' own included.
        held: the share of nodes whose stated interval of the loss holds the full protocol's value, both as
            they are drawn: the scale ends four powers of ten below the highest.
        held_error: likewise for the error.
        deviation: root mean square of the difference, as a share of the colour scale.
        width: the median half-width of the stated interval of the loss, as a share of the colour scale.
    """

    task: str
    split: str
    precision: float | None
    examples: int
    share: float
    held: float
    held_error: float
    deviation: float
    width: float


def spent(
    name: str = "digits-mlp", split: str = "train", models: tuple[Weights, ...] | None = None
) -> Iterator[Spent]:
    """Three trained models: what each precision costs, and whether its intervals hold."""
    task = load_task(name)
    plane = Plane(*(models or tuple(train(task, seed) for seed in (1, 2, 3))))
    full = scan_plane(plane, Landscape(task), split=split)
    for precision, examples in _SPENT:
        land = Landscape(task, limit=examples or None)
        found = scan_plane(plane, land, split=split, precision=precision)
        yield _compared(name, found, full, precision)


def _compared(name: str, found: Surface, full: Surface, precision: float | None) -> Spent:
    passes = [(each.evaluations + 3) * each.examples for each in (found, full)]
    held = []
    for of in ("loss", "error"):
        least = 0.5 / full.examples if of == "error" else 0.0  # what a map draws of none
        scale = scale_of(full.values(of).clamp_min(least) if least else full.values(of))
        low, high = (scale.place(each.clamp_min(least or 1e-12)) for each in found.interval(of))
        true = scale.place(full.values(of).clamp_min(least) if least else full.values(of))
        inside = (low <= true + 1e-9) & (true <= high + 1e-9)
        held.append(float(inside.double().mean()))
    scale = scale_of(full.loss)
    off = (scale.place(found.loss) - scale.place(full.loss)) / scale.range
    low, high = (scale.place(each.clamp_min(1e-12)) for each in found.interval())
    return Spent(
        name, found.split, precision, found.examples, passes[0] / passes[1], *held,
        float(off.square().mean().sqrt()), float(((high - low) / 2 / scale.range).median()),
    )  # fmt: skip


def lines(rounds: int = 5) -> list[str]:
    """What stands in the table of results."""
    told = [
        f"- Plane to a precision, {each.task}, {each.split}, precision {each.precision}, {each.examples} "
        f"examples: {each.share:.1%} of the forward passes of the full protocol; the stated interval holds "
        f"its loss at {each.held:.1%} and its error at {each.held_error:.1%} of the nodes; root mean square "
        f"difference {each.deviation:.2%} of the colour scale, median half-width {each.width:.2%}."
        for each in spent()
    ]
    ratios = [
        f"- {found.name}: {found.floor:.2f} s bare, {found.ours:.2f} s, ratio {found.ratio:.3f} "
        f"({found.low:.3f} to {found.high:.3f}; at most 1.10)."
        for found in run(rounds)
    ]
    return [*ratios, *told]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("\n".join(lines()))

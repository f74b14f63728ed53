"""A step of growing a simplex over S plain SGD steps on the same batch of the same network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.nn import functional

from benchmarks.curve_step import image_task, networks
from benchmarks.side_by_side import Ratio, side_by_side
from isthmus import Alone, Landscape, Task, Weights
from isthmus.connect.growing import Growth, SimplexSettings

_SAMPLES = 5
_VERTICES = 4
"""Of the simplex, and of the complex: two networks and two connectors."""
_STEPS = 100
"""Of a vertex; more than are timed, so that no vertex is planted meanwhile."""


def run(rounds: int) -> Iterator[Ratio]:
    """The last vertex of a simplex, and the last connector of a complex, at batch 128 and 16."""
    for name, build in networks().items():
        for batch in (128, 16):
            task = image_task(build, batch)
            yield side_by_side(f"simplex step, {name}, batch {batch}", *_both(task, batch, 1), rounds)
        yield side_by_side(f"complex step, {name}, batch {batch}", *_both(task, batch, 2), rounds)


def _both(task: Task, batch: int, modes: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """S plain steps, and one of ours: S gradients, the volume, and the update."""
    x, y = task.train
    module = task.build(0).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def plain() -> None:
        for _ in range(_SAMPLES):
            optimizer.zero_grad()
            functional.cross_entropy(module(x), y).backward()
            optimizer.step()

    given = tuple(Weights.from_module(task.build(seed)) for seed in range(1, modes + 1))
    groups = tuple((number,) for number in range(modes))
    settings = SimplexSettings(epochs=_STEPS, batch=batch, rate=0.01, samples=_SAMPLES)
    growth = Growth(given, groups, _VERTICES - modes, Landscape(task), settings, Alone())
    for newest in range(modes, _VERTICES):
        growth._plant(newest)
    first = (_VERTICES - modes - 1) * _STEPS + 1
    context = growth.begin(first)
    take = context.__enter__()  # stays open: the binding is made once a fit, not once a step
    step = iter(range(first, first + _STEPS))
    return plain, lambda: (take(next(step)), context)

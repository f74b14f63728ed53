"""A step of an elastic band with N pivots over N plain SGD steps on the same batch of the same network.

Every plain step is one of a network of its own, as N trainings would be. The band's step has all that is
its own: tangents, forces, momentum and redistribution; insertions, once a cycle, are left out on both sides.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import torch
from torch.nn import functional

from benchmarks.curve_step import image_task, networks
from benchmarks.side_by_side import Ratio, side_by_side
from isthmus import Chain, Landscape, Serial, Task, Weights
from isthmus.connect.band import _Relaxing
from isthmus.connect.bandsettings import BandSettings, Cycle
from isthmus.tasks import digits

PIVOTS = 5


def run(rounds: int) -> Iterator[Ratio]:
    """The architectures of the published timings at batch 128 and 16, and the perceptron of the digits."""
    for name, build in networks().items():
        for batch in (128, 16):
            task = image_task(build, batch)
            title = f"band step, {PIVOTS} pivots, {name}, batch {batch}"
            yield side_by_side(title, *_both(task, batch), rounds)
    task, batch = digits.mlp(), 64
    title = f"band step, {PIVOTS} pivots, digits-mlp, batch {batch}"
    yield side_by_side(title, *_both(task, batch), rounds, repeat=10)


def _both(task: Task, batch: int) -> tuple[Callable[[], object], Callable[[], object]]:
    x, y = (tensor[:batch] for tensor in task.train)
    modules = [task.build(seed).train() for seed in range(PIVOTS)]
    optimizers = [
        torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4) for module in modules
    ]

    def plain() -> None:
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.zero_grad()
            functional.cross_entropy(module(x), y).backward()
            optimizer.step()

    a, b = (Weights.from_module(task.build(seed)) for seed in (1, 2))
    settings = BandSettings((Cycle(10**6, 0.01),), batch, pivots=PIVOTS)
    relaxing = _Relaxing(Chain.between(a, b, PIVOTS), Landscape(task), settings, Serial())
    step = iter(range(10**6))
    return plain, lambda: relaxing._step(next(step), (x, y))


def main() -> None:
    """Measure and print, with one thread: `python -m benchmarks.band_step [rounds]`."""
    torch.set_num_threads(1)
    for found in run(int(sys.argv[1]) if len(sys.argv) > 1 else 9):
        print(
            f"{found.name}: {found.floor * 1e3:.1f} ms, {found.ours * 1e3:.1f} ms, ratio {found.ratio:.3f} "
            f"({found.low:.3f} to {found.high:.3f}), {found.rounds} rounds",
            flush=True,
        )


if __name__ == "__main__":
    main()

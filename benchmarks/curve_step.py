"""A step of curve fitting over a plain SGD step on the same batch of the same network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.nn import functional

from benchmarks.side_by_side import Ratio, side_by_side
from isthmus import Alone, Bezier, Landscape, Task, Weights
from isthmus.connect.curve import CurveSettings, _Fit
from isthmus.tasks.models import VGG16, ResNet


def networks() -> dict[str, Callable[[], torch.nn.Module]]:
    """The two architectures of the published timings."""
    return {"cifar10-resnet20": lambda: ResNet(20), "cifar10-vgg16": VGG16}


def image_task(build: Callable[[], torch.nn.Module], examples: int) -> Task:
    """Noise in the shape of CIFAR-10: time does not depend on the values."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(examples, 3, 32, 32, generator=generator)
    y = torch.randint(10, (examples,), generator=generator)
    return Task(model=build, train=(x, y), test=(x, y))


def run(rounds: int) -> Iterator[Ratio]:
    """Both networks at batch 128 and 16; the plain step is the loop that everybody writes."""
    for name, build in networks().items():
        for batch in (128, 16):
            task = image_task(build, batch)
            yield side_by_side(f"curve step, {name}, batch {batch}", *_both(task, batch), rounds)


def _both(task: Task, batch: int) -> tuple[Callable[[], object], Callable[[], object]]:
    x, y = task.train
    module = task.build(0).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def plain() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(module(x), y).backward()
        optimizer.step()

    a, b = (Weights.from_module(task.build(seed)) for seed in (1, 2))
    settings = CurveSettings(epochs=10**6, batch=batch, rate=0.01)
    fit = _Fit(Bezier.between(a, b), Landscape(task), settings, Alone())
    context = fit.begin(0)
    take = context.__enter__()  # stays open: the binding is made once a fit, not once a step
    step = iter(range(10**6))
    return plain, lambda: (take(next(step)), context)

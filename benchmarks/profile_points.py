"""A profile of K points over the bare forward passes that it needs, recalibration counted among them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.curve_step import image_task, networks
from benchmarks.side_by_side import Ratio, side_by_side
from isthmus import Landscape, Segment, Weights, profile
from isthmus.repair.batchnorm import batchnorm_layers

_POINTS, _EXAMPLES, _BATCH = 5, 256, 128


def run(rounds: int) -> Iterator[Ratio]:
    """K points × (n examples to evaluate + n to recalibrate), against as many forwards of the bare module."""
    for name, build in networks().items():
        task = image_task(build, _EXAMPLES)
        land = Landscape(task, batch=_BATCH, recalibration=_EXAMPLES)
        a, b = (Weights.from_module(task.build(seed)) for seed in (1, 2))
        module = task.build(0)
        pieces = task.train[0].split(_BATCH)
        layers = list(batchnorm_layers(module).values())

        @torch.no_grad()
        def bare(module=module, pieces=pieces, layers=layers) -> None:
            for training in (True, False):
                module.eval()
                for layer in layers:
                    layer.train(training)
                for _ in range(_POINTS):
                    for piece in pieces:
                        module(piece)

        def ours(land=land, a=a, b=b) -> None:
            profile(Segment(a, b), land, _POINTS, refine=0)

        yield side_by_side(f"profile of {_POINTS} points, {name}, n = {_EXAMPLES}", bare, ours, rounds)

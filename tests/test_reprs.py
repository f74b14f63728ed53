"""What a REPL or a notebook shows is a line, not a thousand."""

import torch

import isthmus as im
from isthmus.tasks import digits


def test_every_object_fits_on_a_few_lines() -> None:
    task = digits.mlp()
    a, b = (im.Weights.from_module(task.build(seed)) for seed in (1, 2))
    land = im.Landscape(task, limit=50)
    symmetry = im.discover(task.network, task.example)
    rescaling = im.discover_rescalings(task.traceable, task.example)
    path = im.Bezier.between(a, b)
    connection = im.fit_curve(path, land, steps=2)
    profile = im.profile(path, land, 3)
    shown = [
        task, task.recipe, a, a.layout, land, symmetry, symmetry.axes[0], symmetry.axes, symmetry.identity(),
        im.match_weights(a, b, symmetry), path, path.at(torch.linspace(0, 1, 5)), connection, profile,
        profile.evaluation, im.barrier(profile), im.scan_plane(im.Plane(a, b, a * 0.5), land, resolution=3),
        im.scores(a, land), rescaling, rescaling.identity(),
    ]  # fmt: skip
    for thing in shown:
        assert len(repr(thing)) < 1500, f"{type(thing).__name__}: {repr(thing)[:300]}"

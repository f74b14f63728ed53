"""The published experiments on fusion by transport, and one more: `python -m isthmus.experiments.fusion`.

Source: Singh & Jaggi 2020, "Model Fusion via Optimal Transport" (arXiv 1910.05653), sections 5.1 to 5.3.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isthmus.experiments.fusing import FusionSettings, study_fusion
from isthmus.experiments.train import train
from isthmus.io.checkpoints import load_weights, save_weights
from isthmus.landscape import Landscape, Recipe, Task
from isthmus.merge.fusion import averaged, fuse, transport_map
from isthmus.merge.prune import narrowed
from isthmus.seeds import seeded
from isthmus.tasks import digits, mnist
from isthmus.tasks.models import MLP
from isthmus.weights import Weights

SIZES = (784, 400, 200, 100, 10)
SEEDS = (1, 2, 3)
SHARES = tuple(round(0.1 * k, 1) for k in range(1, 10))
_SKILL, _REST = 4, 0.1
_EXAMPLES = 200
Row = tuple[str, ...]


def short(task: Task, name: str, epochs: float = 5) -> Task:
    """A task with a short recipe: so many epochs of AdamW down a cosine, 120 steps each on all of MNIST."""
    recipe = Recipe(epochs=epochs, batch=500, optimizer="adamw", rate=2e-3, weight_decay=0.0)
    return replace(task, recipe=recipe, name=name)


def published_task(data: str | None) -> Task:
    """The perceptron 784-400-200-100-10 on MNIST; ours has biases, and a shorter training."""
    return short(replace(mnist.mlp(data), model=partial(MLP, SIZES)), "mnist-mlp-400-200-100")


def trained(task: Task, seed: int, models: Path) -> Weights:
    """A model of a task, trained unless the folder holds it."""
    path = models / f"{task.name}-seed{seed}.safetensors"
    if path.exists():
        return load_weights(path, like=task.network)
    weights = train(task, seed)
    save_weights(weights, path)
    return weights


def accuracy(task: Task, *points: Weights) -> list[float]:
    """Held-out accuracy of each, in percent."""
    error = Landscape(task).evaluate(list(points), "test").error
    return [100 * (1 - float(row.double().mean())) for row in error]


def inputs(task: Task, examples: int = _EXAMPLES) -> Tensor:
    """Some training inputs, drawn at random, the same every time."""
    images: Tensor = task.train[0]
    return images[torch.randperm(len(images), generator=seeded(0, "fusion", "examples"))[:examples]]


def one_shot(data: str | None, models: Path) -> list[Row]:
    """Two models fused without any further training, over pairs of seeds and the settings."""
    task = published_task(data)
    module, example = task.network.module, task.example
    pairs = [(1, 2), (3, 4), (5, 6)]
    variants = _variants(inputs(task))
    rows: dict[str, list[float]] = {name: [] for name in ("A", "B", "plain average", *variants)}
    for first, second in pairs:
        a, b = trained(task, first, models), trained(task, second, models)
        fused = [fuse(a, b, module, module, example, **settings) for settings in variants.values()]
        found = accuracy(task, a, b, (a + b) * 0.5, *fused)
        for name, value in zip(rows, found, strict=True):
            rows[name].append(value)
    return [("", *(f"seeds {i}, {j}" for i, j in pairs)), *_rows(rows)]


def _variants(images: Tensor) -> dict[str, dict[str, Any]]:
    acts = {"cost": "activations", "data": images}
    return {
        "weights": {},
        "weights, 3 sweeps": {"sweeps": 3},
        "weights, importance": {"marginals": "importance"},
        "weights, sinkhorn 0.01": {"plan": "sinkhorn"},
        "activations": acts,
        "activations, importance": {**acts, "marginals": "importance"},
        "activations, sinkhorn 0.01": {**acts, "plan": "sinkhorn"},
    }


def widths(data: str | None, models: Path) -> list[Row]:
    """Perceptrons of different widths fused, either way, with the settings of outgoing weights."""
    alone = [f"{name}: A carried alone" for name in _WAYS]
    table: list[Row] = [("A → B", "A", "B", "A cut to B, averaged", *_WAYS, *alone)]
    for wide, narrow in ((512, 256), (512, 128)):
        for a_width, b_width in ((wide, narrow), (narrow, wide)):
            found = [_width_row(data, models, a_width, b_width, seed) for seed in SEEDS]
            table.append((f"{a_width} → {b_width}", *_spread(found)))
    return table


_WAYS: Mapping[str, dict[str, Any]] = {
    "weights": {},
    "weights, published": {"incoming": "published"},
    "weights, 3 sweeps": {"sweeps": 3},
    "activations": {"cost": "activations"},
    "activations, published": {"cost": "activations", "incoming": "published"},
}


def _width_row(data: str | None, models: Path, a_width: int, b_width: int, seed: int) -> list[float]:
    """Accuracies of A (seed) and B (the next seed), of the cut baseline, and of every way of fusing."""
    one, two = _wide(data, a_width), _wide(data, b_width)
    a, b = trained(one, seed, models), trained(two, seed % len(SEEDS) + 1, models)
    carried = [
        transport_map(a, b, one.network, two.network, two.example, **_with_data(settings, two)).apply(a)
        for settings in _WAYS.values()
    ]
    fused = [averaged(moved, b) for moved in carried]
    return [*accuracy(one, a), *accuracy(two, b, averaged(cut(a, b), b), *fused, *carried)]


def _with_data(settings: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The settings with inputs, if they need them."""
    return {**settings, "data": inputs(task)} if "cost" in settings else dict(settings)


def _wide(data: str | None, width: int) -> Task:
    """The task mnist-mlp at a width, with its own recipe."""
    return replace(mnist.mlp(data, width), name=f"mnist-mlp-{width}")


def cut(a: Weights, b: Weights) -> Weights:
    """A's leading units in B's shape, zeros where A has none: the naive baseline of different widths."""
    vector = torch.zeros_like(b.vector)
    for position, name in enumerate(b.layout.names):
        view = b.layout.view(vector, position)
        part = tuple(slice(0, min(sizes)) for sizes in zip(view.shape, a[name].shape, strict=True))
        view[part] = a[name][part]
    return Weights(b.layout, vector, b.buffers)


def skills(data: str | None, models: Path) -> list[Row]:
    """A, a specialist of one digit, fused with B, a generalist that never saw it, over B's share."""
    table: list[Row] = [("", "A", "B", *(f"share {share}" for share in SHARES))]
    plain: list[list[float]] = []
    ways: dict[str, dict[str, Any]] = {"weights": {}, "activations": {"cost": "activations"}}
    carried: dict[str, list[list[float]]] = {name: [] for name in ways}
    for seed in SEEDS:
        special, general = skill_tasks(data, seed)
        a, b = trained(special, seed, models), trained(general, seed + 10, models)
        task, module = published_task(data), general.network.module
        ends = accuracy(task, a, b)
        plain.append(ends + accuracy(task, *(averaged(a, b, share) for share in SHARES)))
        for name, settings in ways.items():
            moved = transport_map(a, b, module, module, task.example, **_with_data(settings, task)).apply(a)
            carried[name].append(ends + accuracy(task, *(averaged(moved, b, share) for share in SHARES)))
    table.append(("plain average", *_spread(plain)))
    return table + [(f"transport, {name}", *_spread(rows)) for name, rows in carried.items()]


def skill_tasks(data: str | None, seed: int) -> tuple[Task, Task]:
    """The specialist's task: every 4 and a tenth of the rest; the generalist's: the other nine tenths."""
    task = published_task(data)
    images, labels = task.train
    order = torch.randperm(len(labels), generator=seeded(seed, "fusion", "skills"))
    rest = order[labels[order] != _SKILL]
    few = round(_REST * len(rest))
    own = torch.cat([rest[:few], order[labels[order] == _SKILL]])
    parts = (("specialist", own, 25), ("generalist", rest[few:], 5))
    first, second = (
        short(replace(task, train=(images[chosen], labels[chosen])), f"mnist-mlp-{name}", epochs)
        for name, chosen, epochs in parts
    )
    return first, second


def pruning(data: str | None, models: Path) -> list[Row]:
    """A 512-wide perceptron cut to its largest units, and fused with them."""
    shares = (0.0, 0.25, 0.5, 0.75)
    table: list[Row] = [("units kept", "wide", "pruned", *(f"fused, share {share}" for share in shares))]
    one = _wide(data, 512)
    for width in (256, 128, 64, 32):
        two, found = mnist.mlp(data, width), []
        modules = (one.network.module, two.network.module)
        for seed in SEEDS:
            a = trained(one, seed, models)
            narrow = narrowed(a, *modules, two.example)
            moved = transport_map(
                a, narrow, *modules, two.example, cost="activations", data=inputs(two)
            ).apply(a)
            fused = [averaged(moved, narrow, share) for share in shares]
            found.append([*accuracy(one, a), *accuracy(two, narrow, *fused)])
        table.append((str(width), *_spread(found)))
    return table


def convolutions(data: str | None, models: Path) -> list[Row]:
    """Convolutional networks with batch norm on the digits, its statistics measured anew after fusing."""
    ways: dict[str, dict[str, Any]] = {
        "weights": {},
        "weights, 3 sweeps": {"sweeps": 3},
        "activations": {"cost": "activations"},
    }
    table: list[Row] = [("channels of A → B", "A", "B", "plain average", *ways)]
    goal = replace(digits.cnn(16), name="digits-cnn-16")
    for width in (16, 32):
        task, found = replace(digits.cnn(width), name=f"digits-cnn-{width}"), []
        for seed in SEEDS:
            a, b = trained(task, seed, models), trained(goal, seed % len(SEEDS) + 1, models)
            studies = [study_fusion(task, a, goal, b, FusionSettings(**way))[1] for way in ways.values()]
            first, *others = (dict(study.scored) for study in studies)
            rows = [*first.values(), *(other["fused"] for other in others)]
            found.append([100 * score.accuracy for row in rows for score in row if score.split == "test"])
        spread = _spread(found)
        table.append((f"{width} → 16", *spread[:2], *(spread[2:] if width == 16 else ["—", *spread[2:]])))
    return table


def _rows(rows: Mapping[str, Sequence[float]]) -> list[Row]:
    return [(name, *(f"{value:.2f}" for value in values)) for name, values in rows.items()]


def _spread(found: Sequence[Sequence[float]]) -> list[str]:
    """The mean over seeds, with the least and the largest value."""
    return [
        f"{sum(column) / len(column):.2f} ({min(column):.2f}–{max(column):.2f})"
        for column in zip(*found, strict=True)
    ]


def markdown(table: Sequence[Row]) -> str:
    """A table in Markdown, its first row the heading."""
    lines = [" | ".join(row) for row in table]
    lines.insert(1, " | ".join("---" for _ in table[0]))
    return "\n".join(f"| {line} |" for line in lines)


STUDIES: Mapping[str, Callable[[str | None, Path], list[Row]]] = {
    "one-shot": one_shot,
    "widths": widths,
    "skills": skills,
    "pruning": pruning,
    "convolutions": convolutions,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not there, and print the tables of held-out accuracy in percent."""
    parser = argparse.ArgumentParser(prog="python -m isthmus.experiments.fusion", description=main.__doc__)
    parser.add_argument("studies", nargs="*", help=f"which of {', '.join(STUDIES)}; all by default")
    parser.add_argument("--data", help="the data folder; by default the one that ISTHMUS_DATA names")
    parser.add_argument("--models", type=Path, default=Path("isthmus-fusion"), help="where models are kept")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.studies if name not in STUDIES]:
        parser.error(f"there is no study {unknown[0]!r}: expected some of {', '.join(STUDIES)}")
    for name in given.studies or STUDIES:
        print(f"\n{name}\n\n{markdown(STUDIES[name](given.data, given.models))}", flush=True)


if __name__ == "__main__":
    main()

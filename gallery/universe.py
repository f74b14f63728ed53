"""Five perceptrons merged to one: a section of docs/gallery/matching.md."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gallery.models import FOLDER, trained
from isthmus.identity import digest_of
from isthmus.io.checkpoints import Checkpoint
from isthmus.io.runs import Run
from isthmus.landscape import Landscape, Recipe, Task
from isthmus.match.many import match_many, match_many_activations, mean_of
from isthmus.report.comparisons import error_cell, loss_cell
from isthmus.report.formats import plain_loss, significant
from isthmus.report.markdown import markdown_table
from isthmus.report.tables import Cell, Column, Table
from isthmus.scores import Score, scores
from isthmus.symmetry import Alignment, Symmetry, discover
from isthmus.tasks import mnist
from isthmus.weights import Weights

SEEDS = (1, 2, 3, 4, 5)
MATCHING_SEEDS = (0, 1, 2, 3, 4)
PUBLISHED = Recipe(epochs=100, batch=500, optimizer="adamw", rate=1e-3, weight_decay=0.0, schedule="constant")


@dataclass(frozen=True)
class Merged:
    """A network: one of the five, or a mean of them.

    Attributes:
        name: what it is.
        seconds: wall time of the matching.
        scores: on train and test.
    """

    name: str
    seconds: float
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Five:
    """All of one recipe."""

    networks: tuple[Merged, ...]


def section(data: str) -> str:
    """Both recipes as Markdown."""
    task = mnist.mlp(data)
    published = dataclasses.replace(task, recipe=PUBLISHED, name="mnist-mlp, published recipe")
    parts = [
        "## Five perceptrons, one model",
        "Five MNIST perceptrons of width 512 (seeds 1 to 5) are brought to one order of units and averaged. "
        "Scores are on all 10,000 test and 60,000 training images. The ingredients of the published result "
        "were trained for 100 epochs at a constant rate and have grown sure of their mistakes: their test "
        "loss is high beside their test error, and averaging mends that first. Those of the task's own "
        "recipe, 20 epochs down a cosine, leave less to mend.",
    ]
    for title, name, each in (
        ("Published recipe (Adam at 10⁻³, 100 epochs)", "mnist-mlp-published", published),
        ("The task's recipe (20 epochs down a cosine)", "mnist-mlp-512", task),
    ):
        found = _five(name, each)
        parts += [f"### {title}", _told(found), markdown_table(_table(found))]
    return "\n\n".join(parts)


def _five(name: str, task: Task) -> Five:
    models = [trained(name, task, seed) for seed in SEEDS]
    run = Run.open(FOLDER / "universe" / name, "universe", {"models": digest_of([m.sha256 for m in models])})
    try:
        return run.record("five", Five, lambda: Five(tuple(_networks(task, models))))
    finally:
        run.close()


def _networks(task: Task, models: Sequence[Checkpoint]) -> Iterator[Merged]:
    land = Landscape(task)
    symmetry = discover(task.traceable, task.example)
    weights = [model.weights for model in models]
    for seed, each in zip(SEEDS, weights, strict=True):
        yield Merged(f"ingredient, seed {seed}", 0.0, scores(each, land))
    yield Merged("plain mean", 0.0, scores(mean_of(weights, [symmetry.identity()] * len(weights)), land))
    for name, seed, found, seconds in _matched(weights, symmetry, land):
        yield Merged(f"{name}, matching seed {seed}", seconds, scores(mean_of(weights, found), land))


def _matched(
    weights: Sequence[Weights], symmetry: Symmetry, land: Landscape
) -> Iterator[tuple[str, int, list[Alignment], float]]:
    for method in ("star", "merge-many", "universe", "frank-wolfe", "activation"):
        for seed in MATCHING_SEEDS if method == "universe" else (0,):
            begun = time.perf_counter()
            if method == "activation":
                found = match_many_activations(weights, symmetry, land, seed=seed)
            else:
                found = match_many(weights, symmetry, method=method, seed=seed)  # type: ignore[arg-type]
            yield method, seed, found, time.perf_counter() - begun


def _table(found: Five) -> Table:
    columns = (
        Column("network", "name"), Column("loss, held-out", "measure"), Column("error, held-out", "measure"),
        Column("loss, train", "measure"), Column("error, train", "measure"), Column("seconds"),
    )  # fmt: skip
    rows = []
    for network in found.networks:
        train, test = sorted(network.scores, key=lambda score: score.split != "train")
        cells = (loss_cell(test), error_cell(test), loss_cell(train), error_cell(train))
        told = significant(network.seconds, 2) if network.seconds else "—"
        rows.append((Cell(network.name), *cells, Cell(told)))
    return Table("", columns, tuple(rows))


def _told(found: Five) -> str:
    """How many of the merged networks lie below every ingredient."""
    losses = {n.name: next(s.loss for s in n.scores if s.split == "test") for n in found.networks}
    own = [loss for name, loss in losses.items() if name.startswith("ingredient")]
    universe = [loss for name, loss in losses.items() if name.startswith("universe")]
    below = sum(loss < min(own) for loss in universe)
    return (
        f"Test loss of the ingredients {plain_loss(min(own))} to {plain_loss(max(own))}; of the universe's "
        f"means {plain_loss(min(universe))} to {plain_loss(max(universe))} over {len(universe)} seeds of the "
        f"matching, {below} of them below every ingredient."
    )

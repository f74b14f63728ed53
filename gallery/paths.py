"""Paths and regions between trained networks: docs/gallery/paths.md."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from gallery.commands import SHOWN, Shown, computed, drawn
from gallery.commands import section as command_section
from gallery.models import FOLDER, trained
from isthmus.connect.abstract import load_controls, save_controls
from isthmus.connect.kinds import connector_named
from isthmus.experiments.measuring import study_path
from isthmus.experiments.records import Fit, PathStudy
from isthmus.identity import digest_of
from isthmus.io.checkpoints import Checkpoint
from isthmus.io.records import plain
from isthmus.io.runs import Run
from isthmus.landscape import Landscape, Task
from isthmus.path import AbstractPath, Segment
from isthmus.progress import Terminal
from isthmus.report.drawing import NamedFigure
from isthmus.report.export import save_named_figures
from isthmus.report.formats import percent, percent_interval, plain_loss, significant
from isthmus.report.markdown import markdown_table
from isthmus.report.profiles import lines_of_paths, profile_figure
from isthmus.report.tables import Cell, Column, Table
from isthmus.tasks import digits, mnist

PAGE = Path("docs/gallery/paths.md")
IMAGES = Path("docs/images")
SEEDS = (1, 2, 3)
KINDS = ("bezier", "neb", "string")
POINTS = 31


@dataclass(frozen=True)
class Timed:
    """A fit, with what it cost.

    Attributes:
        fit: how it went.
        seconds: processor time.
    """

    fit: Fit | None
    seconds: float


@dataclass(frozen=True)
class Found:
    """One kind of path between one pair.

    Attributes:
        pair: the seeds of its ends.
        kind: "line", or a name of `connect.kinds`.
        study: the path, measured on all examples of both splits.
        timed: its fit.
    """

    pair: tuple[int, int]
    kind: str
    study: PathStudy
    timed: Timed


@dataclass(frozen=True)
class Family:
    """Networks of one kind that are joined pair by pair.

    Attributes:
        name: of the models, as `gallery.models` keeps them.
        title: of the section.
        task: the problem.
        epochs: of a curve's fit.
        examples: of each split that profiles use; None for all.
    """

    name: str
    title: str
    task: Task
    epochs: float
    examples: int | None = None


def found_paths(family: Family) -> list[Found]:
    """Every kind of path between every pair, as far as it is not done yet."""
    models = {seed: trained(family.name, family.task, seed) for seed in SEEDS}
    found = []
    for i, j in combinations(SEEDS, 2):
        for kind in ("line", *KINDS):
            found.append(_found(family, (i, j), kind, models[i], models[j]))
            print(f"{family.name} {i}-{j} {kind}", flush=True)
    return found


def _found(family: Family, pair: tuple[int, int], kind: str, a: Checkpoint, b: Checkpoint) -> Found:
    landscape = Landscape(family.task, limit=family.examples)
    identity = {"task": digest_of(family.task.identity), "A": a.sha256, "B": b.sha256, "kind": kind,
                "epochs": family.epochs, "examples": family.examples, "points": POINTS}  # fmt: skip
    run = Run.open(FOLDER / "paths" / f"{family.name}-{pair[0]}-{pair[1]}-{kind}", "paths", identity)
    ends = (a.weights, b.weights)
    try:
        timed = run.record("fit", Timed, lambda: _fitted(family, kind, ends, landscape, run))
        path: AbstractPath = Segment(*ends) if kind == "line" else load_controls(run.path("controls"))
        study = run.record(
            "study", PathStudy,
            lambda: study_path(kind, path, landscape, points=POINTS, fit=timed.fit, progress=Terminal()),
        )  # fmt: skip
        return Found(pair, kind, study, timed)
    finally:
        run.close()


def _fitted(family: Family, kind: str, ends: Sequence[object], landscape: Landscape, run: Run) -> Timed:
    if kind == "line":
        return Timed(None, 0.0)
    start = time.process_time()
    connector = connector_named(kind, epochs=family.epochs if kind == "bezier" else None)
    store = run.store("fit")
    made = connector.connect(ends, landscape, store=store, progress=Terminal())  # type: ignore[arg-type]
    save_controls(made.path, run.path("controls"))
    store.clear()
    fit = Fit(made.history, made.outcome.value, made.steps, made.settings, made.saddle)
    return Timed(fit, time.process_time() - start)


# -- the page -------------------------------------------------------------------------------------


def section(family: Family, found: Sequence[Found]) -> str:
    """A family's table and figure as Markdown."""
    title = f"## {family.title}"
    figure = f"![Loss along the paths](../images/paths-{family.name}.svg)"
    caption = (
        f"*Loss along the paths between the networks of seeds {SEEDS[0]} and {SEEDS[1]}; the straight line, "
        "which rises out of sight, is left out.*"
    )
    there = {(each.pair, each.kind) for each in found}
    wanted = [(pair, kind) for pair in combinations(SEEDS, 2) for kind in ("line", *KINDS)]
    missing = ", ".join(f"{kind} of {i} and {j}" for (i, j), kind in wanted if ((i, j), kind) not in there)
    note = f"Not measured: {missing}." if missing else ""
    return "\n\n".join(part for part in (title, markdown_table(table(found)), note, figure, caption) if part)


def figure(family: Family, found: Sequence[Found]) -> NamedFigure:
    """Loss along the paths of the first pair."""
    first = [each.study for each in found if each.pair == SEEDS[:2] and each.kind != "line"]
    drawn = profile_figure(lines_of_paths(first), of="loss", controls=False)
    return NamedFigure(f"paths-{family.name}", drawn, 760)


def table(found: Sequence[Found]) -> Table:
    """One row a path: its highest loss beside its ends' on both splits, its error, length and cost."""
    columns = (
        Column("seeds", "name"), Column("path", "text"), Column("highest loss, held-out"),
        Column("over the ends'"), Column("highest loss, train"), Column("over the ends'"),
        Column("error barrier, held-out", "measure"), Column("length over distance"), Column("steps"),
        Column("processor s"),
    )  # fmt: skip
    return Table("", columns, tuple(_row(each) for each in found))


def _row(found: Found) -> tuple[Cell, ...]:
    study, fit = found.study, found.timed.fit
    barrier = study.barrier("error", "test")
    cells = [Cell(f"{found.pair[0]}, {found.pair[1]}"), Cell(found.kind)]
    for split in ("test", "train"):
        loss = study.profile(split).loss
        worst = float(torch.maximum(loss[0], loss[-1]))
        cells += [Cell(plain_loss(float(loss.max()))), Cell(f"× {significant(float(loss.max()) / worst, 3)}")]
    cells += [
        Cell(percent(barrier.height), percent_interval(barrier.low, barrier.high)),
        Cell(f"{study.length / study.endpoint_distance:.3f}"),
        Cell(f"{fit.steps:,}" if fit else "—"), Cell(significant(found.timed.seconds, 3) if fit else "—"),
    ]  # fmt: skip
    return tuple(cells)


def run(only: Sequence[str] | None = None, page: bool = True) -> None:
    """Find every path, compute every study, as far as it is not done yet, and write the page."""
    data = os.environ.get("ISTHMUS_DATA")
    if not data:
        raise SystemExit("the gallery needs the data sets: set ISTHMUS_DATA to their folder")
    every = families(data)
    known = [*(family.name for family in every), *(shown.name for shown in SHOWN)]
    if unknown := [name for name in only or () if name not in known]:
        raise SystemExit(f"there is no entry {unknown[0]}: expected {', '.join(known)}")
    tasks = {"digits-mlp": every[0].task, "mnist-mlp": every[1].task, "digits-cnn": digits.cnn()}
    joined = [(f, found_paths(f)) for f in every if only is None or f.name in only]
    studies = []
    for shown in SHOWN:
        if only is None or shown.name in only:
            for seed in shown.seeds:
                trained(shown.family or shown.task, tasks[shown.task], seed)
            studies.append((shown, computed(shown)))
            print(shown.name, flush=True)
    if page and only is None:
        _write(joined, studies)


def families(data: str) -> tuple[Family, ...]:
    """The networks whose paths are compared."""
    return (
        Family("digits-mlp", "Digits, perceptron with four hidden layers of 256", digits.mlp(), 200.0),
        Family(
            "mnist-mlp-512", "MNIST, perceptron 784-512-512-512-10", mnist.mlp(data), 20.0, examples=10_000
        ),
    )


def _write(joined: Sequence[tuple[Family, list[Found]]], studies: Sequence[tuple[Shown, Any]]) -> None:
    figures = [figure(family, found) for family, found in joined]
    figures += [each for shown, study in studies for each in drawn(shown, study)]
    save_named_figures(figures, IMAGES, ("svg",))
    head = (Path(__file__).parent / "paths-head.md").read_text(encoding="utf-8").rstrip("\n")
    parts = [head, *(section(family, found) for family, found in joined)]
    parts += [command_section(shown, study) for shown, study in studies]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    record = {family.name: [_plain(each) for each in found] for family, found in joined}
    PAGE.with_suffix(".json").write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")


def _plain(found: Found) -> dict[str, Any]:
    """What a reader may want to compute with: barriers, lengths, saddle and cost."""
    study, fit = found.study, found.timed.fit
    return {
        "seeds": found.pair, "kind": found.kind, "barriers": plain(study.barriers), "length": study.length,
        "distance": study.endpoint_distance, "seconds": found.timed.seconds,
        "loss": {profile.split: profile.loss.tolist() for profile in study.profiles},
        "error": {profile.split: profile.error.tolist() for profile in study.profiles},
        "fit": None if fit is None else {"outcome": fit.outcome, "steps": fit.steps,
                                         "saddle": plain(fit.saddle), "settings": fit.settings},
    }  # fmt: skip

"""Methods of matching × repair on five families of networks: docs/gallery/matching.md."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

from gallery import universe
from gallery.drawing import barriers_figure, width_figure
from gallery.models import FOLDER, trained
from isthmus.experiments.comparison import (
    NAIVE,
    REPAIRS,
    ComparedLine,
    Comparison,
    ComparisonSettings,
    compare_matchings,
    comparison_identity,
)
from isthmus.io.checkpoints import read_checkpoint
from isthmus.io.runs import Run
from isthmus.landscape import Task
from isthmus.match.methods import METHODS
from isthmus.progress import Terminal
from isthmus.report.comparisons import spoken
from isthmus.report.drawing import NamedFigure
from isthmus.report.export import save_named_figures
from isthmus.report.formats import interval, percent, plain_loss, quantity, significant
from isthmus.report.markdown import markdown_table
from isthmus.report.tables import Cell, Column, Table
from isthmus.symmetry import discover
from isthmus.tasks import cifar10, digits, mnist
from isthmus.tasks.chars import transformer

PAGE = Path("docs/gallery/matching.md")
IMAGES = Path("docs/images")
SEEDS = (1, 2, 3)
WIDTHS = (32, 64, 128, 256, 512, 1024)
STRANGERS = ("akamaster-resnet20-12fca82f.th", "zheng-resnet20-model.th")


@dataclass(frozen=True)
class Entry:
    """One family of networks.

    Attributes:
        name: of its models and of its section.
        title: of its section.
        task: builds the task from the data folder.
        checkpoints: files below the data folder, for networks that others trained.
        points: positions on each line.
        examples: of each split.
        methods: the methods that are tried.
    """

    name: str
    title: str
    task: Callable[[str], Task]
    checkpoints: tuple[str, ...] = ()
    points: int = 11
    examples: int = 2000
    methods: tuple[str, ...] = tuple(METHODS)


# What a thousand evaluations (annealing) or four hundred training steps with as many projections cost on two
# cores decides which methods are tried on the larger networks.
_CHEAP = ("weight", "activation")


def _wide(width: int) -> Entry:
    title = f"MNIST, perceptron 784-{width}-{width}-{width}-10"
    methods = tuple(METHODS) if width <= 512 else (*_CHEAP, "learned")
    return Entry(f"mnist-mlp-{width}", title, lambda data: mnist.mlp(data, width), methods=methods)


_R20 = "checkpoints/cifar10_resnet/resnet20"
ENTRIES = (
    Entry("digits-mlp", "Digits, perceptron with four hidden layers of 256", lambda _: digits.mlp()),
    Entry("digits-cnn", "Digits, three convolutions with batch norm", lambda _: digits.cnn()),
    *map(_wide, WIDTHS),
    Entry("mnist-lenet", "MNIST, LeNet-5", mnist.lenet),
    Entry(
        "cifar10-resnet20", "CIFAR-10, ResNet-20 of two strangers", cifar10.resnet20,
        tuple(f"{_R20}/{name}" for name in STRANGERS), points=5, methods=(*_CHEAP, "ste"),
    ),
    Entry(
        "chars-transformer", "Characters of Shakespeare, a small transformer", transformer, points=5,
        examples=500, methods=_CHEAP,
    ),
)  # fmt: skip


def run(only: Sequence[str] | None = None, page: bool = True) -> None:
    """Compare every method on every family, as far as it is not done yet, and write the page."""
    data = os.environ.get("ISTHMUS_DATA")
    if not data:
        raise SystemExit("the gallery needs the data sets: set ISTHMUS_DATA to their folder")
    known = [*(entry.name for entry in ENTRIES), "universe"]
    if unknown := [name for name in only or () if name not in known]:
        raise SystemExit(f"there is no entry {unknown[0]}: expected {', '.join(known)}")
    found = {entry.name: _compared(entry, data) for entry in ENTRIES if only is None or entry.name in only}
    five = universe.section(data) if only is None or "universe" in only else ""
    if page and only is None:
        _write(found, five)


def _compared(entry: Entry, data: str) -> list[Comparison]:
    """All pairs of a family."""
    task = entry.task(data)
    if entry.checkpoints:
        models = [read_checkpoint(Path(data) / name, like=task.network) for name in entry.checkpoints]
        numbers: Sequence[int] = range(1, len(models) + 1)
    else:
        models, numbers = [trained(entry.name, task, seed) for seed in SEEDS], SEEDS
    symmetry = discover(task.traceable, task.example)
    settings = ComparisonSettings(methods=entry.methods, points=entry.points, examples=entry.examples)
    found = []
    for (i, a), (j, b) in combinations(zip(numbers, models, strict=True), 2):
        folder = FOLDER / "matching" / f"{entry.name}-{i}-{j}"
        run = Run.open(folder, "compare", comparison_identity(task, a, b, settings))
        try:
            found.append(
                compare_matchings(task, a, b, settings, run=run, symmetry=symmetry, progress=Terminal())
            )
        finally:
            run.close()
        print(f"{entry.name} {i}-{j}", flush=True)
    return found


# -- the page -------------------------------------------------------------------------------------


def _write(found: dict[str, list[Comparison]], five: str) -> None:
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    figures = [
        NamedFigure("matching-widths", width_figure(_by_width(found)), 760),
        NamedFigure("matching-families", barriers_figure(_best(found)), 760),
    ]
    save_named_figures(figures, IMAGES, ("png", "svg"))
    sections = [*(_section(entry, found[entry.name]) for entry in ENTRIES), five]
    hours = sum(_seconds(one) for several in found.values() for one in several) / 3600
    head = (Path(__file__).parent / "matching-head.md").read_text(encoding="utf-8")
    body = head.replace("HOURS", f"{hours:.1f}") + "\n" + "\n\n".join(sections) + "\n"
    PAGE.write_text(body, encoding="utf-8")
    record = {name: [_plain(one) for one in several] for name, several in found.items()}
    PAGE.with_suffix(".json").write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")


def _seconds(one: Comparison) -> float:
    return sum(m.seconds for m in one.methods) + sum(line.seconds for line in one.lines)


def _section(entry: Entry, several: list[Comparison]) -> str:
    """One family: its ends, and a row for each method and repair."""
    ends = [score for one in several for end in one.ends for score in end.scores if score.split == "test"]
    errors = sorted({score.error for score in ends})
    note = several[0].note
    pairs = f"{len(several)} pair{'s' * (len(several) > 1)}"
    told = f"{note}. " if note else ""
    lines = [
        f"## {entry.title}",
        "",
        f"{told}{pairs}, {entry.points} points on each line, {entry.examples:,} examples of each split; "
        "held-out error of the ends: "
        f"{percent(errors[0])} to {percent(errors[-1])}.",
        "",
        markdown_table(_table(several)),
    ]
    return "\n".join(lines)


def _table(several: list[Comparison]) -> Table:
    columns = (
        Column("matching", "name"), Column("repair", "text"), Column("error barrier, held-out", "measure"),
        Column("error barrier, train", "measure"), Column("loss barrier, held-out", "measure"),
        Column("midpoint error, held-out", "measure"), Column("midpoint loss, held-out", "measure"),
        Column("seconds"),
    )  # fmt: skip
    rows = []
    for method in (NAIVE, *(m for m in METHODS if m in {c.method for c in several[0].methods})):
        for repair in REPAIRS:
            lines = [line for one in several if (line := one.line(method, repair)) is not None]
            if lines:
                rows.append(_row(several, lines, method, repair))
    return Table("", columns, tuple(rows))


def _row(several: list[Comparison], lines: list[ComparedLine], method: str, repair: str) -> tuple[Cell, ...]:
    seconds = fmean(one.method(method).seconds for one in several)
    middle = [line.score() for line in lines]
    return (
        Cell(spoken(method)), Cell(repair), _heights(lines, "error", "test"),
        _heights(lines, "error", "train"), _heights(lines, "loss", "test"),
        Cell(percent(fmean(score.error for score in middle))),
        Cell(plain_loss(fmean(score.loss for score in middle))),
        Cell("—" if method == NAIVE else significant(seconds, 2)),
    )  # fmt: skip


def _heights(lines: Sequence[ComparedLine], of: str, split: str) -> Cell:
    """The mean over pairs, with the lowest and the highest end of their intervals."""
    found = [line.barrier(of, split) for line in lines]
    low, high = min(b.low for b in found), max(b.high for b in found)
    return Cell(quantity(of, fmean(b.height for b in found)), interval(of, low, high))


def _by_width(found: dict[str, list[Comparison]]) -> dict[str, list[tuple[int, float, float, float]]]:
    """For each method: width, and mean, least and greatest held-out error barrier of pairs, unrepaired."""
    drawn: dict[str, list[tuple[int, float, float, float]]] = {}
    for width in WIDTHS:
        several = found[f"mnist-mlp-{width}"]
        for method in (NAIVE, *METHODS):
            heights = [
                line.barrier("error", "test").height
                for one in several
                if (line := one.line(method, "none")) is not None
            ]
            if heights:
                point = (width, fmean(heights), min(heights), max(heights))
                drawn.setdefault(spoken(method), []).append(point)
    return drawn


def _best(found: dict[str, list[Comparison]]) -> dict[str, dict[str, float]]:
    """For each family and method, the mean held-out error barrier under the best repair."""
    best: dict[str, dict[str, float]] = {}
    for entry in ENTRIES:
        for method in (NAIVE, *METHODS):
            heights = [
                fmean(line.barrier("error", "test").height for line in lines)
                for repair in REPAIRS
                if (lines := [x for one in found[entry.name] if (x := one.line(method, repair)) is not None])
            ]
            if heights:
                best.setdefault(entry.name, {})[spoken(method)] = min(heights)
    return best


def _plain(one: Comparison) -> dict[str, object]:
    """The numbers of one pair, without those of single examples."""
    return {
        "methods": [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in vars(m).items()}
            for m in one.methods
        ],
        "lines": [
            {
                "method": line.method,
                "repair": line.repair,
                "barriers": [vars(b) for b in line.barriers],
                "midpoint": [vars(s) for s in line.midpoint],
                "seconds": line.seconds,
            }
            for line in one.lines
        ],
    }

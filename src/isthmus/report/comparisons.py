"""Methods of matching side by side, as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from isthmus.barriers import Barrier
from isthmus.experiments.comparison import NAIVE, ComparedLine, Comparison
from isthmus.report.formats import (
    interval,
    loss_interval,
    percent,
    percent_interval,
    plain_loss,
    quantity,
    significant,
    split_name,
)
from isthmus.report.tables import Cell, Column, Table
from isthmus.scores import Score

_NOTHING = "—"


def method_rows(comparison: Comparison) -> Table:
    """What each method of matching reached and cost; objectives of different methods do not compare."""
    columns = (
        Column("matching", "name"), Column("its objective"), Column("⟨A, π(B)⟩"), Column("‖A − π(B)‖"),
        Column("seconds"), Column("processor s"),
    )  # fmt: skip
    rows = [
        (
            Cell(spoken(found.method)),
            Cell(_NOTHING if math.isnan(found.objective) else significant(found.objective, 4)),
            Cell(significant(found.inner_product, 4)), Cell(significant(found.distance, 4)),
            Cell(_seconds(found.seconds, found.method)), Cell(_seconds(found.cpu_seconds, found.method)),
        )
        for found in comparison.methods
    ]  # fmt: skip
    return Table("What each matching reached", columns, tuple(rows))


def line_rows(lines: Sequence[ComparedLine]) -> Table:
    """The line to each result under each repair: barriers and midpoints, held-out and train."""
    columns = (
        Column("matching", "name"), Column("data", "name"), Column("error barrier", "measure"),
        Column("loss barrier", "measure"), Column("midpoint error", "measure"),
    )  # fmt: skip
    rows = [
        (
            Cell(spoken(line.method), f"repair: {line.repair}") if split == "test" else Cell(""),
            Cell(split_name(split)),
            *(barrier_cell(line.barrier(of, split)) for of in ("error", "loss")),
            error_cell(line.score(split)),
        )
        for line in lines for split in ("test", "train")
    ]  # fmt: skip
    return Table("Lines from A to π(B): barriers above the mean of the ends", columns, tuple(rows))


def spoken(method: str) -> str:
    """A method's name in a table."""
    return "none (naive)" if method == NAIVE else method


def barrier_cell(barrier: Barrier) -> Cell:
    """A barrier with its interval."""
    return Cell(quantity(barrier.of, barrier.height), interval(barrier.of, barrier.low, barrier.high))


def error_cell(score: Score) -> Cell:
    """An error rate with its interval."""
    return Cell(percent(score.error), percent_interval(score.error_low, score.error_high))


def loss_cell(score: Score) -> Cell:
    """A loss with its interval."""
    return Cell(plain_loss(score.loss), loss_interval(score.loss_low, score.loss_high))


def comparison_names(comparison: Comparison) -> list[str]:
    """One name a line, for figures."""
    return [f"{spoken(line.method)}, repair: {line.repair}" for line in comparison.lines]


def _seconds(value: float, method: str) -> str:
    return _NOTHING if method == NAIVE else significant(value, 3)

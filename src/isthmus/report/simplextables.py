"""A region of low loss as tables, for the page and the terminal alike."""

from __future__ import annotations

from isthmus.ensembles import AVERAGE, BEST, ENSEMBLE, SINGLE
from isthmus.experiments.simplexrecords import SimplexStudy
from isthmus.report.formats import (
    count,
    interval,
    loss_interval,
    percent,
    percent_interval,
    plain_loss,
    significant,
    split_name,
)
from isthmus.report.tables import Cell, Column, Table

_SPLITS = ("test", "train")


def inside_rows(study: SimplexStudy) -> Table:
    """The points inside the whole region beside the given networks."""
    columns = (
        Column("data", "name"), Column("loss", "measure"), Column("highest"), Column("error", "measure"),
        Column("highest"), Column("above the given", "measure"),
    )  # fmt: skip
    rows = []
    for split in _SPLITS:
        inside = study.stages[-1].on(split)
        s = inside.score
        rows.append((
            Cell(split_name(split)),
            Cell(plain_loss(s.loss), loss_interval(s.loss_low, s.loss_high)),
            Cell(plain_loss(float(inside.loss.max()))),
            Cell(percent(s.error), percent_interval(s.error_low, s.error_high)),
            Cell(percent(float(inside.error.max()))),
            Cell(percent(inside.gap), percent_interval(inside.gap_low, inside.gap_high)),
        ))  # fmt: skip
    points = count(len(study.stages[-1].inside[0].loss))
    return Table(
        f"An average point inside, the highest of {points}, and its error above that of the given networks",
        columns,
        tuple(rows),
    )


def stage_rows(study: SimplexStudy) -> Table:
    """Each stage of the growth: geometry, and how high it is inside."""
    columns = (
        Column("dim.", "name"), Column("log V"), Column("regular"), Column("height"), Column("edge"),
        Column("loss, train"), Column("error, held-out", "measure"),
    )  # fmt: skip
    rows = tuple(
        (
            Cell(str(stage.dimension)), Cell(significant(stage.log_volume, 3)),
            Cell(significant(stage.normalised_volume, 3)), Cell(significant(stage.height, 3)),
            Cell(significant(stage.edge, 3)), Cell(plain_loss(stage.on("train").score.loss)),
            Cell(
                percent(stage.on("test").score.error),
                percent_interval(stage.on("test").score.error_low, stage.on("test").score.error_high),
            ),
        )
        for stage in study.stages
    )  # fmt: skip
    return Table("The growth, vertex by vertex: geometry, and an average point inside", columns, rows)


def ensemble_rows(study: SimplexStudy) -> Table:
    """Predictions averaged over points inside, beside what they are to be compared with."""
    columns = (
        Column("averaged", "name"), Column("data", "text"), Column("members"), Column("loss", "measure"),
        Column("error", "measure"), Column("calibration error", "measure"),
    )  # fmt: skip
    rows = []
    for name, found in study.ensembles.items():
        for predictor in (ENSEMBLE, BEST, SINGLE, AVERAGE):
            for split in _SPLITS:
                quality = found.quality(predictor, split)
                loss, error, spread = quality.loss, quality.error, quality.calibration
                told = f"{name}: {predictor}"
                rows.append((
                    Cell(told if split == _SPLITS[0] else ""), Cell(split_name(split)),
                    Cell(count(len(found.names)) if predictor == ENSEMBLE else ""),
                    Cell(plain_loss(loss.value), loss_interval(loss.low, loss.high)),
                    Cell(percent(error.value), percent_interval(error.low, error.high)),
                    Cell(percent(spread.value), percent_interval(spread.low, spread.high))
                    if spread else Cell("—"),
                ))  # fmt: skip
    return Table("Predictions averaged, against single points and the weight average", columns, tuple(rows))


def route_rows(study: SimplexStudy) -> Table:
    """The straight lines, and the routes through the complex."""
    columns = (
        Column("path", "name"), Column("error barrier, held-out", "measure"),
        Column("loss barrier, held-out", "measure"), Column("loss barrier, train", "measure"),
        Column("length"),
    )  # fmt: skip
    rows = []
    for path in study.paths:
        found = [path.barrier("error", "test"), path.barrier("loss", "test"), path.barrier("loss", "train")]
        cells = [
            Cell(
                percent(b.height) if b.of == "error" else plain_loss(b.height), interval(b.of, b.low, b.high)
            )
            for b in found
        ]
        rows.append((Cell(path.name), *cells, Cell(significant(path.length, 4))))
    return Table("Barriers above the mean of the ends", columns, tuple(rows))

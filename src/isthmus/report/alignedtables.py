"""Tables of curves before and after alignment, and how their quantities are written."""

from __future__ import annotations

import math
from collections.abc import Sequence

from isthmus.experiments.alignedrecords import (
    LINE_ERROR,
    LINE_LOSS,
    MAXIMUM,
    MEAN,
    MINIMUM,
    RATIO,
    STEPS,
    STEPS_TO_END,
    CurveComparison,
    CurvePair,
    Extreme,
    Treated,
)
from isthmus.experiments.pairing import Contrast, Mean
from isthmus.report.alignedfigures import SIDES
from isthmus.report.formats import (
    count,
    coverage,
    loss_interval,
    percent,
    percent_interval,
    plain_loss,
    ratio,
    significant,
    split_name,
)
from isthmus.report.tables import Cell, Column, Table

_MULTIPLES = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


def contrast_rows(study: CurveComparison, brief: bool = False) -> Table:
    """Unaligned against aligned, over the pairs.

    Args:
        study: the comparison.
        brief: without the intervals of either side, for a terminal of 80 columns.
    """
    columns = (
        Column("quantity", "name"), Column("data", "text"), Column("unaligned", "measure"),
        Column("aligned", "measure"), Column("difference", "measure"), Column("better in"),
    )  # fmt: skip
    rows = [
        (
            Cell(quantity_name(each.name, study.multiple)), Cell(split_name(each.split) or "—"),
            _mean_cell(each, each.before_mean, each.before, brief),
            _mean_cell(each, each.after_mean, each.after, brief),
            Cell(
                contrast_value(each, each.difference.value, signed=True),
                contrast_interval(each, each.difference),
            ),
            Cell(f"{each.improved} of {len(each.before)}"),
        )
        for each in study.contrasts
    ]  # fmt: skip
    first = study.contrasts[0]
    level = f"{coverage(first.difference.level)} Student intervals"
    caption = f"Unaligned against aligned: means over {number_of_pairs(len(first.before))}, {level}"
    if study.shared:
        caption += " (pairs that share a network are not independent)"
    return Table(caption, columns, tuple(rows))


def pair_rows(study: CurveComparison) -> Table:
    """Every pair, each side on a row of its own, with intervals from the examples."""
    columns = (
        Column("pair", "name"), Column("curve", "text"), Column("length"), Column("length / straight"),
        Column("maximum loss, held-out", "measure"), Column("maximum loss, train", "measure"),
        Column("minimum accuracy, held-out", "measure"), Column("minimum accuracy, train", "measure"),
        Column("steps to the level"),
    )  # fmt: skip
    rows = [_pair_row(pair, side, study.multiple) for pair in study.pairs for side in SIDES]
    return Table("Every pair, with intervals from the examples", columns, tuple(rows))


def step_rows(study: CurveComparison) -> Table:
    """Steps to several levels: the mean over the pairs where all reached it, else how many did."""
    columns = (Column("training loss, at most", "name"), Column("unaligned"), Column("aligned"))
    rows = []
    for multiple in sorted({*_MULTIPLES, study.multiple}):
        cells = []
        for side in SIDES:
            steps = [_side(p, side).watch.steps_to(multiple * _higher_end(p)) for p in study.pairs]
            missed = sum(map(math.isinf, steps))
            mean = sum(steps) / len(steps)
            cells.append(
                Cell(f"reached in {len(steps) - missed} of {len(steps)}" if missed else f"{mean:,.0f}")
            )
        rows.append((Cell(f"{multiple:g} × the higher end's"), *cells))
    return Table("Gradient steps until the whole curve is at or below a level", columns, tuple(rows))


def contrast_value(each: Contrast, value: float, signed: bool = False) -> str:
    """A value of a quantity, or a difference with its sign."""
    if not math.isfinite(value):
        return "—"
    sign = "+" if signed and value > 0 else ""
    if each.name in (MINIMUM, LINE_ERROR):
        return sign + percent(value)
    if each.name in (MAXIMUM, MEAN, LINE_LOSS):
        return sign + plain_loss(value)
    if _counts(each):
        return sign + f"{value:,.0f}".replace("-", "−")
    return sign + (f"{value:.3f}".replace("-", "−") if each.name == RATIO else significant(value, 4))


def contrast_interval(each: Contrast, mean: Mean) -> str:
    """The interval of a mean; empty where there is none."""
    if not math.isfinite(mean.low):
        return ""
    if each.name in (MINIMUM, LINE_ERROR):
        return percent_interval(mean.low, mean.high)
    return f"[{contrast_value(each, mean.low)}, {contrast_value(each, mean.high)}]"


def improved(each: Contrast) -> str:
    """In how many pairs alignment helped, in words."""
    return f"better in {each.improved} of {len(each.before)}"


def reached(values: Sequence[float]) -> int:
    """In how many pairs it happened."""
    return sum(map(math.isfinite, values))


def number_of_pairs(number: int) -> str:
    """How many pairs, in words."""
    return f"{number} pair{'s' * (number != 1)}"


def quantity_name(name: str, multiple: float) -> str:
    """A quantity's name, with its level."""
    return f"{name} ({multiple:g} × the higher end)" if name == STEPS else name


def _pair_row(pair: CurvePair, side: str, multiple: float) -> tuple[Cell, ...]:
    treated = _side(pair, side)
    steps = treated.watch.steps_to(multiple * _higher_end(pair))
    reached = Cell(count(int(steps)) if math.isfinite(steps) else "not reached")
    title = Cell(pair.name if side == SIDES[0] else "")
    curve = treated.curve
    if curve is None:
        return (title, Cell(side), *(Cell("diverged" if k == 0 else "—") for k in range(6)), reached)
    extremes = (
        *(_loss_cell(curve.on(split).maximum_loss) for split in ("test", "train")),
        *(_accuracy_cell(curve.on(split).minimum_accuracy) for split in ("test", "train")),
    )
    return (
        title, Cell(side), Cell(significant(curve.length, 4)),
        Cell(ratio(curve.length, curve.endpoint_distance)), *extremes, reached,
    )  # fmt: skip


def _mean_cell(each: Contrast, mean: Mean, values: Sequence[float], brief: bool) -> Cell:
    if any(map(math.isinf, values)) and _counts(each):
        return Cell(f"reached in {reached(values)} of {len(values)}")
    return Cell(contrast_value(each, mean.value), "" if brief else contrast_interval(each, mean))


def _loss_cell(found: Extreme) -> Cell:
    return Cell(plain_loss(found.value), loss_interval(found.low, found.high))


def _accuracy_cell(found: Extreme) -> Cell:
    return Cell(percent(found.value), percent_interval(found.low, found.high))


def _counts(each: Contrast) -> bool:
    return each.name in (STEPS, STEPS_TO_END)


def _side(pair: CurvePair, side: str) -> Treated:
    return pair.aligned if side == SIDES[1] else pair.unaligned


def _higher_end(pair: CurvePair) -> float:
    return max(pair.unaligned.watch.ends, pair.aligned.watch.ends)

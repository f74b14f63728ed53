"""The records as tables in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import fsum
from statistics import fmean

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from isthmus.barriers import Barrier, Verdict
from isthmus.experiments.comparison import ComparedLine, Comparison
from isthmus.experiments.records import Matching, PairStudy
from isthmus.report import sentences
from isthmus.report.comparisons import line_rows, method_rows
from isthmus.report.formats import count, percent, significant
from isthmus.report.grouping import AxisLine, axis_lines, braced, cut, pinned_lines, symmetry_lines
from isthmus.report.tables import (
    Cell,
    Column,
    Table,
    barrier_rows,
    score_rows,
    study_rows,
)
from isthmus.scores import Score
from isthmus.symmetry import Symmetry, Verification

_LINES, _PLACES = 20, 3
_NOTHING = "—"
_STYLES = {Verdict.CONNECTED: "green", Verdict.BARRIER: "red", Verdict.UNDECIDED: "yellow"}


def study_table(study: PairStudy) -> RichTable:
    """Every path of a pair: verdict, barriers with intervals, train and held-out, and length."""
    return drawn(study_rows(study))


def score_table(
    scored: Sequence[tuple[str, tuple[Score, ...]]], caption: str = "Loss and error"
) -> RichTable:
    """Loss, error and accuracy of named networks, one row for each network and split."""
    return drawn(score_rows(scored, caption))


def barrier_table(
    barriers: Sequence[Barrier], tolerance: float = 0.02, names: Sequence[str] | None = None
) -> RichTable:
    """Barriers one by one; `names` are of their paths, the paths' kinds by default."""
    return drawn(barrier_rows(barriers, tolerance, names))


def matching_table(matching: Matching) -> RichTable:
    """What was matched, axis by axis, with what it gained as a whole below.

    The gain of an axis is that of the inner product of A's and B's slices at its units, and the cosine is
    that inner product over the product of their norms. Slices lie along several axes: the gains overlap.
    """
    rows = [
        AxisLine(axis.name, axis.size, axis.free, 0, axis.places, (number,))
        for number, axis in enumerate(matching.axes)
    ]
    lines = axis_lines(rows)

    def told(line: AxisLine) -> tuple[str, str, str]:
        axes = [matching.axes[number] for number in line.members]
        before, after, most = (
            fsum(getattr(axis, field) for axis in axes) for field in ("before", "after", "most")
        )
        cosines = f"{before / most:.2f} → {after / most:.2f}" if most > 0 else _NOTHING
        gain = significant(after - before, 3) if most > 0 else _NOTHING
        return percent(fmean(axis.moved for axis in axes)), gain, cosines

    shown = _axis_table(lines, ("moved", "gain", "cosine"), told)
    shown.caption = Text(sentences.matching_sentence(matching) + _more(len(lines), "kinds of axes"))
    return shown


def symmetry_table(symmetry: Symmetry) -> RichTable:
    """The hidden axes of a network, with the size of their group below."""
    lines = symmetry_lines(symmetry)
    shown = _axis_table(lines, ("fixed",), lambda line: (count(line.fixed),))
    shown.caption = Text(sentences.symmetry_sentence(symmetry) + _more(len(lines), "kinds of axes"))
    return shown


def pinned_table(symmetry: Symmetry) -> RichTable:
    """What may not move and why, one row a reason; the reason that holds the most parameters comes first."""
    lines = pinned_lines(symmetry)
    columns = (
        Column("parameters"), Column("immovable"), Column("axes"), Column("why, and where", "text"),
    )  # fmt: skip
    rows = tuple(
        (
            Cell(count(line.parameters)), Cell(count(line.immovable)), Cell(count(line.axes)),
            Cell(line.reason, cut(braced(line.places), _PLACES)),
        )
        for line in lines[:_LINES]
    )  # fmt: skip
    shown = drawn(Table("Pinned, by reason", columns, rows))
    told = (
        "parameters: of the tensors that are pinned along such an axis; immovable: of those that cannot move "
        "along any other axis either."
    )
    shown.caption = Text(told + _more(len(lines), "reasons"))
    return shown


def control_table(proof: Verification) -> RichTable:
    """The controls of a numerical proof: each should change the outputs by far more than is allowed."""
    columns = (Column("axis moved, and what was left as it was", "text"), Column("change", "number"))
    rows = tuple(
        (Cell(found.axis, found.parameter or "nothing: it lies in one tensor"), Cell(f"{found.error:.1e}"))
        for found in proof.controls
    )
    return drawn(Table("Controls: one axis moved, one of its tensors left out", columns, rows))


def comparison_tables(comparison: Comparison) -> tuple[RichTable, RichTable]:
    """Methods of matching side by side: what each reached and cost, and the lines under each repair."""
    methods, lines = drawn(method_rows(comparison)), compared_table(comparison.lines)
    methods.caption = Text("Objectives of different methods are in different units: judge them by barriers.")
    return methods, lines


def compared_table(lines: Sequence[ComparedLine]) -> RichTable:
    """Lines to aligned networks under a repair: barriers and midpoints."""
    return drawn(line_rows(lines))


def _axis_table(
    lines: Sequence[AxisLine], last: Sequence[str], values: Callable[[AxisLine], Sequence[str]]
) -> RichTable:
    """One row an axis, or a pattern of axes with how many they are; `values` fills the columns `last`."""
    several = any(len(line.members) > 1 for line in lines)
    many = (Column("×"),) if several else ()
    columns = (
        Column("axis, and what carries it", "text"), *many, Column("units"), Column("free"),
        *map(Column, last),
    )  # fmt: skip
    rows = tuple(
        (
            Cell(line.name, cut([place for place in braced(line.places) if place != line.name], _PLACES)),
            *([Cell(count(len(line.members)))] if several else []), Cell(count(line.size)),
            Cell(count(line.free)), *map(Cell, values(line)),
        )
        for line in lines[:_LINES]
    )  # fmt: skip
    return drawn(Table("Hidden axes", columns, rows))


def _more(number: int, what: str) -> str:
    """What a list that was cut leaves out, and how to see it."""
    return f" {number - _LINES} further {what} are not shown: --json prints all." if number > _LINES else ""


def drawn(table: Table) -> RichTable:
    """A table as the terminal shows it."""
    shown = RichTable(
        title=table.caption, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, caption_justify="left",
    )  # fmt: skip
    for column in table.columns:
        right = column.kind in ("number", "measure")
        shown.add_column(
            Text(column.name),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=column.kind not in ("text", "name") or column.name == "data",
        )
    for row in table.rows:
        shown.add_row(*(_styled(cell) for cell in row))
    return shown


def _styled(cell: Cell) -> Text:
    """A cell as text that no markup in a name can change; an interval stands under its value."""
    text = Text(cell.text, style=_STYLES[cell.verdict] if cell.verdict else "")
    return text.append(f"\n{cell.detail}", style="dim") if cell.detail else text

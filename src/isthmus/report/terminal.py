"""The records as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from isthmus.barriers import Barrier, Verdict
from isthmus.experiments.records import Matching, PairStudy
from isthmus.report import sentences
from isthmus.report.formats import coverage, group_size
from isthmus.report.tables import (
    Cell,
    Column,
    Table,
    axis_rows,
    barrier_rows,
    score_rows,
    study_rows,
)
from isthmus.scores import Score
from isthmus.symmetry import Symmetry

_STYLES = {Verdict.CONNECTED: "green", Verdict.BARRIER: "red", Verdict.UNDECIDED: "yellow"}


def study_table(study: PairStudy) -> RichTable:
    """Every path of a pair: verdict, barriers with intervals, train and held-out, and length."""
    return _drawn(study_rows(study))


def score_table(
    scored: Sequence[tuple[str, tuple[Score, ...]]], caption: str = "Loss and error"
) -> RichTable:
    """Loss, error and accuracy of named networks, one row for each network and split."""
    return _drawn(score_rows(scored, caption))


def barrier_table(
    barriers: Sequence[Barrier], tolerance: float = 0.02, names: Sequence[str] | None = None
) -> RichTable:
    """Barriers one by one; `names` are of their paths, the paths' kinds by default."""
    return _drawn(barrier_rows(barriers, tolerance, names))


def matching_table(matching: Matching) -> RichTable:
    """What was matched, axis by axis, with what it gained below."""
    drawn = _drawn(axis_rows(matching))
    drawn.caption = Text(sentences.matching_sentence(matching))
    return drawn


def symmetry_table(symmetry: Symmetry) -> RichTable:
    """The hidden axes of a network, with the size of their group below."""
    names = ("axis", "units", "free", "fixed", "carried by")
    columns = tuple(
        Column(name, "text" if name == "carried by" else "name" if name == "axis" else "number")
        for name in names
    )
    rows = tuple(tuple(Cell(row[name]) for name in names) for row in symmetry.table())
    drawn = _drawn(Table("Hidden axes", columns, rows))
    drawn.caption = Text(
        f"{group_size(symmetry.log2_order)} group elements; {coverage(symmetry.coverage)} of the parameters "
        f"lie in tensors that can move; pinned in {len(symmetry.pinned)} places"
    )
    return drawn


def verdict_sentence(study: PairStudy, split: str = "test") -> str:
    """Which paths join A and B at the tolerance: see `sentences.verdict_sentence`."""
    return sentences.verdict_sentence(study, split)


def _drawn(table: Table) -> RichTable:
    drawn = RichTable(
        title=table.caption, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, caption_justify="left",
    )  # fmt: skip
    for column in table.columns:
        right = column.kind in ("number", "measure")
        drawn.add_column(
            Text(column.name),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=column.kind != "text",
        )
    for row in table.rows:
        drawn.add_row(*(_styled(cell) for cell in row))
    return drawn


def _styled(cell: Cell) -> Text:
    """A cell as text that no markup in a name can change; an interval stands under its value."""
    text = Text(cell.text, style=_STYLES[cell.verdict] if cell.verdict else "")
    return text.append(f"\n{cell.detail}", style="dim") if cell.detail else text

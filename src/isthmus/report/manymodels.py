"""Many aligned models as tables in the terminal."""

from __future__ import annotations

from rich.table import Table as RichTable
from rich.text import Text

from isthmus.experiments.manymodels import ManyStudy, PairRow
from isthmus.report.formats import percent, plain_loss, significant
from isthmus.report.tables import Cell, Column, Table
from isthmus.report.terminal import drawn, score_table

_PAIRS = 15


def models_table(study: ManyStudy) -> RichTable:
    """Loss and error of every model and of both means, with intervals, train and held-out."""
    rows = [(each.name, each.scores) for each in study.ingredients]
    rows += [("naive mean", study.unaligned), ("aligned mean", study.merged)]
    table = score_table(rows, "The models, and their mean")
    table.caption = Text(verdict_sentence(study))
    return table


def pairs_table(study: ManyStudy) -> RichTable:
    """The inner product of every two models before and after, those that are least alike first."""
    columns = (
        Column("models", "text"), Column("before"), Column("after"), Column("cosine before"),
        Column("cosine after"),
    )  # fmt: skip
    shown = sorted(study.pairs, key=lambda pair: _cosine(pair, pair.after))[:_PAIRS]
    rows = tuple(
        (
            Cell(f"{pair.first} and {pair.second}"), Cell(significant(pair.before, 4)),
            Cell(significant(pair.after, 4)), Cell(f"{_cosine(pair, pair.before):.3f}"),
            Cell(f"{_cosine(pair, pair.after):.3f}"),
        )
        for pair in shown
    )  # fmt: skip
    found = drawn(Table("Inner products of the weights, pair by pair", columns, rows))
    hidden = len(study.pairs) - len(shown)
    more = f" {hidden} more pairs, which are more alike, are not shown: --json prints all." if hidden else ""
    found.caption = Text(
        f"All pairs together: {significant(study.objective_before, 4)} before, "
        f"{significant(study.objective, 4)} after, by {study.method} in {study.seconds:.1f} s: "
        f"{study.outcome}.{more}"
    )
    return found


def verdict_sentence(study: ManyStudy) -> str:
    """Whether the merged model is better than what it is made of, on held-out data."""
    merged = next(score for score in study.merged if score.split == "test")
    each = [score for one in study.ingredients for score in one.scores if score.split == "test"]
    losses, errors = [score.loss for score in each], [score.error for score in each]
    below = sum(merged.loss < loss for loss in losses)
    return (
        f"On held-out data the mean of the aligned models has loss {plain_loss(merged.loss)}, below "
        f"{'every one' if below == len(losses) else f'{below}'} of the {len(losses)} models "
        f"({plain_loss(min(losses))} to {plain_loss(max(losses))}), and error {percent(merged.error)} "
        f"({percent(min(errors))} to {percent(max(errors))})."
    )


def _cosine(pair: PairRow, product: float) -> float:
    return product / pair.most if pair.most else 0.0

"""The page of a study of levels: how long the way between two networks is at each level of the loss."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import plotly.graph_objects as go

from isthmus.experiments.levels import LevelRow, LevelStudy
from isthmus.report.drawing import NamedFigure
from isthmus.report.formats import count, percent, significant, tolerance
from isthmus.report.pages import Card, Page
from isthmus.report.panels import GREY, Panel, axis, compose, log_axis
from isthmus.report.sections import Drawing, Figures, Grid, Section, Terms, Text
from isthmus.report.tables import Cell, Column, Table, end_rows, provenance_rows

_LINE, _MISSED = "#0072B2", "#D55E00"
_CAVEAT = (
    "Between the tested positions the loss may be higher. That no path was found proves nothing: another "
    "search may find one."
)
_STOPPED = {
    "": "connected",
    "depth": "not found: still above at the full depth",
    "steps": "not found: a bead did not get down to the level",
    "divergence": "diverged: a smaller rate may help",
}
_SHORT = {"": "✓ found", "depth": "✗ at full depth", "steps": "✗ bead stuck", "divergence": "✗ diverged"}


def levels_page(study: LevelStudy, prefix: str = "") -> Page:
    """Length against level: the verdict at every level, the figure, and what each search cost."""
    sections = [
        Section("networks", "The two networks", (*_note(study), Grid(end_rows(study.ends)))),
        Section("levels", "Length against level", _levels_blocks(study, prefix)),
        Section("reading", "How to read this", (Terms(_terms(study)),)),
        Section("provenance", "Provenance", (Grid(provenance_rows(study.ends, study.provenance)),)),
    ]
    return Page(
        title=study.task,
        headline=_headline(study),
        sentence=levels_sentence(study),
        aside=_CAVEAT,
        cards_title="Length of the path over the straight distance, at each level",
        cards=tuple(_card(study, row) for row in study.rows),
        sections=tuple(Section(prefix + each.name, each.title, each.blocks) for each in sections),
        figures=partial(levels_figures, study),
        tables=(level_rows(study),),
    )


def level_rows(study: LevelStudy) -> Table:
    """One row a level: how the search ended, how long the chain is, how high, and what it cost."""
    columns = (
        Column("level"), Column("path", "text"), Column("length"), Column("beads"), Column("depth"),
        Column("highest, train"), Column("held-out"), Column("steps"),
    )  # fmt: skip
    rows = tuple(
        (
            Cell(_told(study, row.level)), Cell(_SHORT[row.stopped_by]), Cell(_ratio(row)),
            Cell(count(row.beads)), Cell(count(row.depth)),
            Cell(_told(study, getattr(row.highest, study.of))),
            Cell(_told(study, getattr(row.held_out, study.of))), Cell(count(row.steps)),
        )
        for row in study.rows
    )  # fmt: skip
    caption = f"Paths below levels of the training {study.of}; length over the straight distance"
    return Table(caption, columns, rows)


def levels_sentence(study: LevelStudy) -> str:
    """At which levels a path was found, with its length and what it was tested on."""
    found = [row for row in study.rows if row.connected]
    missed = [row for row in study.rows if not row.connected]
    ends = " and ".join(_told(study, value) for value in study.at_ends)
    clauses = []
    if found:
        low = found[-1]
        clauses.append(
            f"A path below a training {study.of} of {_told(study, low.level)} was found, "
            f"{_ratio(low)} times as long as the straight line, with {_beads(low)}: none of "
            f"{count(low.highest.points)} positions tested on {count(low.highest.examples)} examples exceeds "
            f"the level by more than {tolerance(study.tolerance)}"
        )
    if missed:
        told = ", ".join(_told(study, row.level) for row in missed)
        clauses.append(f"{'no' if found else 'No'} path was found at {told}")
    top = _told(study, getattr(study.line, study.of))
    return f"{'; '.join(clauses)}. The ends have {ends}; the straight line rises to {top}."


def levels_figures(study: LevelStudy) -> tuple[NamedFigure, ...]:
    """The figures of a study of levels."""
    return (NamedFigure("length-against-level", levels_figure(study), 820),)


def levels_figure(study: LevelStudy, *, height: int = 400, controls: bool = True) -> go.Figure:
    """Normalised length, and the number of beads, against the level.

    A level without a path is a cross on the bottom of the panel. Dashed lines mark the worse end's value and
    the highest of the straight line: between the two lies what there is to ask.

    Args:
        study: of levels.
        height: in pixels.
        controls: not used here.
    """
    return compose([_lengths(study), _counts(study)], height=height, controls=False, gap=0.13)


def _lengths(study: LevelStudy) -> Panel:
    """Normalised length against the level."""
    most = max([1.02, *(row.ratio for row in study.rows if row.connected)])
    floor = 1 - 0.08 * (most - 1)
    return Panel(
        _marks(study, "ratio", floor),
        _across(study),
        axis("length / straight distance", range=[floor, 1 + 1.15 * (most - 1)]),
        _uprights(study),
        _notes(study),
    )


def _counts(study: LevelStudy) -> Panel:
    """The number of beads against the level."""
    beads = max([2, *(row.beads for row in study.rows if row.connected)])
    ground = -0.08 * beads
    return Panel(
        _marks(study, "beads", ground),
        _across(study),
        axis("beads", range=[ground, 1.15 * beads], dtick=max(1, round(beads / 5))),
        _uprights(study),
    )


def _marks(study: LevelStudy, of: str, floor: float) -> tuple[Any, ...]:
    """The levels with a path, joined, and those without."""
    scale = _scale(study)
    found = [row for row in study.rows if row.connected]
    missed = [row for row in study.rows if not row.connected]
    line = go.Scatter(
        x=[scale * row.level for row in found], y=[getattr(row, of) for row in found],
        mode="lines+markers", name="a path below the level", cliponaxis=False,
        line={"color": _LINE, "width": 2}, marker={"symbol": "circle", "size": 9, "color": _LINE},
        hoverinfo="text", hovertext=[_hover(study, row) for row in found],
    )  # fmt: skip
    crosses = go.Scatter(
        x=[scale * row.level for row in missed], y=[floor] * len(missed), mode="markers",
        name="none found", cliponaxis=False, hoverinfo="text",
        marker={"symbol": "x-thin", "size": 12, "line": {"color": _MISSED, "width": 2.5}},
        hovertext=[_hover(study, row) for row in missed],
    )  # fmt: skip
    return (line, crosses) if missed else (line,)


def _scale(study: LevelStudy) -> float:
    """Errors are drawn in per cent."""
    return 100.0 if study.of == "error" else 1.0


def _landmarks(study: LevelStudy) -> tuple[tuple[str, float, str, int], ...]:
    """What the levels lie between: name, place, and on which side of its line the name stands."""
    named = (
        ("the worse end", _scale(study) * max(study.at_ends), "left", 4),
        ("the straight line", _scale(study) * getattr(study.line, study.of), "right", -4),
    )
    return tuple(mark for mark in named if mark[1] > 0 or not _logarithmic(study))


def _logarithmic(study: LevelStudy) -> bool:
    """Whether the levels are drawn on a logarithmic axis: where all are above zero."""
    return all(row.level > 0 for row in study.rows)


def _across(study: LevelStudy) -> dict[str, Any]:
    """The axis of levels."""
    title = f"level of the training {study.of}" + (" (%)" if study.of == "error" else "")
    shown = [_scale(study) * row.level for row in study.rows]
    shown += [place for _, place, _, _ in _landmarks(study)]
    low, high = min(shown), max(shown)
    if _logarithmic(study):
        return axis(title, **log_axis(low / 1.3, high * 1.3))
    pad = 0.05 * (high - low) or 1.0
    return axis(title, range=[low - pad, high + pad])


def _uprights(study: LevelStudy) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "type": "line", "xref": "x", "yref": "y domain", "x0": x, "x1": x, "y0": 0, "y1": 1,
            "layer": "below", "line": {"color": GREY, "width": 1, "dash": "4px,3px"},
        }
        for _, x, _, _ in _landmarks(study)
    )  # fmt: skip


def _notes(study: LevelStudy) -> tuple[dict[str, Any], ...]:
    """What the dashed lines are; on a logarithmic axis a note's place is the exponent."""
    return tuple(
        {
            "xref": "x", "yref": "y domain", "x": math.log10(x) if _logarithmic(study) else x, "y": 1,
            "xanchor": side, "yanchor": "top", "xshift": shift, "text": text, "showarrow": False,
            "opacity": 0.8, "font": {"size": 11},
        }
        for text, x, side, shift in _landmarks(study)
    )  # fmt: skip


def _hover(study: LevelStudy, row: LevelRow) -> str:
    highest = _told(study, getattr(row.highest, study.of))
    return (
        f"<b>level {_told(study, row.level)}</b><br>{_STOPPED[row.stopped_by]}<br>"
        f"length {significant(row.length, 4)}, {row.ratio:.3f} times the straight line<br>"
        f"{_beads(row)}, depth {row.depth}, {count(row.steps)} steps<br>"
        f"highest {study.of} on train {highest}"
    )


def _levels_blocks(study: LevelStudy, prefix: str) -> tuple[Text | Grid | Figures | Terms, ...]:
    crosses = " Crosses: no path was found." if any(not row.connected for row in study.rows) else ""
    told = (
        ("length-against-level", _lengths(study), "Length of the path over the straight distance."),
        ("beads-against-level", _counts(study), "Beads of the path."),
    )
    drawings = tuple(
        Drawing(
            prefix + name, compose([panel], height=340, controls=False),
            f"{caption[:-1]}, against the level; the figures are in the table.", caption + crosses,
        )
        for name, panel, caption in told
    )  # fmt: skip
    return (Figures(drawings), Grid(level_rows(study)))


def _note(study: LevelStudy) -> tuple[Text, ...]:
    return (Text(study.note),) if study.note else ()


def _card(study: LevelStudy, row: LevelRow) -> Card:
    name = f"{study.of} {_told(study, row.level)}"
    if row.connected:
        return Card(name, _ratio(row), _beads(row), "✓ path found", "connected")
    return Card(name, "—", _STOPPED[row.stopped_by].partition(": ")[2], "✗ none found", "undecided")


def _headline(study: LevelStudy) -> str:
    found = [row for row in study.rows if row.connected]
    if not found:
        return f"No path was found at any of {len(study.rows)} levels of the {study.of}"
    low = found[-1]
    if not low.beads:
        return f"Connected by the straight line down to a training {study.of} of {_told(study, low.level)}"
    return (
        f"Connected at a training {study.of} of {_told(study, low.level)}, by a path "
        f"{_ratio(low)} times as long as the straight line"
    )


def _told(study: LevelStudy, value: float) -> str:
    """A level, or what is compared with it: levels run over decades, so digits and not decimals count."""
    if study.of == "error":
        return percent(value)
    return f"{value:.3g}".replace("-", "−") if 1e-4 <= abs(value) < 1e3 else significant(value, 3)


def _ratio(row: LevelRow) -> str:
    """The normalised length, where there is a path."""
    return f"{row.ratio:.3f}" if row.connected else "—"


def _beads(row: LevelRow) -> str:
    return f"{count(row.beads)} bead{'s' * (row.beads != 1)}"


def _terms(study: LevelStudy) -> tuple[tuple[str, str], ...]:
    worse = _told(study, max(study.at_ends))
    return (
        (
            "Level",
            f"The training {study.of} that a path may not exceed. The search asks at each level by itself "
            f"whether the two networks can be joined below it; the worse of the two has {worse} itself.",
        ),
        (
            "Dynamic string sampling",
            "The path begins as the straight line. Where a piece of it rises above the level, a bead is put "
            "at its highest point and trained down to just below the level, and both halves are looked at "
            "again (Freeman and Bruna 2017).",
        ),
        (
            "Length / straight",
            "The length of the chain through all beads over the distance between the ends: 1 where the "
            "straight line lies below the level. The shortest path cannot get shorter as the level falls; "
            "the chain found can, as it is not the shortest: its length is an upper bound.",
        ),
        (
            "Path found",
            f"No tested position exceeds the level by more than {tolerance(study.tolerance)}. " + _CAVEAT,
        ),
        (
            "Train and held-out",
            f"Levels are of the training {study.of}, which beads are trained on. The highest {study.of} on "
            "held-out data is told beside it: nothing holds it below the level.",
        ),
    )

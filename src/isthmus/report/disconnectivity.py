"""The disconnectivity graph of a tree of minima, and its saddle heights as a map.

Each minimum is a leaf that ends at its loss; going up, two branches merge at the loss of the lowest known
saddle between them. Branches are ordered so that none cross.

By default branches merge at the very saddles, with square elbows: slanted ones would cross where saddles are
nearly equal. With levels, as published, saddles are rounded up to even levels, branches slant from a level to
the next, and what merges between two levels merges in one point.

Source: Becker & Karplus 1997, Journal of Chemical Physics 106, 1495, section II.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from isthmus.connect.spanning import MinimaTree
from isthmus.errors import SettingError
from isthmus.report.formats import plain_loss, split_name, tick
from isthmus.report.panels import FONT, GREY, INK, Panel, View, axis, compose, label, linear_axis, log_axis

_COLOUR = "#0072B2"
_LETTER = 6.4
"""Width of a letter of a leaf's name, in pixels."""
_STUB = 0.035
"""How far the root rises above the highest saddle, as a share of the drawn range."""
_WIDE_RANGE = 3.0
"""Losses that span at least this factor are drawn on a logarithmic axis."""
_SCALE = ("#fffbe6", "#f3f3c4", "#cfe7b9", "#8fd0ba", "#4fb3c0")
_MOST_NUMBERS = 12
"""A map of more minima than this shows colours without numbers."""


@dataclass(frozen=True)
class Branch:
    """A leaf, or what merges at a saddle.

    Attributes:
        height: the minimum's loss, or that of the saddle.
        leaves: the numbers of the minima below, from left to right.
        trunk: the leaf above which it stands.
        below: what merges here, from left to right; nothing in a leaf.
    """

    height: float
    leaves: tuple[int, ...]
    trunk: int
    below: tuple[Branch, ...] = ()


def branches(tree: MinimaTree, levels: Sequence[float] = ()) -> tuple[Branch, ...]:
    """The disconnectivity graph, one root for each part that paths join, the deepest first.

    Saddles of one height merge in one branch. Of what merges, the part of most minima stands in the middle,
    and its trunk goes on; the others stand to its right and left by turns, so that the graph does not lean.

    Args:
        tree: of the minima.
        levels: ascending heights that saddles are rounded up to; none by default.
    """
    losses = tree.losses.tolist()
    whole = {number: Branch(loss, (number,), number) for number, loss in enumerate(losses)}
    for edge in tree.tree_edges:
        height = next((level for level in levels if level >= edge.height), edge.height)
        members = [
            part for side in (whole[edge.first], whole[edge.second])
            for part in (side.below if side.height == height and side.below else (side,))
        ]  # fmt: skip
        joined = _arranged(height, members, losses)
        whole |= dict.fromkeys(joined.leaves, joined)
    roots = {id(branch): branch for branch in whole.values()}.values()
    return tuple(sorted(roots, key=lambda root: min(losses[leaf] for leaf in root.leaves)))


def disconnectivity_figure(
    trees: MinimaTree | Sequence[MinimaTree],
    names: Sequence[str] | None = None,
    *,
    log: bool | None = None,
    levels: int = 0,
    height: int = 440,
    controls: bool = True,
) -> go.Figure:
    """Minima as leaves, merging upward at the lowest known saddles between them.

    Args:
        trees: one, or several side by side (train and held-out data).
        names: of the minima; the tree's own by default.
        log: whether the loss is drawn on a logarithmic axis; by default if it spans a factor of 3.
        levels: even levels that saddles are rounded up to; 0 draws the saddles themselves.
        height: in pixels.
        controls: whether to offer the other axis as buttons.

    Raises:
        SettingError: a logarithmic axis for losses that are not positive, or a single level.
    """
    several = [trees] if isinstance(trees, MinimaTree) else list(trees)
    panels = [disconnectivity_panel(tree, names, log=log, levels=levels, height=height) for tree in several]
    figure = compose(panels, height=height, controls=controls, gap=0.13)
    figure.update_layout(margin={"b": 16})  # nothing stands below the names of the leaves
    return figure


def disconnectivity_panel(
    tree: MinimaTree,
    names: Sequence[str] | None = None,
    *,
    log: bool | None = None,
    levels: int = 0,
    height: int = 440,
) -> Panel:
    """One disconnectivity graph: see `disconnectivity_figure`."""
    titles = [label(name) for name in (names or tree.names)]
    values = [*tree.losses.tolist(), *(edge.height for edge in tree.tree_edges)]
    positive = min(values) > 0
    if log and not positive:
        raise SettingError(f"a logarithmic axis needs losses above 0, the lowest is {min(values):.4g}")
    if levels < 0 or levels == 1:
        raise SettingError(f"a disconnectivity graph has 0 levels (none) or at least 2, got {levels}")
    if log is None:
        log = positive and max(values) >= _WIDE_RANGE * min(values)
    frame = _Frame(min(values), max(values), log, titles, height)
    marked = frame.levels(levels)
    roots = branches(tree, marked)
    places = {leaf: float(x) for x, leaf in enumerate(leaf for root in roots for leaf in root.leaves)}
    lines = go.Scatter(
        **_lines(roots, places, frame, marked), mode="lines", line={"color": _COLOUR, "width": 1.7},
        hoverinfo="skip", showlegend=False, name="branches", connectgaps=False,
    )  # fmt: skip
    views = [View(name, frame.axis(name == "log")) for name in ("log", "linear")]
    shown = sorted(
        (v for v in views if positive or v.name == "linear"), key=lambda v: (v.name == "log") != log
    )
    up = axis(f"{split_name(tree.split)} loss", showgrid=True) | shown[0].axis
    across = axis("", showgrid=False, showline=False, showticklabels=False, ticks="")
    across |= {"range": [-0.7, len(titles) - 0.3]}
    notes = tuple(_named(title, places[k], float(tree.losses[k]), log) for k, title in enumerate(titles))
    marks = (_leaves(tree, titles, places), _saddles(tree, titles, roots, places))
    return Panel((lines, *marks), across, up, annotations=notes, views=tuple(shown))


def heights_figure(
    tree: MinimaTree,
    names: Sequence[str] | None = None,
    *,
    height: int | None = None,
    controls: bool = True,
) -> go.Figure:
    """Saddles between every two minima: below the diagonal by the tree, above it by the tested path.

    Args:
        tree: of the minima.
        names: of the minima; the tree's own by default.
        height: in pixels.
        controls: not used here.
    """
    order = [leaf for root in branches(tree) for leaf in root.leaves]
    titles = [label((names or tree.names)[leaf]) for leaf in order]
    direct = {edge.pair: edge.height for edge in tree.edges}
    cells = [[_cell(tree, direct, i, j, row, column) for column, j in enumerate(order)]
             for row, i in enumerate(order)]  # fmt: skip
    size = len(order)
    drawn = [[v if math.isfinite(v) and r != c else None for c, v in enumerate(line)]
             for r, line in enumerate(cells)]  # fmt: skip
    texts = [
        [plain_loss(v) if math.isfinite(v) and size <= _MOST_NUMBERS else "" for v in line] for line in cells
    ]
    shown = go.Heatmap(
        z=drawn, x=list(range(size)), y=list(range(size)), xgap=2, ygap=2, showscale=size > _MOST_NUMBERS,
        colorscale=[[k / (len(_SCALE) - 1), colour] for k, colour in enumerate(_SCALE)],
        colorbar={"thickness": 10, "outlinewidth": 0}, text=texts, texttemplate="%{text}",
        textfont={"size": 10.5, "color": INK}, hoverinfo="text",
        hovertext=[[_told(tree, titles, cells, order, r, c) for c in range(size)] for r in range(size)],
    )  # fmt: skip
    ticks = {"tickvals": list(range(size)), "ticktext": titles, "showgrid": False, "showline": False}
    across = axis("", **ticks, side="bottom", ticklen=0)
    up = axis("", **ticks, ticklen=0) | {"range": [size - 0.5, -0.5]}
    notes = tuple(
        {"xref": "x", "yref": "y", "x": k, "y": k, "text": texts[k][k], "showarrow": False, "opacity": 0.8,
         "font": {"family": FONT, "size": 10.5}}
        for k in range(size)
    )  # fmt: skip
    return compose([Panel((shown,), across, up, annotations=notes)], height=height or 100 + 34 * max(4, size))


def _arranged(height: float, parts: Sequence[Branch], losses: Sequence[float]) -> Branch:
    """The parts from left to right: the largest in the middle, then the deepest first to both sides."""
    first, *rest = sorted(parts, key=lambda p: (-len(p.leaves), min(losses[leaf] for leaf in p.leaves)))
    row = [first]
    for number, part in enumerate(rest, start=len(first.leaves)):
        row = [*row, part] if number % 2 else [part, *row]
    return Branch(height, tuple(leaf for part in row for leaf in part.leaves), first.trunk, tuple(row))


def _every(branch: Branch) -> Iterator[Branch]:
    yield branch
    for part in branch.below:
        yield from _every(part)


class _Frame:
    """The vertical axis: its range, with room for names below the leaves."""

    def __init__(self, low: float, high: float, log: bool, titles: Sequence[str], height: int) -> None:
        self.low, self.high, self.log = low, high, log
        pixels = height - 50.0
        self.room = min(0.45, (22 + _LETTER * max(map(len, titles))) / pixels)

    def axis(self, log: bool) -> dict[str, Any]:
        """The axis, logarithmic or linear."""
        if log and self.low <= 0:
            return linear_axis()
        low, high = (math.log10(v) if log else v for v in (self.low, self.high))
        span = (high - low) or max(abs(high), 1.0) * 0.5
        bottom, top = low - span * self.room / (1 - self.room) * 1.04, high + 0.09 * span
        if not log:
            values = _even_numbers(low, high)
            return linear_axis() | {
                "range": [bottom, top], "autorange": False, "tickmode": "array", "tickvals": values,
                "ticktext": [tick(value) for value in values],
            }  # fmt: skip
        marked = log_axis(10**bottom, 10**top)
        if self.high < 10 * self.low:  # too few round numbers in 1, 2 and 5 times powers of ten
            values = [value for value in _even_numbers(self.low, self.high) if value > 0]
            return marked | {"tickvals": values, "ticktext": [tick(value) for value in values]}
        kept = [k for k, v in enumerate(marked["tickvals"]) if v >= self.low / 1.6]
        return marked | {name: [marked[name][k] for k in kept] for name in ("tickvals", "ticktext")}

    def levels(self, count: int) -> list[float]:
        """So many even levels from the lowest minimum to the highest saddle, ascending."""
        return [self.raised(self.low, k / (count - 1)) for k in range(count)]

    def raised(self, height: float, share: float) -> float:
        """A height and a share of the range from the lowest minimum to the highest saddle."""
        if self.log:
            return float(height * (self.high / self.low) ** share)
        return height + share * (self.high - self.low)


def _even_numbers(low: float, high: float) -> list[float]:
    """About six round numbers at even distances, from just below the lowest height; 0 if that is near."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 6))
    step = next(lead * power for lead in (1, 2, 5, 10) if lead * power >= span / 6)
    return [round(k * step, 12) for k in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _lines(
    roots: Sequence[Branch], places: dict[int, float], frame: _Frame, levels: Sequence[float]
) -> dict[str, list[float | None]]:
    """From each saddle to the place of every part, and straight down to its height."""
    x: list[float | None] = []
    y: list[float | None] = []
    step = 1 / (len(levels) - 1) if levels else 0.0
    for root in roots:
        here = places[root.trunk]
        x += [here, here, None]
        y += [root.height, frame.raised(frame.high, 0.08 if len(roots) > 1 else _STUB), None]
        for branch in _every(root):
            turn = frame.raised(branch.height, -step)
            for part in branch.below:
                there = places[part.trunk]
                x += [places[branch.trunk], there, there, None]
                y += [branch.height, max(turn, part.height), part.height, None]
    return {"x": x, "y": y}


def _leaves(tree: MinimaTree, titles: Sequence[str], places: dict[int, float]) -> Any:
    """A marker at the end of every leaf: filled on held-out data, open on train."""
    numbers = range(len(titles))
    symbol = "circle-open" if tree.split == "train" else "circle"
    return go.Scatter(
        x=[places[k] for k in numbers], y=tree.losses.tolist(), mode="markers", showlegend=False,
        marker={
            "symbol": symbol, "size": 7, "color": _COLOUR, "opacity": 1,
            "line": {"width": 1.6, "color": _COLOUR},
        },
        hoverinfo="text", name="minima", cliponaxis=False,
        hovertext=[
            f"<b>{titles[k]}</b><br>{split_name(tree.split)} loss {plain_loss(float(tree.losses[k]))}"
            for k in numbers
        ],
    )  # fmt: skip


def _saddles(
    tree: MinimaTree,
    titles: Sequence[str],
    roots: Sequence[Branch],
    places: dict[int, float],
) -> Any:
    """Unseen marks where branches merge, which say what merges there."""
    found = [branch for root in roots for branch in _every(root) if branch.below]
    return go.Scatter(
        x=[places[branch.trunk] for branch in found], y=[branch.height for branch in found], mode="markers",
        marker={"size": 12, "opacity": 0, "color": GREY}, showlegend=False, hoverinfo="text", name="saddles",
        hovertext=[
            f"<b>saddle</b>, {split_name(tree.split)} loss {plain_loss(branch.height)}<br>joins "
            + "<br>with ".join(_some([titles[leaf] for leaf in part.leaves]) for part in branch.below)
            for branch in found
        ],
    )  # fmt: skip


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _named(title: str, x: float, loss: float, log: bool) -> dict[str, Any]:
    """A leaf's name under its end: upright if it is short, else along the leaf."""
    turned = len(title) > 3
    return {
        "xref": "x", "yref": "y", "x": x, "y": math.log10(loss) if log else loss, "text": title,
        "showarrow": False, "textangle": -90 if turned else 0, "xanchor": "center", "yanchor": "top",
        "yshift": -7, "font": {"family": FONT, "size": 11.5},
    }  # fmt: skip


def _cell(
    tree: MinimaTree, direct: dict[tuple[int, int], float], i: int, j: int, row: int, column: int
) -> float:
    """What the map shows: the tree below the diagonal, the tested path above it, the loss upon it."""
    if row >= column:
        return float(tree.heights[i, j])
    return direct.get((min(i, j), max(i, j)), math.nan)


def _told(
    tree: MinimaTree,
    titles: Sequence[str],
    cells: Sequence[Sequence[float]],
    order: Sequence[int],
    row: int,
    column: int,
) -> str:
    if row == column:
        return f"<b>{titles[row]}</b><br>{split_name(tree.split)} loss {plain_loss(cells[row][column])}"
    value, pair = cells[row][column], f"<b>{titles[row]} and {titles[column]}</b>"
    if row < column:
        known = {edge.pair for edge in tree.edges}
        tested = (min(order[row], order[column]), max(order[row], order[column])) in known
        what = f"tested path: highest loss {plain_loss(value)}" if tested else "no path was tested"
        return f"{pair}<br>{what}"
    return f"{pair}<br>lowest known pass, along the tree: {plain_loss(value)}"

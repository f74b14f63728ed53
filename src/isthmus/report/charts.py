"""Smaller charts: barriers side by side, lengths, what was matched, how a curve was fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from isthmus.barriers import Barrier, Quantity
from isthmus.connect import Connection
from isthmus.errors import SettingError
from isthmus.experiments.records import Matching, PathStudy
from isthmus.report.formats import count, percent, plain_loss, ratio, significant, split_name, tick, tolerance
from isthmus.report.panels import GREY, LINE, Panel, View, axis, compose, label, linear_axis, log_axis, styles
from isthmus.report.sentences import VERDICT_SIGNS, VERDICT_WORDS, barrier_sentence

_BARRIER_TICKS = {
    "error": (-10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100),
    "loss": (-1, -0.2, -0.05, 0, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 50, 100),
}
_NEAR_ZERO = {"error": 1.0, "loss": 0.05}
"""Up to about this height the axis of a barrier chart is linear, beyond it logarithmic."""


def barrier_figure(
    barriers: Sequence[Barrier],
    names: Sequence[str] | None = None,
    *,
    of: Quantity | None = None,
    above: str = "mean",
    within: float | None = 0.02,
    height: int | None = None,
    controls: bool = True,
) -> go.Figure:
    """Barriers as dots with their intervals, one row a path, held-out (filled) and train (open).

    The horizontal axis is sinh⁻¹: linear near zero, so that a barrier of none and a negative one have a
    place, and logarithmic beyond, so that a wall does not squeeze the rest.

    Args:
        barriers: of one path or several.
        names: of their paths, one a barrier; by default the paths' kinds.
        of: "loss" or "error"; both by default, side by side.
        above: "mean" or "chord".
        within: the tolerance to mark on errors; None for none.
        height: in pixels.
        controls: not used here.
    """
    titles = list(names) if names is not None else [barrier.kind for barrier in barriers]
    if len(titles) != len(barriers):
        raise SettingError(f"expected one name for each of {len(barriers)} barriers, got {len(titles)}")
    named = [(n, b) for n, b in zip(titles, barriers, strict=True) if b.above == above]
    quantities: tuple[Quantity, ...] = ("error", "loss") if of is None else (of,)
    found = [q for q in quantities if any(b.of == q for _, b in named)]
    if not found:
        raise SettingError(f"there is no barrier of {' or '.join(quantities)} above the {above} to draw")
    rows = list(dict.fromkeys(name for name, _ in named))
    panels = [_barrier_panel([(n, b) for n, b in named if b.of == q], rows, q, above, within) for q in found]
    return compose(panels, height=height or 128 + 52 * len(rows), gap=0.16)


def barriers_of_paths(paths: Sequence[PathStudy]) -> tuple[list[Barrier], list[str]]:
    """The barriers of a study's paths, and the path of each."""
    found = [(barrier, path.name) for path in paths for barrier in path.barriers]
    return [barrier for barrier, _ in found], [name for _, name in found]


def matching_figure(matching: Matching, *, height: int | None = None, controls: bool = True) -> go.Figure:
    """The share of units that the matching moved, one bar a hidden axis.

    Args:
        matching: what was matched.
        height: in pixels.
        controls: not used here.
    """
    rows = matching.axes
    names = [label(axis_row.name) for axis_row in rows]
    shown = go.Bar(
        x=[100 * row.moved for row in rows],
        y=list(range(len(rows))),
        orientation="h",
        width=0.62,
        marker={"color": "#0072B2", "opacity": 0.85},
        text=[f" {percent(row.moved)} of {count(row.size)}" for row in rows],
        textposition="outside",
        textfont={"size": 11.5},
        cliponaxis=False,
        hoverinfo="text",
        hovertext=[
            f"<b>{label(row.name)}</b><br>{percent(row.moved)} of {count(row.size)} units moved, "
            f"{count(row.free)} free<br>{'<br>'.join(label(place) for place in row.places[:12])}"
            for row in rows
        ],
        showlegend=False,
        name="moved",
    )
    panel = Panel(
        (shown,),
        axis("units moved (%)", range=[0, 128], tickvals=[0, 25, 50, 75, 100]),
        _rows_axis(names),
    )
    return compose([panel], height=height or 96 + 26 * max(2, len(rows)))


def length_figure(
    paths: Sequence[PathStudy], *, height: int | None = None, controls: bool = True
) -> go.Figure:
    """The length of each path, with the straight line between its ends marked.

    Args:
        paths: of a study.
        height: in pixels.
        controls: not used here.
    """
    names = [path.name for path in paths]
    drawn = styles(names)
    rows = list(range(len(paths)))
    hover = [
        f"<b>{label(path.name)}</b><br>arc length {significant(path.length, 4)}<br>straight line "
        f"{significant(path.endpoint_distance, 4)}<br>"
        f"{ratio(path.length, path.endpoint_distance)} times as long"
        for path in paths
    ]
    bars = go.Bar(
        x=[path.length for path in paths], y=rows, orientation="h", width=0.5, name="arc length",
        marker={"color": [drawn[name].colour for name in names], "opacity": 0.85}, hoverinfo="text",
        hovertext=hover, text=[f" {significant(path.length, 4)}" for path in paths], textposition="outside",
        textfont={"size": 11.5}, cliponaxis=False, showlegend=False,
    )  # fmt: skip
    marks = go.Scatter(
        x=[path.endpoint_distance for path in paths], y=rows, mode="markers", name="straight line",
        marker={"symbol": "line-ns", "size": 30, "opacity": 1, "line": {"width": 2, "color": GREY}},
        hoverinfo="text", hovertext=hover,
    )  # fmt: skip
    longest = max((path.length for path in paths), default=1.0)
    panel = Panel(
        (bars, marks),
        axis("length in weight space", range=[0, 1.16 * longest or 1]),
        _rows_axis([label(n) for n in names]),
    )
    return compose([panel], height=height or 112 + 38 * len(paths))


def history_figure(fits: Sequence[tuple[str, Any]], *, height: int = 300, controls: bool = True) -> go.Figure:
    """The training loss of each epoch (of a string: round) of each fit.

    Args:
        fits: pairs (name, a record with a `history`: `Fit` or `Connection`).
        height: in pixels.
        controls: whether to offer a logarithmic axis.
    """
    drawn = styles([name for name, _ in fits])
    traces = []
    for name, fit in fits:
        values = fit.history.double().tolist()
        epochs = list(range(1, len(values) + 1))
        traces.append(
            go.Scatter(
                x=epochs, y=values, mode="lines+markers", name=label(name),
                line={"color": drawn[name].colour, "width": 2},
                marker={"symbol": drawn[name].symbol, "size": 5, "opacity": 1, "line": {"width": 0}},
                hoverinfo="text",
                hovertext=[
                    f"<b>{label(name)}</b><br>epoch {epoch}<br>training loss {plain_loss(value)}"
                    for epoch, value in zip(epochs, values, strict=True)
                ],
            )
        )  # fmt: skip
    every = [value for _, fit in fits for value in fit.history.tolist() if math.isfinite(value)]
    views = [View("linear", linear_axis())]
    if every and min(every) > 0:
        views.insert(0, View("log", log_axis(min(every) / 1.3, max(every) * 1.3)))
    across, up = axis("epoch of the fit, or round", showgrid=False), axis("training loss") | views[0].axis
    panel = Panel(tuple(traces), across, up, views=tuple(views))
    return compose([panel], height=height, controls=controls)


def connection_figure(connection: Connection, *, height: int = 300, controls: bool = True) -> go.Figure:
    """How a connector's training loss fell.

    Args:
        connection: what a connector returned.
        height: in pixels.
        controls: whether to offer a logarithmic axis.
    """
    return history_figure([(connection.path.kind, connection)], height=height, controls=controls)


def _barrier_panel(
    named: Sequence[tuple[str, Barrier]], rows: Sequence[str], of: Quantity, above: str, within: float | None
) -> Panel:
    traces = [_barrier_dots(named, rows, split, of) for split in ("test", "train")]
    judged = of == "error" and within is not None
    shapes: tuple[dict[str, Any], ...] = (_upright(0.0, LINE, "solid"),)
    notes: tuple[dict[str, Any], ...] = ()
    if judged and within is not None:
        x = _placed(100 * within, of)
        shapes = (*shapes, _upright(x, GREY, "4px,3px"))
        notes = (
            {
                "xref": "x", "yref": "y domain", "x": x, "y": 1, "xanchor": "left", "yanchor": "top",
                "xshift": 4, "text": f"tolerance {tolerance(within)}", "showarrow": False,
                "font": {"size": 10.5}, "opacity": 0.8,
            },
        )  # fmt: skip
    unit = "error barrier (%)" if of == "error" else "loss barrier"
    tolerated = within if judged else None
    texts = [_row_text(name, named, tolerated) for name in rows]
    return Panel(
        tuple(trace for trace in traces if len(trace.x)) + _split_keys({b.split for _, b in named}),
        axis(f"{unit} above the {above} of the ends", **_barrier_ticks(named, of, tolerated)),
        _rows_axis(texts) | {"range": [len(rows) - 0.5, -0.75]},
        shapes,
        notes,
    )


def _barrier_dots(named: Sequence[tuple[str, Barrier]], rows: Sequence[str], split: str, of: Quantity) -> Any:
    chosen = [(name, barrier) for name, barrier in named if barrier.split == split]
    drawn = styles(list(rows))
    scale = 100.0 if of == "error" else 1.0
    x = [_placed(scale * b.height, of) for _, b in chosen]
    low, high = ([_placed(scale * getattr(b, end), of) for _, b in chosen] for end in ("low", "high"))
    shift = -0.13 if split == "test" else 0.16
    colours = [drawn[name].colour for name, _ in chosen]
    return go.Scatter(
        x=x,
        y=[rows.index(name) + shift for name, _ in chosen],
        mode="markers",
        marker={
            "symbol": [drawn[name].symbol + ("" if split == "test" else "-open") for name, _ in chosen],
            "color": colours, "size": 10, "opacity": 1, "line": {"width": 0 if split == "test" else 1.6},
        },
        error_x={
            "type": "data", "symmetric": False, "thickness": 1.6, "width": 4,
            "array": [h - v for h, v in zip(high, x, strict=True)],
            "arrayminus": [v - lo for v, lo in zip(x, low, strict=True)], "color": GREY,
        },
        hoverinfo="text",
        hovertext=[
            f"<b>{label(name)}</b>, {split_name(split)}<br>"
            + barrier_sentence(barrier).replace(", on ", "<br>on ").replace(", 95", "<br>95")
            for name, barrier in chosen
        ],
        name=split_name(split),
        showlegend=False,
        customdata=[[scale * b.height, scale * b.low, scale * b.high] for _, b in chosen],
        cliponaxis=False,
    )  # fmt: skip


def _split_keys(splits: set[str]) -> tuple[Any, ...]:
    """What filled and open symbols mean, in the legend."""
    symbols = {"test": "circle", "train": "circle-open"}
    return tuple(
        go.Scatter(
            x=[None], y=[None], mode="markers", name=split_name(split), hoverinfo="skip",
            marker={"symbol": symbol, "color": GREY, "size": 9, "line": {"width": 1.6, "color": GREY}},
        )
        for split, symbol in symbols.items() if split in splits
    )  # fmt: skip


def _placed(value: float, of: Quantity) -> float:
    """A height on the chart's axis."""
    if not math.isfinite(value):
        return math.asinh(1e4 if value > 0 else -1e4)
    return math.asinh(value / _NEAR_ZERO[of])


def _barrier_ticks(
    named: Sequence[tuple[str, Barrier]], of: Quantity, within: float | None
) -> dict[str, Any]:
    """A range that covers every interval, zero and the tolerance, with round numbers marked."""
    scale = 100.0 if of == "error" else 1.0
    ends = [scale * value for _, b in named for value in (b.low, b.height, b.high)]
    ends = [0.0, 150 * (within or 0.0), *(value for value in ends if math.isfinite(value))]
    low, high = _placed(min(ends), of), _placed(max(ends), of)
    pad = 0.05 * (high - low) + 0.05
    bounds = [low - pad, high + pad]
    kept = [v for v in _BARRIER_TICKS[of] if bounds[0] <= _placed(v, of) <= bounds[1]]
    return {
        "range": bounds,
        "tickvals": [_placed(value, of) for value in kept],
        "ticktext": [tick(value) for value in kept],
    }


def _row_text(name: str, named: Sequence[tuple[str, Barrier]], within: float | None) -> str:
    """A path's name, with its verdict on held-out data."""
    held_out = next((b for n, b in named if n == name and b.split == "test"), None)
    if held_out is None or within is None:
        return label(name)
    verdict = held_out.verdict(within)
    return f"{label(name)}<br><i>{VERDICT_SIGNS[verdict]} {VERDICT_WORDS[verdict]}</i>"


def _rows_axis(texts: Sequence[str]) -> dict[str, Any]:
    return axis(
        "", tickvals=list(range(len(texts))), ticktext=list(texts), range=[len(texts) - 0.5, -0.5],
        showgrid=False, ticklen=6, tickcolor="rgba(0,0,0,0)", showline=False,
    )  # fmt: skip


def _upright(x: float, colour: str, dash: str) -> dict[str, Any]:
    return {
        "type": "line", "xref": "x", "yref": "y domain", "x0": x, "x1": x, "y0": 0, "y1": 1, "layer": "below",
        "line": {"color": colour, "width": 1, "dash": dash},
    }  # fmt: skip

"""The figures of the gallery, in the style of the reports."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from isthmus.report.panels import Panel, axis, compose, styles

_TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)


def width_figure(drawn: dict[str, list[tuple[int, float, float, float]]]) -> go.Figure:
    """The error barrier against the width, a line for each method, with the range over pairs."""
    looks = styles(list(drawn))
    traces = [
        go.Scatter(
            x=[math.log2(w) for w, *_ in points],
            y=[_placed(100 * mean) for _, mean, _, _ in points],
            error_y={
                "type": "data", "symmetric": False, "thickness": 1.2, "width": 3,
                "array": [_placed(100 * high) - _placed(100 * mean) for _, mean, _, high in points],
                "arrayminus": [_placed(100 * mean) - _placed(100 * low) for _, mean, low, _ in points],
            },
            mode="lines+markers", name=name,
            line={"color": looks[name].colour, "width": 1.8},
            marker={"symbol": looks[name].symbol, "size": 8, "color": looks[name].colour},
        )
        for name, points in drawn.items()
    ]  # fmt: skip
    widths = sorted({w for points in drawn.values() for w, *_ in points})
    bottom = axis(
        "hidden units a layer", tickvals=[math.log2(w) for w in widths], ticktext=list(map(str, widths))
    )
    return compose([Panel(tuple(traces), bottom, _heights("error barrier, held-out (%)"))], height=420)


def barriers_figure(best: dict[str, dict[str, float]]) -> go.Figure:
    """The error barrier of every method on every family, each under its best repair."""
    names = list(dict.fromkeys(name for found in best.values() for name in found))
    looks, families = styles(names), list(best)
    traces = [
        go.Scatter(
            x=[families.index(family) for family in families if name in best[family]],
            y=[_placed(100 * best[family][name]) for family in families if name in best[family]],
            mode="markers", name=name,
            marker={"symbol": looks[name].symbol, "size": 10, "color": looks[name].colour},
        )
        for name in names
    ]  # fmt: skip
    bottom = axis("", tickvals=list(range(len(families))), ticktext=families, tickangle=-35)
    return compose([Panel(tuple(traces), bottom, _heights("error barrier, held-out (%)"))], height=460)


def _heights(title: str) -> dict[str, object]:
    """Linear near zero, logarithmic beyond: a barrier of none has a place."""
    return axis(title, tickvals=[_placed(v) for v in _TICKS], ticktext=[f"{v:g}" for v in _TICKS])


def _placed(value: float) -> float:
    return math.asinh(value)

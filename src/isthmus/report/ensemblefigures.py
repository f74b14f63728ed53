"""Figures of ensembles: qualities with intervals, reliability, members, learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from isthmus.ensembles import AVERAGE, BEST, ENSEMBLE, SINGLE, Ensemble, Estimate, Quality
from isthmus.experiments.ensembling import Cycles
from isthmus.report.formats import interval, percent, quantity, significant, split_name, tick
from isthmus.report.panels import GREY, LINE, Panel, PathStyle, axis, compose, label

_STYLES = {
    ENSEMBLE: PathStyle("#0072B2", "circle"),
    AVERAGE: PathStyle("#D55E00", "square"),
    BEST: PathStyle("#009E73", "diamond"),
    SINGLE: PathStyle("#CC79A7", "triangle-up"),
}
_AXES = {"error": "error (%)", "loss": "loss", "calibration": "calibration error (%)"}
_LARGEST = 26.0
"""Pixels across of a marker that stands for all predictions."""
_MOST_TICKS = 7


def quality_figure(found: Ensemble, of: str, *, height: int | None = None) -> go.Figure:
    """One quantity of the ensemble and what it is compared with, as dots with their intervals.

    The axis is sinh⁻¹: linear near zero and logarithmic beyond, so that a weight average that fails does not
    squeeze the rest.

    Args:
        found: the ensemble.
        of: "error", "loss" or "calibration".
        height: in pixels.
    """
    rows = [ENSEMBLE, BEST, SINGLE, AVERAGE]
    every = [_part(found.quality(name, split), of) for name in rows for split in found.splits]
    scale = _bend([each.value for each in every], of)
    traces = [
        _dots(found, rows, split, of, scale) for split in sorted(found.splits, key=lambda s: s != "test")
    ]
    ends = [_factor(of) * x for each in every for x in (each.low, each.high) if math.isfinite(x)]
    texts = [name if name != BEST else f"{name}<br><i>{label(found.names[found.best])}</i>" for name in rows]
    panel = Panel(
        (*traces, *_keys(found.splits)),
        axis(_AXES[of], **_bent_ticks(min([0.0, *ends]), max([*ends, 1e-9]), scale)),
        axis(
            "", tickvals=list(range(len(rows))), ticktext=texts, range=[len(rows) - 0.5, -0.6],
            showgrid=False, ticklen=6, tickcolor="rgba(0,0,0,0)", showline=False,
        ),
    )  # fmt: skip
    return compose([panel], height=height or 112 + 46 * len(rows))


def reliability_figure(found: Ensemble, split: str = "test", *, height: int = 470) -> go.Figure:
    """Accuracy against confidence for the ensemble, the best single member and the weight average.

    Args:
        found: the ensemble, of probabilities.
        split: "train" or "test".
        height: in pixels.
    """
    diagonal = {
        "type": "line", "xref": "x", "yref": "y", "x0": 0, "x1": 1, "y0": 0, "y1": 1, "layer": "below",
        "line": {"color": GREY, "width": 1, "dash": "4px,3px"},
    }  # fmt: skip
    # The ensemble last, on top of the others.
    traces = tuple(_curve(found.quality(name, split), name) for name in (AVERAGE, BEST, ENSEMBLE))
    square = {"range": [-0.02, 1.03], "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1]}
    panel = Panel(
        traces,
        axis(f"confidence in the predicted class ({split_name(split)})", **square, showgrid=False),
        axis("accuracy", **square),
        (diagonal,),
    )
    figure = compose([panel], height=height)
    return figure.update_layout(legend={"traceorder": "reversed", "itemsizing": "constant"})


def confidence_figure(found: Ensemble, split: str = "test", *, height: int = 470) -> go.Figure:
    """How many predictions have which confidence: one bar a bin and predictor.

    Args:
        found: the ensemble, of probabilities.
        split: "train" or "test".
        height: in pixels.
    """
    width = 1 / found.bins
    traces = []
    for place, name in enumerate((ENSEMBLE, BEST, AVERAGE)):
        curve = found.quality(name, split).reliability
        assert curve is not None
        shares = curve.share.tolist()
        traces.append(
            go.Bar(
                x=[(k + (place + 1) / 4) * width for k in range(found.bins)],
                y=[100 * share for share in shares],
                width=0.24 * width, name=label(name), marker={"color": _STYLES[name].colour},
                hoverinfo="text",
                hovertext=[
                    f"<b>{label(name)}</b><br>confidence {k * width:.3f} to {(k + 1) * width:.3f}<br>"
                    f"{percent(share)} of the predictions"
                    for k, share in enumerate(shares)
                ],
            )
        )  # fmt: skip
    across = axis(
        f"confidence in the predicted class ({split_name(split)})", range=[-0.02, 1.03],
        tickvals=[0, 0.2, 0.4, 0.6, 0.8, 1], showgrid=False,
    )  # fmt: skip
    return compose([Panel(tuple(traces), across, axis("predictions (%)", rangemode="tozero"))], height=height)


def member_figure(found: Ensemble, of: str, *, height: int | None = None) -> go.Figure:
    """One quantity of every member with its interval, and the ensemble's as a line.

    Points of a path stand along it from left to right; other members one below the other.

    Args:
        found: the ensemble.
        of: "error", "loss" or "calibration".
        height: in pixels.
    """
    along, names = len(found.t) > 0, [label(name) for name in found.names]
    where = found.t.tolist() if along else [float(number) for number in range(len(names))]
    pad = 0.06 * (max(where) - min(where) or 1.0) if along else 0.6
    bounds = [min(where) - pad, max(where) + pad]
    traces: list[Any] = []
    for split in sorted(found.splits, key=lambda s: s != "test"):
        traces += [_level(found, of, split, bounds, along), _points(found, of, split, where, along)]
    value = axis(_AXES[of], rangemode="tozero")
    if along:
        across = axis("position t on the path", showgrid=False, range=bounds)
        return compose([Panel(tuple(traces), across, value)], height=height or 320)
    rows = axis(
        "", tickvals=where, ticktext=names, range=bounds[::-1], showgrid=False, ticklen=6,
        tickcolor="rgba(0,0,0,0)", showline=False,
    )  # fmt: skip
    return compose([Panel(tuple(traces), value, rows)], height=height or 130 + 34 * max(len(names), 3))


def rate_figure(cycles: Cycles, *, height: int = 280) -> go.Figure:
    """The learning rate of every step of a cyclical training, with its snapshots.

    Args:
        cycles: how the snapshots were trained.
        height: in pixels.
    """
    rates = cycles.rates.tolist()
    line = go.Scatter(
        x=list(range(1, len(rates) + 1)), y=rates, mode="lines", name="learning rate",
        line={"color": _STYLES[ENSEMBLE].colour, "width": 2}, hoverinfo="text",
        hovertext=[f"step {k}<br>rate {significant(rate, 3)}" for k, rate in enumerate(rates, start=1)],
    )  # fmt: skip
    marks = go.Scatter(
        x=list(cycles.steps), y=[rates[step - 1] for step in cycles.steps], mode="markers", name="snapshot",
        marker={"color": _STYLES[AVERAGE].colour, "size": 10, "symbol": "circle", "line": {"width": 0}},
        hoverinfo="text",
        hovertext=[f"<b>snapshot {k}</b><br>after step {s}" for k, s in enumerate(cycles.steps, start=1)],
        cliponaxis=False,
    )  # fmt: skip
    up = axis("learning rate", range=[0, 1.08 * max(rates)])
    return compose([Panel((line, marks), axis("step", showgrid=False), up)], height=height)


def _part(quality: Quality, of: str) -> Estimate:
    found = {"error": quality.error, "loss": quality.loss, "calibration": quality.calibration}[of]
    assert found is not None
    return found


def _factor(of: str) -> float:
    """Errors are drawn in per cent."""
    return 1.0 if of == "loss" else 100.0


def _kind(of: str) -> str:
    return "loss" if of == "loss" else "error"


def _dots(found: Ensemble, rows: Sequence[str], split: str, of: str, scale: float) -> Any:
    """The dots of one split, held-out above train."""
    parts = [_part(found.quality(name, split), of) for name in rows]
    factor, shift = _factor(of), -0.13 if split == "test" else 0.16
    x = [_bent(factor * part.value, scale) for part in parts]
    return go.Scatter(
        x=x,
        y=[index + shift for index in range(len(rows))],
        mode="markers",
        marker={
            "symbol": [_STYLES[name].symbol + ("" if split == "test" else "-open") for name in rows],
            "color": [_STYLES[name].colour for name in rows],
            "size": 10, "opacity": 1, "line": {"width": 0 if split == "test" else 1.6},
        },
        error_x={
            "type": "data", "symmetric": False, "thickness": 1.6, "width": 4, "color": GREY,
            "array": [_bent(factor * p.high, scale) - v for p, v in zip(parts, x, strict=True)],
            "arrayminus": [v - _bent(factor * p.low, scale) for p, v in zip(parts, x, strict=True)],
        },
        hoverinfo="text",
        hovertext=[
            f"<b>{label(name)}</b>, {split_name(split)}<br>{_told(part, of)}"
            for name, part in zip(rows, parts, strict=True)
        ],
        name=split_name(split), showlegend=False, cliponaxis=False,
    )  # fmt: skip


def _told(part: Estimate, of: str) -> str:
    kind = _kind(of)
    return f"{quantity(kind, part.value)} {interval(kind, part.low, part.high)}"


def _keys(splits: Sequence[str]) -> tuple[Any, ...]:
    """What filled and open symbols mean, in the legend."""
    symbols = {"test": "circle", "train": "circle-open"}
    return tuple(
        go.Scatter(
            x=[None], y=[None], mode="markers", name=split_name(split), hoverinfo="skip",
            marker={"symbol": symbol, "color": GREY, "size": 9, "line": {"width": 1.6, "color": GREY}},
        )
        for split, symbol in symbols.items() if split in splits
    )  # fmt: skip


def _bend(values: Sequence[float], of: str) -> float:
    """Up to about here the axis is linear: the middle of the values that are drawn."""
    found = sorted(_factor(of) * value for value in values if math.isfinite(value) and value > 0)
    return found[len(found) // 2] if found else 1.0


def _bent(value: float, scale: float) -> float:
    """A value on the axis; what is not finite lies far out."""
    return math.asinh(value / scale if math.isfinite(value) else 1e4)


def _bent_ticks(low: float, high: float, scale: float) -> dict[str, Any]:
    """A range over these values, with round numbers marked: zero, and 1, 2 and 5 times powers of ten."""
    bounds = _bent(low, scale), _bent(high, scale)
    pad = 0.04 * (bounds[1] - bounds[0]) + 1e-3
    powers = range(math.floor(math.log10(scale)) - 1, math.ceil(math.log10(max(high, scale))) + 1)
    for leads in ((1, 2, 5), (1, 3), (1,)):
        values = [0.0, *(float(f"{lead}e{power}") for power in powers for lead in leads)]
        gap = (bounds[1] - bounds[0]) / _MOST_TICKS
        kept: list[float] = []
        for value in values:
            place = _bent(value, scale)
            if place <= bounds[1] + pad and (not kept or place - _bent(kept[-1], scale) >= 0.75 * gap):
                kept.append(value)
        if len(kept) <= _MOST_TICKS:
            break
    return {
        "range": [bounds[0] - pad, bounds[1] + pad],
        "tickvals": [_bent(value, scale) for value in kept],
        "ticktext": [tick(value) for value in kept],
    }


def _curve(quality: Quality, name: str) -> Any:
    """The bins that hold predictions, larger markers for more of them."""
    curve = quality.reliability
    assert curve is not None
    rows = zip(curve.confidence.tolist(), curve.accuracy.tolist(), curve.share.tolist(), strict=True)
    kept = [row for row in rows if row[2] > 0 and math.isfinite(row[0])]
    style = _STYLES[name]
    return go.Scatter(
        x=[row[0] for row in kept], y=[row[1] for row in kept], mode="markers", name=label(name),
        marker={
            "symbol": style.symbol, "color": style.colour, "opacity": 0.8, "line": {"width": 0},
            "size": [max(6.0, _LARGEST * math.sqrt(row[2])) for row in kept],
        },
        hoverinfo="text",
        hovertext=[
            f"<b>{label(name)}</b><br>confidence {percent(row[0])}<br>accuracy {percent(row[1])}<br>"
            f"{percent(row[2])} of the predictions"
            for row in kept
        ],
        cliponaxis=False,
    )  # fmt: skip


def _points(found: Ensemble, of: str, split: str, where: Sequence[float], along: bool) -> Any:
    """The members of one split; values go up along a path, and to the right otherwise."""
    factor, held_out = _factor(of), split == "test"
    parts = [_part(found.quality(name, split), of) for name in found.names]
    shift = 0.0 if along else -0.12 if held_out else 0.14
    places, values = [place + shift for place in where], [factor * part.value for part in parts]
    spread = {
        "type": "data", "symmetric": False, "thickness": 1.4, "width": 4, "color": LINE,
        "array": [factor * (part.high - part.value) for part in parts],
        "arrayminus": [factor * (part.value - part.low) for part in parts],
    }  # fmt: skip
    across: dict[str, Any] = {"x": places, "y": values, "error_y": spread}
    return go.Scatter(
        **(across if along else {"x": values, "y": places, "error_x": spread}), mode="markers",
        name=f"members, {split_name(split)}",
        marker={
            "symbol": "circle" if held_out else "circle-open", "color": GREY, "size": 9, "opacity": 1,
            "line": {"width": 0 if held_out else 1.6},
        },
        hoverinfo="text",
        hovertext=[
            f"<b>{label(name)}</b>, {split_name(split)}<br>{_told(part, of)}"
            for name, part in zip(found.names, parts, strict=True)
        ],
        cliponaxis=False,
    )  # fmt: skip


def _level(found: Ensemble, of: str, split: str, bounds: list[float], along: bool) -> Any:
    """The ensemble's value, all across."""
    part = _part(found.quality(ENSEMBLE, split), of)
    values = [_factor(of) * part.value] * 2
    return go.Scatter(
        x=bounds if along else values, y=values if along else bounds, mode="lines",
        name=f"ensemble, {split_name(split)}",
        line={
            "color": _STYLES[ENSEMBLE].colour, "width": 2,
            "dash": "solid" if split == "test" else "5px,3px",
        },
        hoverinfo="text",
        hovertext=[f"<b>ensemble</b>, {split_name(split)}<br>{_told(part, of)}"] * 2,
    )  # fmt: skip

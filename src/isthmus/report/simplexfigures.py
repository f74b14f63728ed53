"""Figures of a region of low loss: how it grew, and what the points inside are like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from isthmus.barriers import Quantity
from isthmus.errors import SettingError
from isthmus.experiments.simplexrecords import SimplexStudy
from isthmus.report.formats import count, interval, percent, quantity, significant, split_name
from isthmus.report.panels import GREY, LINE, Panel, axis, compose, log_axis

_COLOURS = {"test": "#0072B2", "train": "#D55E00"}
_SPLITS = ("test", "train")
_ROOM = 1.35
_WIDE = 30
"""Heights that differ by more than this factor are drawn on a logarithmic axis."""


def volume_figure(study: SimplexStudy, *, height: int = 340, controls: bool = True) -> go.Figure:
    """The height of each new vertex over the plane of the older ones, and the mean edge, by dimension.

    Args:
        study: a grown region.
        height: in pixels.
        controls: not used here.
    """
    _require_stages(study)
    x = [stage.dimension for stage in study.stages]
    hover = [
        f"<b>{stage.dimension} dimension{'s' * (stage.dimension > 1)}</b><br>height of the newest vertex "
        f"{significant(stage.height, 3)}<br>mean edge {significant(stage.edge, 3)}<br>log-volume "
        f"{significant(stage.log_volume, 3)}<br>volume over a regular one's "
        f"{significant(stage.normalised_volume, 3)}"
        for stage in study.stages
    ]
    rows = (
        ("height of the newest vertex", [stage.height for stage in study.stages], "#009E73", "circle"),
        ("mean edge", [stage.edge for stage in study.stages], GREY, "square"),
    )
    traces = tuple(
        go.Scatter(
            x=x, y=y, mode="lines+markers", name=name, line={"color": colour, "width": 2},
            marker={"symbol": symbol, "size": 9, "opacity": 1, "line": {"width": 0}},
            hoverinfo="text", hovertext=hover,
        )
        for name, y, colour, symbol in rows
    )  # fmt: skip
    values = [value for _, y, _, _ in rows for value in y]
    up = axis("distance in weight space", range=[0, 1.12 * max(values) or 1])
    if 0 < min(values) < max(values) / _WIDE:
        up |= log_axis(min(values) / _ROOM, max(values) * _ROOM)
    return compose([Panel(traces, _dimension_axis(study, 1), up)], height=height)


def growth_figure(
    study: SimplexStudy, *, of: Quantity = "loss", height: int = 340, controls: bool = True
) -> go.Figure:
    """Loss or error inside by dimension: the average point, and from the lowest to the highest one.

    At 0 stand the given networks, on the same axis.

    Args:
        study: a grown region.
        of: "loss" or "error".
        height: in pixels.
        controls: not used here.
    """
    _require_stages(study)
    traces = [_stages(study, split, of) for split in _SPLITS]
    traces += [_given(study, split, of) for split in _SPLITS]
    up = axis("error (%)" if of == "error" else "loss")
    found = [value for trace in traces for value in trace.customdata]
    if of == "error":
        up["range"] = [-0.04 * max(found), 1.08 * max(found) or 1]
    elif min(found) > 0:
        up |= log_axis(min(found) / _ROOM, max(found) * _ROOM)
    return compose([Panel(tuple(traces), _dimension_axis(study, 0), up)], height=height)


def inside_figure(
    study: SimplexStudy, *, of: Quantity = "error", height: int = 300, controls: bool = True
) -> go.Figure:
    """Every point drawn inside the whole region as a dot, the average one, and the given networks as strokes.

    Args:
        study: a grown region.
        of: "loss" or "error".
        height: in pixels.
        controls: not used here.
    """
    _require_stages(study)
    traces: list[Any] = []
    for row, split in enumerate(_SPLITS):
        traces += [*_dots(study, split, of, row), _strokes(study, split, of, row)]
    values = [value for trace in traces for value in trace.x]
    right = max([*values, *(100 * study.stages[-1].on(split).score.error_high for split in _SPLITS)])
    across = axis("error (%)" if of == "error" else "loss", showgrid=True)
    if of == "error":
        across["range"] = [-0.03 * right, 1.05 * right or 1]
    if of == "loss" and min(values) > 0:
        across |= log_axis(min(values) / _ROOM, max(values) * _ROOM)
    up = axis(
        "", tickvals=[0, 1], ticktext=[split_name(split) for split in _SPLITS], range=[1.55, -0.55],
        showgrid=False, ticklen=6, tickcolor="rgba(0,0,0,0)", showline=False,
    )  # fmt: skip
    return compose([Panel(tuple(traces), across, up)], height=height)


def _scaled(values: Sequence[float], of: Quantity) -> list[float]:
    return [100 * value if of == "error" else value for value in values]


def _stages(study: SimplexStudy, split: str, of: Quantity) -> Any:
    """The average point of each stage, with a stroke from the lowest to the highest point."""
    found = [stage.on(split) for stage in study.stages]
    middle = [each.score.loss if of == "loss" else each.score.error for each in found]
    each_point = [each.loss if of == "loss" else each.error for each in found]
    low, high = ([float(bound) for bound in bounds] for bounds in (
        [values.min() for values in each_point], [values.max() for values in each_point]
    ))  # fmt: skip
    shift = -0.05 if split == "test" else 0.05
    hover = [
        f"<b>{stage.dimension} dimension{'s' * (stage.dimension > 1)}, {split_name(split)}</b><br>average "
        f"point {quantity(of, mean)}<br>lowest {quantity(of, least)}, highest {quantity(of, most)} of "
        f"{count(len(values))} points"
        for stage, mean, least, most, values in zip(study.stages, middle, low, high, each_point, strict=True)
    ]
    y, low, high = _scaled(middle, of), _scaled(low, of), _scaled(high, of)
    return go.Scatter(
        x=[stage.dimension + shift for stage in study.stages], y=y, mode="lines+markers",
        name=f"inside, {split_name(split)}",
        line={"color": _COLOURS[split], "width": 2, "dash": "solid" if split == "test" else "5px,3px"},
        marker={
            "symbol": "circle" if split == "test" else "circle-open", "size": 9, "opacity": 1,
            "color": _COLOURS[split], "line": {"width": 0 if split == "test" else 1.8},
        },
        error_y={
            "type": "data", "symmetric": False, "thickness": 1.3, "width": 4, "color": _COLOURS[split],
            "array": [top - value for top, value in zip(high, y, strict=True)],
            "arrayminus": [value - bottom for value, bottom in zip(y, low, strict=True)],
        },
        hoverinfo="text", hovertext=hover, customdata=[*low, *high],
    )  # fmt: skip


def _given(study: SimplexStudy, split: str, of: Quantity) -> Any:
    """The given networks, at dimension 0."""
    values = [value for _, value in _own(study, split, of)]
    shift = -0.05 if split == "test" else 0.05
    return go.Scatter(
        x=[shift] * len(values), y=values, mode="markers", name=f"given, {split_name(split)}",
        marker={
            "symbol": "diamond" if split == "test" else "diamond-open", "size": 10, "opacity": 1,
            "color": _COLOURS[split], "line": {"width": 0 if split == "test" else 1.8},
        },
        hoverinfo="text", customdata=values,
        hovertext=[
            f"<b>{name}</b>, {split_name(split)}<br>"
            + quantity(of, value / 100 if of == "error" else value)
            for name, value in _own(study, split, of)
        ],
    )  # fmt: skip


def _own(study: SimplexStudy, split: str, of: Quantity) -> list[tuple[str, float]]:
    """Name and loss or error of each given network."""
    return [
        (end.name, score.loss if of == "loss" else 100 * score.error)
        for end in study.networks
        for score in end.scores
        if score.split == split
    ]


def _dots(study: SimplexStudy, split: str, of: Quantity, row: int) -> list[Any]:
    """One row: every point, spread so that equal ones are seen, and the average one with its interval."""
    inside = study.stages[-1].on(split)
    values = (inside.loss if of == "loss" else inside.error).tolist()
    s = inside.score
    mean, low, high = (
        (s.loss, s.loss_low, s.loss_high) if of == "loss" else (s.error, s.error_low, s.error_high)
    )
    golden = (math.sqrt(5) - 1) / 2
    cloud = go.Scatter(
        x=_scaled(values, of), y=[row + 0.3 * (k * golden % 1) + 0.08 for k in range(len(values))],
        mode="markers", name="a point inside", showlegend=row == 0, legendgroup="points",
        marker={"symbol": "circle", "size": 6, "opacity": 0.5, "color": _COLOURS[split]},
        hoverinfo="text",
        hovertext=[f"<b>a point inside</b>, {split_name(split)}<br>{quantity(of, v)}" for v in values],
    )  # fmt: skip
    (x, left, right) = _scaled((mean, low, high), of)
    average = go.Scatter(
        x=[x], y=[row - 0.12], mode="markers", name="the average point", showlegend=row == 0,
        legendgroup="average",
        marker={"symbol": "circle", "size": 11, "opacity": 1, "color": _COLOURS[split]},
        error_x={
            "type": "data", "symmetric": False, "thickness": 1.6, "width": 5, "color": _COLOURS[split],
            "array": [right - x], "arrayminus": [x - max(left, 0.0)],
        },
        hoverinfo="text",
        hovertext=[
            f"<b>the average point</b>, {split_name(split)}<br>{quantity(of, mean)} {interval(of, low, high)}"
        ],
    )  # fmt: skip
    return [cloud, average]


def _strokes(study: SimplexStudy, split: str, of: Quantity, row: int) -> Any:
    """The given networks of one row."""
    own = _own(study, split, of)
    return go.Scatter(
        x=[value for _, value in own], y=[row - 0.32] * len(own), mode="markers", name="a given network",
        showlegend=row == 0, legendgroup="given",
        marker={"symbol": "diamond", "size": 10, "opacity": 1, "color": GREY,
                "line": {"width": 1, "color": LINE}},
        hoverinfo="text",
        hovertext=[
            f"<b>{name}</b>, {split_name(split)}<br>"
            + (percent(value / 100) if of == "error" else quantity(of, value))
            for name, value in own
        ],
    )  # fmt: skip


def _dimension_axis(study: SimplexStudy, least: int) -> dict[str, Any]:
    last = study.stages[-1].dimension
    return axis(
        "dimensions of the simplex" if len(study.simplexes) == 1 else "dimensions of each simplex",
        showgrid=False, range=[least - 0.35, last + 0.35], tickmode="linear", tick0=0,
        dtick=1 if last <= 12 else math.ceil(last / 10),
    )  # fmt: skip


def _require_stages(study: SimplexStudy) -> None:
    if not study.stages:
        raise SettingError("this region was not grown to the end, so there is nothing inside to draw")

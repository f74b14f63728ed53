"""Figures of curves before and after alignment: paired dots, profiles along them, the fits as they went."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
import torch
from torch import Tensor

from isthmus.experiments.alignedrecords import (
    LENGTH,
    MAXIMUM,
    MINIMUM,
    STEPS,
    CurveComparison,
    CurvePair,
    Measured,
    Treated,
)
from isthmus.experiments.pairing import Contrast, Mean
from isthmus.report.formats import count, percent, plain_loss, significant, split_name
from isthmus.report.panels import (
    GREY,
    Panel,
    PathStyle,
    View,
    axis,
    compose,
    label,
    linear_axis,
    log_axis,
    styles,
)

SIDES = ("unaligned", "aligned")
_WIDE = 3.0
"""Positive values whose highest is this many times the lowest are drawn on a logarithmic axis."""
_SHIFT = 0.3
_DASHES = {"test": "solid", "train": "5px,3px"}


def side_styles() -> dict[str, PathStyle]:
    """The colours of curves and aligned curves, as in a pair's own study."""
    known = styles(["curve", "aligned curve"])
    return dict(zip(SIDES, known.values(), strict=True))


def paired_figure(study: CurveComparison, *, height: int = 330, controls: bool = True) -> go.Figure:
    """Every pair before and after alignment: length, maximum loss, minimum accuracy, steps to the level.

    Args:
        study: the comparison.
        height: in pixels.
        controls: not used: the axes have one view each.
    """
    return compose([paired_panel(study, name) for name in QUANTITIES], height=height, gap=0.085)


def profiles_figure(study: CurveComparison, *, height: int = 360, controls: bool = True) -> go.Figure:
    """Loss and accuracy along the curves: the mean over the pairs, within the range of the pairs.

    Args:
        study: the comparison.
        height: in pixels.
        controls: whether to offer other axes as buttons.
    """
    panels = [profile_panel(study, of) for of in ("loss", "accuracy")]
    return compose(panels, height=height, controls=controls)


def fits_figure(study: CurveComparison, *, height: int = 360, controls: bool = True) -> go.Figure:
    """The highest training loss on each curve against the gradient steps of its fit.

    Args:
        study: the comparison.
        height: in pixels.
        controls: not used: the axes have one view.
    """
    values = [v for p in study.pairs for s in SIDES for v in _side(p, s).watch.highest.tolist()]
    ends = [max(pair.unaligned.watch.ends, pair.aligned.watch.ends) for pair in study.pairs]
    marks: list[tuple[float, str]] = []
    up = linear_axis()
    if all(v > 0 for v in (*values, *ends)):
        finite = [v for v in (*values, *ends) if math.isfinite(v)]
        up = log_axis(min(finite) / 1.4, max(finite) * 1.5)
        end = math.exp(fmean(map(math.log, ends)))
        marks = [(end, "higher end"), (study.multiple * end, f"level ({study.multiple:g} ×)")]
    panel = Panel(
        tuple(_fit_line(pair, side, index == 0) for side in SIDES for index, pair in enumerate(study.pairs)),
        _steps_axis(max(int(_side(p, s).watch.steps[-1]) for p in study.pairs for s in SIDES)),
        axis("highest training loss on the curve") | up,
        tuple(_across(y) for y, _ in marks),
        tuple(_note(math.log10(y), text) for y, text in marks),
    )
    return compose([panel], height=height).update_layout(margin_r=92 if marks else 16)


def _fit_line(pair: CurvePair, side: str, first: bool) -> Any:
    """One fit: what each look at it found."""
    watch, style = _side(pair, side).watch, side_styles()[side]
    seen = list(zip(watch.steps.tolist(), watch.highest.tolist(), strict=True))
    return go.Scatter(
        x=[_placed(step) for step, _ in seen],
        y=[value if math.isfinite(value) else None for _, value in seen],
        mode="lines+markers", name=side, legendgroup=side, showlegend=first,
        line={"color": style.colour, "width": 1.6},
        marker={"symbol": style.symbol, "size": 4.5, "opacity": 1, "line": {"width": 0}},
        hoverinfo="text",
        hovertext=[
            f"<b>{label(pair.name)}</b>, {side}<br>after {count(step)} steps<br>"
            f"highest training loss {plain_loss(value)}"
            for step, value in seen
        ],
    )  # fmt: skip


def _steps_axis(last: int) -> dict[str, Any]:
    """Steps up to the last, logarithmic, with a place for none."""
    ticks = [0, *(round(10**power) for power in range(math.floor(math.log10(max(last, 1))) + 1))]
    if all(abs(_placed(last) - _placed(tick)) > 0.12 for tick in ticks):
        ticks.append(last)
    return axis(
        "gradient steps of the fit", showgrid=False, range=[-0.06, _placed(last) + 0.08],
        tickvals=[_placed(tick) for tick in ticks], ticktext=[count(tick) for tick in ticks],
    )  # fmt: skip


@dataclass(frozen=True)
class _Quantity:
    """One panel of paired dots.

    Attributes:
        title: of the axis.
        groups: pairs (what stands below, which contrast, on which split).
        scale: from the record's unit to the figure's.
        text: a value in words, in the record's unit.
        count: whether values are counts, which may be infinite: it did not happen.
    """

    title: str
    groups: tuple[tuple[str, str, str], ...]
    scale: float
    text: Callable[[float], str]
    count: bool = False


_BOTH = ("test", "train")
QUANTITIES: dict[str, _Quantity] = {
    LENGTH: _Quantity("length of the curve", (("", LENGTH, ""),), 1.0, lambda v: significant(v, 4)),
    MAXIMUM: _Quantity(
        "maximum loss", tuple((split_name(s), MAXIMUM, s) for s in _BOTH), 1.0, plain_loss
    ),
    MINIMUM: _Quantity(
        "minimum accuracy (%)", tuple((split_name(s), MINIMUM, s) for s in _BOTH), 100.0, percent
    ),
    STEPS: _Quantity(
        "steps to the level", (("train", STEPS, "train"),), 1.0, lambda v: f"{v:,.0f}", count=True
    ),
}  # fmt: skip
"""What is drawn as paired dots, in order."""


def paired_panel(study: CurveComparison, name: str) -> Panel:
    """One quantity: a thin line a pair, and beside the dots the mean with its interval."""
    quantity = QUANTITIES[name]
    found = [(title, study.contrast(which, split)) for title, which, split in quantity.groups]
    pairs = [pair.name for pair in study.pairs if pair.fitted]
    every = [v * quantity.scale for _, each in found for v in (*each.before, *each.after)]
    finite = [v for v in every if math.isfinite(v)] or [1.0]
    # A count that was not reached is drawn above all others.
    roof = 1.6 * max(finite) if quantity.count and len(finite) < len(every) else math.nan
    traces: list[Any] = []
    for place, (_, each) in enumerate(found):
        traces += _pair_lines(each, pairs, quantity, 3 * place, roof)
        traces += _means(each, quantity, 3 * place)
    notes = _missed(found, roof)
    middles = [3 * place + 0.5 for place in range(len(found))]
    across = axis(
        "", showgrid=False, range=[-0.75, 3 * len(found) - 1.25], tickvals=middles, ticklen=0,
        ticktext=[title for title, _ in found],
    )  # fmt: skip
    drawn = [v for v in (*finite, roof) if math.isfinite(v)]
    up = _upward(drawn, _interval_ends(found, quantity.scale))
    if up["type"] == "log":
        notes = [note | {"y": math.log10(note["y"])} for note in notes]
    return Panel(tuple(traces), across, axis(quantity.title) | up, (), tuple(notes))


def profile_panel(study: CurveComparison, of: str) -> Panel:
    """Loss or accuracy along the curves of both sides, held-out (solid) and train (dashed)."""
    bands, lines, values = [], [], []
    for side, style in side_styles().items():
        curves = [_side(p, side).curve for p in study.pairs if p.fitted]
        for split in ("train", "test"):
            found = [_on_grid(curve, split, of) for curve in curves if curve is not None]
            t, rows = found[0][0], torch.stack([row for _, row in found])
            values += rows.flatten().tolist()
            bands.append(_range_band(t, rows, style, split))
            lines.append(_mean_line(t, rows, style, side, split, of))
    keys = [
        go.Scatter(
            x=[None], y=[None], mode="lines", name=split_name(split), hoverinfo="skip",
            line={"color": GREY, "width": 1.8, "dash": _DASHES[split]},
        )
        for split in _BOTH
    ]  # fmt: skip
    ticks = {"tickvals": [0, 0.25, 0.5, 0.75, 1], "ticktext": ["0<br>A", "0.25", "0.5", "0.75", "1<br>B"]}
    across = axis("position t on the curve", range=[-0.02, 1.02], showgrid=False, **ticks)
    if of == "accuracy":
        low = min(v for v in values if math.isfinite(v))
        room = max(100 - low, 0.2)
        up = {"range": [low - 0.12 * room, 100 + 0.06 * room]}
        return Panel((*bands, *lines, *keys), across, axis("accuracy (%)") | up)
    views = [View("linear", linear_axis())]
    if min(values) > 0 and all(map(math.isfinite, values)):
        views.insert(0, View("log", log_axis(min(values) / 1.3, max(values) * 1.3)))
    return Panel((*bands, *lines, *keys), across, axis("loss") | views[0].axis, views=tuple(views))


def _pair_lines(
    each: Contrast, pairs: Sequence[str], quantity: _Quantity, left: float, roof: float
) -> list[Any]:
    """A thin line a pair, from its unaligned dot to its aligned one."""
    drawn = side_styles()
    split = f", {split_name(each.split)}" if each.split else ""
    traces = []
    for index, (name, one, two) in enumerate(zip(pairs, each.before, each.after, strict=True)):
        y = [v * quantity.scale if math.isfinite(v) else roof for v in (one, two)]
        told = [quantity.text(v) if math.isfinite(v) else "not reached" for v in (one, two)]
        traces.append(
            go.Scatter(
                x=[left, left + 1], y=y, mode="lines+markers", showlegend=False, name=label(name),
                line={"color": "rgba(110,116,122,0.55)", "width": 1.2}, cliponaxis=False,
                marker={
                    "color": [drawn[s].colour for s in SIDES], "symbol": [drawn[s].symbol for s in SIDES],
                    "size": [8, 10], "opacity": 1, "line": {"width": 0},
                },
                hoverinfo="text",
                hovertext=[
                    f"<b>{label(name)}</b><br>{side}{split}: {each.name} {text}"
                    for side, text in zip(SIDES, told, strict=True)
                ],
            )
        )  # fmt: skip
        if index == 0 and left == 0:
            traces += [_key(side, style) for side, style in drawn.items()]
    return traces


def _key(side: str, style: PathStyle) -> Any:
    return go.Scatter(
        x=[None], y=[None], mode="markers", name=side, hoverinfo="skip",
        marker={"color": style.colour, "symbol": style.symbol, "size": 9, "opacity": 1, "line": {"width": 0}},
    )  # fmt: skip


def _means(each: Contrast, quantity: _Quantity, left: float) -> list[Any]:
    """The mean over the pairs with its interval, outside of the dots."""
    marks = []
    for side, mean, x in (
        (SIDES[0], each.before_mean, left - _SHIFT), (SIDES[1], each.after_mean, left + 1 + _SHIFT),
    ):  # fmt: skip
        if not math.isfinite(mean.value):
            continue
        marks.append(
            go.Scatter(
                x=[x], y=[quantity.scale * mean.value], mode="markers", showlegend=False,
                name=f"mean, {side}",
                marker={"symbol": "line-ew", "size": 11, "opacity": 1, "line": {"width": 2.4, "color": GREY}},
                error_y=_bars(mean, quantity.scale), hoverinfo="text", cliponaxis=False,
                hovertext=[
                    f"<b>mean of {mean.count} pairs</b>, {side}<br>{each.name} {quantity.text(mean.value)}"
                ],
            )
        )  # fmt: skip
    return marks


def _bars(mean: Mean, scale: float) -> dict[str, Any]:
    if not math.isfinite(mean.low):
        return {"visible": False}
    return {
        "type": "data", "symmetric": False, "thickness": 1.6, "width": 4, "color": GREY,
        "array": [scale * (mean.high - mean.value)], "arrayminus": [scale * (mean.value - mean.low)],
    }  # fmt: skip


def _interval_ends(found: Sequence[tuple[str, Contrast]], scale: float) -> list[float]:
    means = [mean for _, each in found for mean in (each.before_mean, each.after_mean)]
    return [scale * v for mean in means for v in (mean.low, mean.high) if math.isfinite(v)]


def _missed(found: Sequence[tuple[str, Contrast]], roof: float) -> list[dict[str, Any]]:
    """Where counts that did not happen stand, in words."""
    if not math.isfinite(roof):
        return []
    return [
        {
            "xref": "x", "yref": "y", "x": 0.5, "y": roof, "text": "not reached", "showarrow": False,
            "font": {"size": 10.5}, "yanchor": "bottom", "yshift": 5, "opacity": 0.85,
        }
        for _ in found[:1]
    ]  # fmt: skip


def _upward(values: Sequence[float], intervals: Sequence[float]) -> dict[str, Any]:
    """A vertical axis over these values and their intervals; intervals that reach 0 are cut by a log axis."""
    low, high = min(values), max(values)
    if low > 0 and high / low > _WIDE:
        ends = [v for v in intervals if low / 3 < v < 3 * high]
        return log_axis(min(low, *ends, low) / 1.25, max(high, *ends, high) * 1.25)
    low, high = min((low, *intervals)), max((high, *intervals))
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return linear_axis() | {"range": [low - room, high + room], "autorange": False}


def _on_grid(curve: Measured, split: str, of: str) -> tuple[Tensor, Tensor]:
    """A curve at the even positions, which all pairs share, without those added around its maximum."""
    along = curve.on(split)
    y = along.loss if of == "loss" else 100 * (1 - along.error)
    places = along.t * (curve.points - 1)
    even = (places - places.round()).abs() < 1e-9
    return along.t[even], y[even]


def _range_band(t: Tensor, rows: Tensor, style: PathStyle, split: str) -> Any:
    return go.Scatter(
        x=torch.cat([t, t.flip(0)]).tolist(),
        y=torch.cat([rows.max(dim=0).values, rows.min(dim=0).values.flip(0)]).tolist(),
        fill="toself", fillcolor=style.faint(0.22 if split == "test" else 0.12), line={"width": 0},
        mode="lines", hoverinfo="skip", showlegend=False, name="range of the pairs",
    )  # fmt: skip


def _mean_line(t: Tensor, rows: Tensor, style: PathStyle, side: str, split: str, of: str) -> Any:
    held_out = split == "test"
    mean = rows.mean(dim=0).tolist()
    text: Callable[[float], str] = plain_loss if of == "loss" else lambda v: percent(v / 100)
    return go.Scatter(
        x=t.tolist(), y=mean, mode="lines+markers" if held_out else "lines", name=side, legendgroup=side,
        showlegend=held_out, hoverinfo="text",
        line={"color": style.colour, "width": 2.2 if held_out else 1.6, "dash": _DASHES[split]},
        marker={"symbol": style.symbol, "size": 4.5, "opacity": 1, "line": {"width": 0}},
        hovertext=[
            f"<b>{side}</b>, {split_name(split)}<br>t = {x:.3f}<br>mean {of} of {len(rows)} pairs {text(y)}"
            for x, y in zip(t.tolist(), mean, strict=True)
        ],
    )  # fmt: skip


def _side(pair: CurvePair, side: str) -> Treated:
    return pair.aligned if side == SIDES[1] else pair.unaligned


def _placed(step: float) -> float:
    """A number of steps on the axis: logarithmic, with a place for none."""
    return math.log10(1 + step)


def _across(y: float) -> dict[str, Any]:
    return {
        "type": "line", "xref": "x domain", "yref": "y", "x0": 0, "x1": 1, "y0": y, "y1": y, "layer": "below",
        "line": {"color": GREY, "width": 1, "dash": "2px,3px"},
    }  # fmt: skip


def _note(y: float, text: str) -> dict[str, Any]:
    return {
        "xref": "x domain", "yref": "y", "x": 1, "y": y, "xanchor": "left", "yanchor": "middle", "xshift": 4,
        "text": text, "showarrow": False, "font": {"size": 10.5}, "opacity": 0.8,
    }  # fmt: skip

"""What all figures share: colours, fonts, axes, and panels that stand side by side.

Only this module, the modules that draw (`profiles`, `planes`, `charts`, …) import the plotting library.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from isthmus.report.formats import tick

FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
INK = "#24292f"
GREY = "#7b8188"
GRID = "rgba(128,134,140,0.22)"
LINE = "rgba(128,134,140,0.75)"

_PATH_COLOURS = {
    "naive line": "#D55E00",
    "aligned line": "#0072B2",
    "curve": "#009E73",
    "aligned curve": "#CC79A7",
}
"""From the palette of Okabe and Ito: told apart in all common kinds of colour blindness, and at a contrast of
3 to 1 or more against a white and against a dark page."""

_MORE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7b8188", "#8C6D00", "#6F42A8")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "pentagon", "star")


@dataclass(frozen=True)
class PathStyle:
    """How a path is drawn.

    Attributes:
        colour: of its lines.
        symbol: of its markers, so that colour is never the only sign.
    """

    colour: str
    symbol: str

    def faint(self, alpha: float) -> str:
        """The colour, partly transparent."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},{alpha})"


@dataclass(frozen=True)
class View:
    """One of several ways to look at a panel: a button's name and what it changes on the vertical axis."""

    name: str
    axis: dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One pair of axes with what is drawn on it.

    Attributes:
        traces: the marks.
        xaxis: settings of the horizontal axis.
        yaxis: settings of the vertical axis.
        shapes: lines at fixed places.
        annotations: texts at fixed places.
        views: ways to look at it; the first is how it is drawn.
    """

    traces: tuple[Any, ...]
    xaxis: dict[str, Any]
    yaxis: dict[str, Any]
    shapes: tuple[dict[str, Any], ...] = ()
    annotations: tuple[dict[str, Any], ...] = ()
    views: tuple[View, ...] = field(default=())


def styles(names: Sequence[str]) -> dict[str, PathStyle]:
    """A colour and a symbol for each path; the four paths of a study always have the same."""
    known = list(_PATH_COLOURS)
    taken = [_PATH_COLOURS[name] for name in names if name in _PATH_COLOURS]
    spare = [colour for colour in _MORE_COLOURS if colour not in taken] or list(_MORE_COLOURS)
    found: dict[str, PathStyle] = {}
    for name in names:
        if name in _PATH_COLOURS:
            found[name] = PathStyle(_PATH_COLOURS[name], _SYMBOLS[known.index(name)])
        elif name not in found:
            others = sum(other not in _PATH_COLOURS for other in found)
            found[name] = PathStyle(spare[others % len(spare)], _SYMBOLS[others % len(_SYMBOLS)])
    return found


def label(text: str) -> str:
    """A name from outside, as text and nothing but text."""
    return html.escape(text, quote=False)


def axis(title: str, **settings: Any) -> dict[str, Any]:
    """An axis in the common style."""
    common = {
        "title": {"text": title, "standoff": 8, "font": {"size": 13}},
        "tickfont": {"size": 12},
        "showline": True,
        "linecolor": LINE,
        "linewidth": 1,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": LINE,
        "gridcolor": GRID,
        "zeroline": False,
        "automargin": True,
    }
    return common | settings


def log_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis over this range of positive values, with round numbers marked."""
    values = round_numbers(low, high)
    return {
        "type": "log", "range": [math.log10(low), math.log10(high)], "autorange": False,
        "tickmode": "array", "tickvals": values, "ticktext": [tick(value) for value in values],
    }  # fmt: skip


def linear_axis(high: float | None = None) -> dict[str, Any]:
    """A linear axis from zero to here, or over the data if no end is given."""
    bounds = None if high is None else [0, high]
    return {
        "type": "linear", "range": bounds, "autorange": high is None,
        "tickmode": "auto", "tickvals": None, "ticktext": None,
    }  # fmt: skip


def round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two positive numbers; powers alone where those are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    leads = (1, 2, 5) if math.log10(high / low) < 2.6 else (1,)
    values = [float(f"{lead}e{power}") for power in powers for lead in leads]
    return [value for value in values if low * 0.999999 <= value <= high * 1.000001]


def compose(panels: Sequence[Panel], *, height: int, controls: bool = True, gap: float = 0.12) -> go.Figure:
    """One figure of panels side by side, sharing one legend.

    Args:
        panels: from left to right.
        height: in pixels.
        controls: whether to offer the panels' views as buttons in the figure.
        gap: between panels, as a share of the width.
    """
    width = (1 - gap * (len(panels) - 1)) / len(panels)
    figure = go.Figure()
    layout = _common_layout(height, controls and any(len(panel.views) > 1 for panel in panels))
    for index, panel in enumerate(panels):
        suffix = "" if index == 0 else str(index + 1)
        left = index * (width + gap)
        domain = [round(left, 6), round(left + width, 6)]
        layout[f"xaxis{suffix}"] = panel.xaxis | {"anchor": f"y{suffix}", "domain": domain}
        layout[f"yaxis{suffix}"] = panel.yaxis | {"anchor": f"x{suffix}"}
        layout["shapes"] += [_placed(shape, suffix) for shape in panel.shapes]
        layout["annotations"] += [_placed(note, suffix) for note in panel.annotations]
        if controls and len(panel.views) > 1:
            layout["updatemenus"].append(_buttons(panel.views, suffix, domain[0]))
        for trace in panel.traces:
            trace.update(xaxis=f"x{suffix}", yaxis=f"y{suffix}")
            if index:
                trace.update(showlegend=False)
            figure.add_trace(trace)
    figure.update_layout(layout)
    return figure


def _common_layout(height: int, room: bool) -> dict[str, Any]:
    return {
        "template": "none",
        "height": height,
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)" if not room else "#ffffff",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 16, "t": 72 if room else 28, "b": 48},
        "legend": {
            "orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
            "bgcolor": "rgba(0,0,0,0)", "font": {"size": 12},
        },
        "hovermode": "closest",
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "align": "left"},
        "shapes": [],
        "annotations": [],
        "updatemenus": [],
    }  # fmt: skip


def _placed(item: dict[str, Any], suffix: str) -> dict[str, Any]:
    """A shape or annotation on the axes of its panel."""
    places = {
        key: value.replace("x", f"x{suffix}") if key == "xref" else value.replace("y", f"y{suffix}")
        for key, value in item.items()
        if key in ("xref", "yref") and value != "paper"
    }
    return item | places


def _buttons(views: Sequence[View], suffix: str, left: float) -> dict[str, Any]:
    """The views of one panel as a row of buttons above it."""
    return {
        "type": "buttons", "direction": "right", "x": left, "xanchor": "left", "y": 1.0, "yanchor": "bottom",
        "pad": {"b": 34, "t": 0}, "showactive": True, "bgcolor": "#ffffff", "bordercolor": LINE,
        "borderwidth": 1, "font": {"size": 11},
        "buttons": [
            {"label": view.name, "method": "relayout", "args": [relayout(view, suffix)]} for view in views
        ],
    }  # fmt: skip


def relayout(view: View, suffix: str = "") -> dict[str, Any]:
    """What a view changes, as the plotting library takes it."""
    return {f"yaxis{suffix}.{key}": value for key, value in view.axis.items()}

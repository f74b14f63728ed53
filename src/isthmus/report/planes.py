"""The landscape over a plane, as a map or as a relief."""

from __future__ import annotations

import math
from typing import Any, Literal

import plotly.graph_objects as go
import torch
from torch import Tensor

from isthmus.barriers import Quantity
from isthmus.errors import SettingError
from isthmus.report.formats import percent, plain_loss, significant, split_name, tick
from isthmus.report.panels import FONT, GREY, INK, axis, label, round_numbers
from isthmus.surfaces import Surface

_SCALE = (
    (0.0, "#fffbe6"), (0.12, "#f3f3c4"), (0.25, "#cfe7b9"), (0.4, "#8fd0ba"), (0.55, "#4fb3c0"),
    (0.7, "#2b8bb8"), (0.85, "#2a5aa0"), (1.0, "#232c66"),
)  # fmt: skip
"""Light where the loss is low, dark where it is high: lightness falls evenly, so it reads without hue."""

_ON_MAP = "#1b1f24"
_LEVELS = 14
_DECADES = 4.0
"""Contours span at most this many powers of ten above the lowest value."""
MAP_FRAME = 160
"""Pixels above and below a map: legend, axis, colour bar."""


def surface_figure(
    surface: Surface,
    *,
    of: Quantity = "loss",
    view: Literal["map", "relief"] = "map",
    log: bool = True,
    height: int | None = None,
    controls: bool = True,
) -> go.Figure:
    """The plane through three models.

    Args:
        surface: the grid of means.
        of: "loss" or "error".
        view: "map" (contours) or "relief" (in three dimensions; needs WebGL where it is shown).
        log: whether levels are even on a logarithmic scale, so that contours close around low regions.
        height: in pixels; by default such that a map 640 pixels wide fits.
        controls: not used: a map has no buttons. Here so that all figures take the same options.
    """
    if of not in ("loss", "error") or view not in ("map", "relief"):
        raise SettingError(
            f"expected of='loss'|'error' and view='map'|'relief', got of={of!r}, view={view!r}"
        )
    levels = _Levels.of(surface, of, log)
    if view == "relief":
        return _relief(surface, of, levels, height or 560)
    return _map(surface, of, levels, height or round(MAP_FRAME + 568 * shape_of(surface)))


def shape_of(surface: Surface) -> float:
    """The map's height over its width."""
    return float((surface.y[-1] - surface.y[0]) / (surface.x[-1] - surface.x[0]))


class _Levels:
    """The scale of a map: values as they are drawn, contour levels, and ticks of the colour bar."""

    def __init__(self, values: Tensor, low: float, high: float, log: bool, unit: str) -> None:
        self.log, self.unit = log, unit
        self.low, self.high = (math.log10(low), math.log10(high)) if log else (low, high)
        if self.high - self.low < 1e-9:
            self.high = self.low + 1e-9
        self.drawn = self.place(values)

    @classmethod
    def of(cls, surface: Surface, of: Quantity, log: bool) -> _Levels:
        """From the lowest value to the highest; logarithmic only where the values are positive.

        An error of 0 is drawn as half an example wrong, which is the smallest that the data can tell.
        """
        values = surface.loss if of == "loss" else surface.error
        if of == "error":
            values = values.clamp_min(0.5 / surface.examples) * 100
        fine = values[values.isfinite()]
        if not len(fine):
            raise SettingError("no value of this surface is finite: there is nothing to draw")
        low, high = float(fine.min()), float(fine.max())
        log = log and low > 0
        if log:
            low = max(low, high / 10**_DECADES)
        return cls(values, low, high, log, "%" if of == "error" else "")

    def place(self, values: Tensor) -> Tensor:
        """Values as they are drawn; infinite ones at the top."""
        placed = values.double().nan_to_num(nan=math.inf, posinf=math.inf)
        placed = placed.clamp_min(1e-300).log10() if self.log else placed
        return placed.clamp(self.low, self.high)

    @property
    def contours(self) -> dict[str, float]:
        size = (self.high - self.low) / _LEVELS
        return {"start": self.low + size / 2, "end": self.high - size / 2, "size": size}

    @property
    def ticks(self) -> dict[str, Any]:
        """Round numbers at their places."""
        if not self.log:
            return {}
        values = round_numbers(10**self.low, 10**self.high)
        return {"tickvals": [math.log10(value) for value in values], "ticktext": [tick(v) for v in values]}


def _map(surface: Surface, of: Quantity, levels: _Levels, height: int) -> go.Figure:
    figure = go.Figure(_contours(surface, of, levels))
    for trace in (*_trails(surface), _models(surface)):
        figure.add_trace(trace)
    figure.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 56, "r": 16, "t": 36, "b": 124},
        xaxis=_plane_axis(
            surface.x,
            f"distance along {label(surface.names[0])} → {label(surface.names[1])}",
            constrain="domain",
        ),
        yaxis=_plane_axis(
            surface.y, "distance across", scaleanchor="x", scaleratio=1, constrain="domain"
        ),
        title=_bar_title(surface, of, levels),
        legend={
            "orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
            "bgcolor": "rgba(0,0,0,0)", "font": {"size": 12},
        },
        hovermode="closest",
        hoverlabel={"font": {"family": FONT, "size": 12}, "align": "left"},
    )  # fmt: skip
    return figure


def _plane_axis(values: Tensor, title: str, **settings: Any) -> dict[str, Any]:
    bounds = [float(values[0]), float(values[-1])]
    return axis(title, range=bounds, showgrid=False, showline=False, **settings)


def _contours(surface: Surface, of: Quantity, levels: _Levels) -> Any:
    return go.Contour(
        x=surface.x.tolist(),
        y=surface.y.tolist(),
        z=levels.drawn.tolist(),
        zmin=levels.low,
        zmax=levels.high,
        zauto=False,
        autocontour=False,
        contours={"coloring": "fill", **levels.contours},
        line={"width": 0.6, "color": "rgba(20,30,50,0.35)", "smoothing": 0.9},
        colorscale=[list(stop) for stop in _SCALE],
        colorbar=_colour_bar(levels),
        hoverinfo="text",
        hovertext=_hover_grid(surface),
        name=of,
        showlegend=False,
    )


def _colour_bar(levels: _Levels) -> dict[str, Any]:
    return {
        "orientation": "h", "x": 0.5, "xanchor": "center", "yref": "container", "y": 0.01,
        "yanchor": "bottom", "len": 0.9, "thickness": 10, "outlinewidth": 0, "ticks": "outside", "ticklen": 3,
        "tickfont": {"size": 11},
        **levels.ticks,
    }  # fmt: skip


def _bar_title(surface: Surface, of: Quantity, levels: _Levels) -> dict[str, Any]:
    """What the colour bar shows: the figure's title, put above the bar (a bar's own title overlaps it)."""
    scale = ", logarithmic scale" if levels.log else ""
    unit = " (%)" if of == "error" else ""
    return {
        "text": f"{split_name(surface.split)} {of}{unit}{scale}", "font": {"size": 12}, "x": 0.5,
        "xref": "paper", "xanchor": "center", "yref": "container", "y": 0, "yanchor": "bottom",
        "pad": {"b": 48}, "automargin": False,
    }  # fmt: skip


def _hover_grid(surface: Surface) -> list[list[str]]:
    return [
        [
            f"x = {significant(x, 3)}, y = {significant(y, 3)}<br>"
            f"loss {plain_loss(loss)}<br>error {percent(error)}"
            for x, loss, error in zip(surface.x.tolist(), losses, errors, strict=True)
        ]
        for y, losses, errors in zip(
            surface.y.tolist(), surface.loss.tolist(), surface.error.tolist(), strict=True
        )
    ]


def _trails(surface: Surface) -> list[Any]:
    """The straight line between the first two models, and the path, each over a pale border."""
    corners = surface.corners.tolist()
    names = [label(name) for name in surface.names]
    trails = [("straight line", [corners[0], corners[1]], "6px,4px")]
    if len(surface.curve):
        trails.append((label(surface.curve_name) or "curve", surface.curve.tolist(), "solid"))
    drawn = []
    for name, points, dash in trails:
        x, y = [p[0] for p in points], [p[1] for p in points]
        common = {"x": x, "y": y, "mode": "lines", "legendgroup": name, "showlegend": False}
        pale = {"color": "rgba(255,255,255,0.85)", "width": 5}
        dark = {"color": _ON_MAP, "width": 2, "dash": dash}
        told = f"{name} from {names[0]} to {names[1]}"
        drawn.append(go.Scatter(**common, line=pale, hoverinfo="skip", name=f"{name}, border"))
        drawn.append(go.Scatter(**common, line=dark, hoverinfo="text", hovertext=told, name=name))
        # The legend stands on the page, which may be dark: a key in grey instead of the line itself.
        key = {"color": GREY, "width": 2, "dash": dash}
        drawn.append(go.Scatter(x=[None], y=[None], mode="lines", line=key, name=name, legendgroup=name))
    return drawn


def _models(surface: Surface) -> Any:
    """The three models, named; names stand away from the middle of the three."""
    corners = surface.corners
    middle = corners.mean(dim=0)
    positions = [
        f"{'top' if y > middle[1] else 'bottom'} {'right' if x > middle[0] + 1e-9 else 'left'}"
        for x, y in corners.tolist()
    ]
    positions = [p if i < 2 else f"{p.split()[0]} center" for i, p in enumerate(positions)]
    return go.Scatter(
        x=corners[:, 0].tolist(),
        y=corners[:, 1].tolist(),
        mode="markers+text",
        marker={"size": 11, "color": "#ffffff", "line": {"color": _ON_MAP, "width": 2}, "opacity": 1},
        text=[f"<b>{label(name)}</b>" for name in surface.names],
        textposition=positions,
        textfont={"size": 14, "color": _ON_MAP, "shadow": "0 0 3px #fff, 0 0 3px #fff, 0 0 2px #fff"},
        hoverinfo="text",
        hovertext=[_model_text(surface, i) for i in range(len(corners))],
        showlegend=False,
        name="models",
    )


def _model_text(surface: Surface, index: int) -> str:
    x, y = surface.corners[index].tolist()
    return f"<b>{label(surface.names[index])}</b><br>x = {significant(x, 4)}, y = {significant(y, 4)}"


def _relief(surface: Surface, of: Quantity, levels: _Levels, height: int) -> go.Figure:
    figure = go.Figure(
        go.Surface(
            x=surface.x.tolist(),
            y=surface.y.tolist(),
            z=levels.drawn.tolist(),
            colorscale=[list(stop) for stop in _SCALE],
            cmin=levels.low,
            cmax=levels.high,
            colorbar=_colour_bar(levels) | {"len": 0.6},
            contours={"z": {"show": True, **levels.contours, "color": "rgba(20,30,50,0.4)", "width": 1}},
            hoverinfo="text",
            hovertext=_hover_grid(surface),
            lighting={"ambient": 0.75, "diffuse": 0.5, "specular": 0.05, "roughness": 0.9},
            name=of,
        )
    )
    for trace in _raised(surface, levels):
        figure.add_trace(trace)
    wide, tall = float(surface.x[-1] - surface.x[0]), float(surface.y[-1] - surface.y[0])
    unit = max(wide, tall)
    quiet = {"showbackground": False, "gridcolor": "rgba(128,134,140,0.3)", "zeroline": False}
    scene = {
        "xaxis": quiet | {"title": {"text": "along"}},
        "yaxis": quiet | {"title": {"text": "across"}},
        "zaxis": quiet | {"title": {"text": of}, **levels.ticks},
        "aspectratio": {"x": 1.3 * wide / unit, "y": 1.3 * tall / unit, "z": 0.7},
        "camera": {"eye": {"x": -0.8, "y": -1.45, "z": 1.35}, "center": {"z": -0.12}},
    }
    figure.update_layout(
        template="none", height=height, font={"family": FONT, "size": 12, "color": INK}, scene=scene,
        title=_bar_title(surface, of, levels),
        paper_bgcolor="rgba(0,0,0,0)", margin={"l": 8, "r": 8, "t": 8, "b": 8}, showlegend=False,
    )  # fmt: skip
    return figure


def _raised(surface: Surface, levels: _Levels) -> list[Any]:
    """The path and the models, lifted to the nearest node's height."""

    def lifted(points: Tensor) -> dict[str, Any]:
        column = (points[:, :1] - surface.x[None]).abs().argmin(dim=1)
        row = (points[:, 1:] - surface.y[None]).abs().argmin(dim=1)
        z = levels.drawn[row, column] + 0.015 * (levels.high - levels.low)
        return {"x": points[:, 0].tolist(), "y": points[:, 1].tolist(), "z": z.tolist()}

    share = torch.linspace(0, 1, 41, dtype=torch.float64)[:, None]
    straight = (1 - share) * surface.corners[:1] + share * surface.corners[1:2]
    drawn = [
        go.Scatter3d(
            **lifted(straight), mode="lines", line={"color": _ON_MAP, "width": 4, "dash": "dash"},
            hoverinfo="name", name="straight line",
        )
    ]  # fmt: skip
    if len(surface.curve):
        drawn.append(
            go.Scatter3d(
                **lifted(surface.curve), mode="lines", line={"color": _ON_MAP, "width": 6},
                hoverinfo="name", name=label(surface.curve_name),
            )
        )  # fmt: skip
    drawn.append(
        go.Scatter3d(
            **lifted(surface.corners), mode="markers+text", name="models", hoverinfo="text",
            marker={"size": 5, "color": "#ffffff", "line": {"color": _ON_MAP, "width": 2}},
            text=[f"<b>{label(name)}</b>" for name in surface.names], textposition="top center",
            hovertext=[_model_text(surface, i) for i in range(3)],
        )
    )  # fmt: skip
    return drawn

"""The landscape over a plane, in three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import torch
from torch import Tensor

from isthmus.report.formats import split_name
from isthmus.report.panels import FONT, INK, label
from isthmus.surfaces import Scale, Surface

_INK = "#1b1f24"
_STRAIGHT = "#D55E00"
_LIFT = 0.012
"""How far lines float above the surface, as a share of the scale."""
_POLE = 0.14
"""How far the models' names stand above the highest value, as a share of the scale."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A surface with all that a figure of it needs.

    Attributes:
        surface: the surface.
        title: what is drawn, as the map's title has it.
        scale: of its values.
        heights: its values on that scale, shape (rows, columns).
        bar: the colour bar.
        colours: from low to high.
        hover: what each node says.
        lines: names and coordinates of what is drawn over it, the straight lines first.
        models: names, coordinates, and what they say when pointed at.
    """

    surface: Surface
    title: dict[str, Any]
    scale: Scale
    heights: Tensor
    bar: dict[str, Any]
    colours: Sequence[tuple[float, str]]
    hover: list[list[str]]
    lines: Sequence[tuple[str, Tensor]]
    models: Sequence[tuple[str, Tensor, str]]

    def lifted(self, points: Tensor) -> dict[str, list[float]]:
        """Points of the plane, a little above the surface."""
        surface = self.surface
        column, across = _cell(surface.x, points[:, 0])
        row, up = _cell(surface.y, points[:, 1])
        z = self.heights
        low = z[row, column] * (1 - across) + z[row, column + 1] * across
        high = z[row + 1, column] * (1 - across) + z[row + 1, column + 1] * across
        height = low * (1 - up) + high * up + _LIFT * self.scale.range
        return {"x": points[:, 0].tolist(), "y": points[:, 1].tolist(), "z": height.tolist()}


def relief(drawn: Drawn, height: int) -> go.Figure:
    """The surface as a relief: height and colour are one scale; models on poles, so that none is hidden."""
    surface, scale = drawn.surface, drawn.scale
    figure = go.Figure(
        go.Surface(
            x=surface.x.tolist(),
            y=surface.y.tolist(),
            z=drawn.heights.tolist(),
            colorscale=[list(stop) for stop in drawn.colours],
            cmin=scale.low,
            cmax=scale.high,
            colorbar=drawn.bar | {"len": 0.6},
            contours={"z": {
                "show": True, "start": scale.low + scale.step / 2, "end": scale.high - scale.step / 2,
                "size": scale.step, "color": "rgba(20,30,50,0.45)", "width": 1, "highlight": False,
            }},
            hoverinfo="text",
            hovertext=drawn.hover,
            lighting={"ambient": 0.82, "diffuse": 0.35, "specular": 0.03, "roughness": 0.95},
            name=f"{split_name(surface.split)} surface",
        )
    )  # fmt: skip
    for trace in (*_lines(drawn), *_poles(drawn)):
        figure.add_trace(trace)
    figure.update_layout(
        template="none", height=height, font={"family": FONT, "size": 12, "color": INK}, scene=_scene(drawn),
        title=drawn.title, paper_bgcolor="rgba(0,0,0,0)", margin={"l": 0, "r": 0, "t": 0, "b": 64},
        showlegend=False,
    )  # fmt: skip
    return figure


def _scene(drawn: Drawn) -> dict[str, Any]:
    """Axes to one scale in the plane; the camera stands in front of the line from A to B, and well above."""
    surface = drawn.surface
    wide, tall = float(surface.x[-1] - surface.x[0]), float(surface.y[-1] - surface.y[0])
    unit = max(wide, tall)
    quiet: dict[str, Any] = {
        "showbackground": False, "gridcolor": "rgba(128,134,140,0.3)", "zeroline": False,
        "tickfont": {"size": 10}, "nticks": 6,
    }  # fmt: skip
    first, second = (label(name) for name in surface.names[:2])
    heights: dict[str, Any] = {k: v for k, v in drawn.bar.items() if k in ("tickvals", "ticktext")}
    return {
        "xaxis": quiet | {"title": {"text": f"along {first} → {second}", "font": {"size": 11}}},
        "yaxis": quiet | {"title": {"text": "across", "font": {"size": 11}}},
        "zaxis": quiet | {"title": {"text": ""}} | heights,
        "aspectmode": "manual",
        "aspectratio": {"x": 1.6 * wide / unit, "y": 1.6 * tall / unit, "z": 0.62},
        "camera": {
            "eye": {"x": -0.62, "y": -1.3, "z": 1.25},
            "center": {"x": 0.0, "y": 0.0, "z": -0.02},
            "projection": {"type": "orthographic"},
        },
    }


def _lines(drawn: Drawn) -> list[Any]:
    """The straight lines in a colour that the scale does not have, for they climb walls; the paths dark."""
    traces = []
    for index, (name, points) in enumerate(drawn.lines):
        where = drawn.lifted(points if index else _dense(points))
        line = {"color": _INK, "width": 8} if index else {"color": _STRAIGHT, "width": 5}
        traces.append(go.Scatter3d(**where, mode="lines", line=line, hoverinfo="name", name=label(name)))
    return traces


def _poles(drawn: Drawn) -> list[Any]:
    """Each model as a pole with its name on top, and a point where it stands."""
    points = torch.cat([where for _, where, _ in drawn.models])
    feet = drawn.lifted(points)
    top = drawn.scale.high + _POLE * drawn.scale.range
    x, y, z = ([value for foot in feet[axis] for value in (foot, foot, None)] for axis in "xyz")
    z[1::3] = [top] * len(points)
    names = [f"<b>{label(name)}</b>" for name, _, _ in drawn.models]
    told = [text for _, _, text in drawn.models]
    common = {"hoverinfo": "text", "hovertext": told}
    marker = {"size": 5, "color": "#ffffff", "line": {"color": _INK, "width": 2}}
    return [
        go.Scatter3d(
            x=x, y=y, z=z, mode="lines", line={"color": _INK, "width": 2}, hoverinfo="skip", name="poles"
        ),
        go.Scatter3d(**feet, mode="markers", marker=marker, name="models", **common),
        go.Scatter3d(
            x=feet["x"], y=feet["y"], z=[top] * len(points), mode="text", text=names, name="names",
            textposition="top center", textfont={"size": 15}, **common,
        ),
    ]  # fmt: skip


def _dense(points: Tensor, pieces: int = 40) -> Tensor:
    """A polyline with many points on each piece, so that it follows the surface."""
    share = torch.arange(pieces, dtype=points.dtype)[:, None] / pieces
    parts = [(1 - share) * one + share * two for one, two in pairwise(points)]
    return torch.cat([*parts, points[-1:]])


def _cell(grid: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """The cell that each place lies in, and how far it is into it."""
    index = (torch.searchsorted(grid, places.contiguous()) - 1).clamp(0, len(grid) - 2)
    return index, ((places - grid[index]) / (grid[index + 1] - grid[index])).clamp(0, 1)

"""The landscape over a plane, as a map."""

from __future__ import annotations

from typing import Any, Literal

import plotly.graph_objects as go
import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.report.formats import count, interval, percent, plain_loss, significant, split_name, tick
from isthmus.report.panels import FONT, GREY, INK, axis, label, round_numbers
from isthmus.report.reliefs import Drawn, relief
from isthmus.surfaces import Scale, Shown, Surface, scale_of

COLOURS = (
    (0.0, "#fffbe6"), (0.12, "#f3f3c4"), (0.25, "#cfe7b9"), (0.4, "#8fd0ba"), (0.55, "#4fb3c0"),
    (0.7, "#2b8bb8"), (0.85, "#2a5aa0"), (1.0, "#232c66"),
)  # fmt: skip
"""Light where the loss is low, dark where it is high: lightness falls evenly, so it reads without hue."""

ON_MAP = "#1b1f24"
MAP_FRAME = 160
"""Pixels above and below a map: legend, axis, colour bar."""
_DASHES = ("solid", "dot", "dashdot", "longdash")
"""Of the paths over a map, in turn: all are dark, for the map has the colours."""


def surface_figure(
    surface: Surface,
    *,
    of: Shown = "loss",
    view: Literal["map", "relief"] = "map",
    log: bool = True,
    height: int | None = None,
    controls: bool = True,
) -> go.Figure:
    """The plane through three models.

    Args:
        surface: the grid of means.
        of: "loss", "error", or "objective": the loss with the weight decay of training, loss + ½ λ ‖θ‖².
        view: "map" (contours) or "relief" (in three dimensions; needs WebGL where it is shown).
        log: whether levels are even on a logarithmic scale, so that contours close around low regions.
        height: in pixels; by default such that a map 640 pixels wide fits.
        controls: not used: a map has no buttons. Here so that all figures take the same options.
    """
    if of not in ("loss", "error", "objective") or view not in ("map", "relief"):
        raise SettingError(
            f"expected of='loss'|'error'|'objective' and view='map'|'relief', got of={of!r}, view={view!r}"
        )
    if of == "objective" and surface.squares is None:
        raise SettingError("this surface has no norms of its weights, so that its objective is not known")
    values = surface.values(of)
    if of == "error":  # an error of 0 is drawn as half an example wrong, the smallest that the data can tell
        values = values.clamp_min(0.5 / surface.examples) * 100
    scale = scale_of(values, log)
    if view == "relief":
        lines = [straight_lines(surface), *((name, points) for name, points, _ in paths_over(surface))]
        return relief(
            Drawn(
                surface, _title(surface, of, scale), scale, scale.place(values), _bar(scale), COLOURS,
                hover_grid(surface), lines, _standing(surface),
            ),
            height or 560,
        )  # fmt: skip
    return _map(surface, of, scale, values, height or round(MAP_FRAME + 568 * shape_of(surface)))


def shape_of(surface: Surface) -> float:
    """The map's height over its width."""
    return float((surface.y[-1] - surface.y[0]) / (surface.x[-1] - surface.x[0]))


def quantity_name(of: Shown) -> str:
    """What is drawn, in words."""
    return "loss with weight decay" if of == "objective" else of


def _map(surface: Surface, of: Shown, scale: Scale, values: Tensor, height: int) -> go.Figure:
    figure = go.Figure(_contours(surface, of, scale, values))
    for trace in (*_dots(surface), *_trails(surface), *_models(surface)):
        figure.add_trace(trace)
    first, second = label(surface.names[0]), label(surface.names[1])
    figure.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 56, "r": 16, "t": 36, "b": 124},
        xaxis=_plane_axis(surface.x, f"distance along {first} → {second}", constrain="domain"),
        yaxis=_plane_axis(
            surface.y, "distance across", scaleanchor="x", scaleratio=1, constrain="domain"
        ),
        title=_title(surface, of, scale),
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


def _contours(surface: Surface, of: Shown, scale: Scale, values: Tensor) -> Any:
    levels = {"start": scale.low + scale.step / 2, "end": scale.high - scale.step / 2, "size": scale.step}
    return go.Contour(
        x=surface.x.tolist(),
        y=surface.y.tolist(),
        z=scale.place(values).tolist(),
        zmin=scale.low,
        zmax=scale.high,
        zauto=False,
        autocontour=False,
        contours={"coloring": "fill", **levels},
        line={"width": 0.6, "color": "rgba(20,30,50,0.35)", "smoothing": 1.1},
        colorscale=[list(stop) for stop in COLOURS],
        colorbar=_bar(scale),
        hoverinfo="text",
        hovertext=hover_grid(surface),
        name=of,
        showlegend=False,
    )


def _bar(scale: Scale) -> dict[str, Any]:
    """The colour bar, with round numbers at their places."""
    ticks: dict[str, Any] = {}
    if scale.log:
        numbers = _round_values(scale)
        heights = scale.place(torch.tensor(numbers, dtype=torch.float64)).tolist()
        ticks = {"tickvals": heights, "ticktext": [tick(value) for value in numbers]}
    return {
        "orientation": "h", "x": 0.5, "xanchor": "center", "yref": "container", "y": 0,
        "yanchor": "bottom", "len": 0.9, "thickness": 10, "outlinewidth": 0, "ticks": "outside", "ticklen": 3,
        "tickfont": {"size": 11},
        **ticks,
    }  # fmt: skip


def _round_values(scale: Scale) -> list[float]:
    """Round numbers on a logarithmic scale; where it is one of heights, values at even places."""
    low, high = scale.value(torch.tensor([scale.low, scale.high])).tolist()
    if scale.shift == 0:
        return round_numbers(low, high)
    places = torch.linspace(scale.low, scale.high, 6, dtype=torch.float64)
    return [float(f"{value:.2g}") for value in scale.value(places[1:-1]).tolist()]


def _title(surface: Surface, of: Shown, scale: Scale) -> dict[str, Any]:
    """What the colour bar shows: the figure's title, put above the bar (a bar's own title overlaps it)."""
    told = ", logarithmic scale" if scale.log else ""
    if scale.shift:
        told = ", logarithmic above the lowest"
    unit = " (%)" if of == "error" else ""
    return {
        "text": f"{split_name(surface.split)} {quantity_name(of)}{unit}{told}",
        "font": {"size": 12}, "x": 0.5,
        "xref": "paper", "xanchor": "center", "yref": "container", "y": 0, "yanchor": "bottom",
        "pad": {"b": 54}, "automargin": False,
    }  # fmt: skip


def hover_grid(surface: Surface) -> list[list[str]]:
    """What each node says: its place, loss and error, and whether they were evaluated or interpolated."""
    known = None if surface.interpolated is None else surface.interpolated.evaluated
    bounds = [[each.tolist() for each in surface.interval(of)] for of in ("loss", "error")]
    loss, error = surface.loss.tolist(), surface.error.tolist()

    def told(row: int, column: int) -> str:
        x, y = float(surface.x[column]), float(surface.y[row])
        text = f"x = {significant(x, 3)}, y = {significant(y, 3)}<br>"
        if known is None or bool(known[row, column]):
            return f"{text}loss {plain_loss(loss[row][column])}<br>error {percent(error[row][column])}"
        spans = [
            interval(of, low[row][column], high[row][column])
            for of, (low, high) in zip(("loss", "error"), bounds, strict=True)
        ]
        return (
            f"{text}loss {plain_loss(loss[row][column])} {spans[0]}<br>"
            f"error {percent(error[row][column])} {spans[1]}<br><i>interpolated</i>"
        )

    return [[told(row, column) for column in range(len(surface.x))] for row in range(len(surface.y))]


def _dots(surface: Surface) -> list[Any]:
    """The nodes that were evaluated, where not all were."""
    if surface.interpolated is None:
        return []
    rows, columns = surface.interpolated.evaluated.nonzero(as_tuple=True)
    name = f"evaluated: {count(surface.evaluations)} of {count(surface.nodes)} nodes"
    key = go.Scatter(
        x=[None], y=[None], mode="markers", marker={"size": 5, "color": GREY}, name=name,
        legendgroup="evaluated",
    )  # fmt: skip
    dots = go.Scatter(
        x=surface.x[columns].tolist(), y=surface.y[rows].tolist(), mode="markers", hoverinfo="skip",
        marker={"size": 3.5, "color": "rgba(27,31,36,0.55)"}, name=name, legendgroup="evaluated",
        showlegend=False,
    )  # fmt: skip
    return [dots, key]


def straight_lines(surface: Surface) -> tuple[str, Tensor]:
    """The straight lines to draw, with their name: all three, or the ends' where a path joins them."""
    corners = surface.corners
    if len(surface.curve) or surface.paths:
        return "straight line", corners[:2]
    return "straight lines", corners[[0, 1, 2, 0]]


def paths_over(surface: Surface) -> list[tuple[str, Tensor, float]]:
    """The paths drawn over a surface: name, coordinates, largest distance from the plane."""
    found = [(path.name, path.points, path.gap) for path in surface.paths]
    if len(surface.curve):
        found.insert(0, (surface.curve_name or "curve", surface.curve, surface.gap))
    return found


def _trails(surface: Surface) -> list[Any]:
    """The straight lines and the paths, each over a pale border."""
    line, places = straight_lines(surface)
    trails = [(line, places, 0.0, "6px,4px")]
    for index, (name, points, gap) in enumerate(paths_over(surface)):
        trails.append((label(name), points, gap, _DASHES[index % len(_DASHES)]))
    drawn = []
    for name, points, gap, dash in trails:
        x, y = points.T.tolist()
        common = {"x": x, "y": y, "mode": "lines", "legendgroup": name, "showlegend": False}
        pale = {"color": "rgba(255,255,255,0.85)", "width": 5}
        dark = {"color": ON_MAP, "width": 2, "dash": dash}
        told = name + (f"<br>at most {significant(gap, 3)} from the plane" if gap else "")
        drawn.append(go.Scatter(**common, line=pale, hoverinfo="skip", name=f"{name}, border"))
        drawn.append(go.Scatter(**common, line=dark, hoverinfo="text", hovertext=told, name=name))
        # The legend stands on the page, which may be dark: a key in grey instead of the line itself.
        key = {"color": GREY, "width": 2, "dash": dash}
        drawn.append(go.Scatter(x=[None], y=[None], mode="lines", line=key, name=name, legendgroup=name))
    return drawn


def _models(surface: Surface) -> list[Any]:
    """The three models, named; names stand away from the middle of the three. Then the further ones."""
    corners = surface.corners
    middle = corners.mean(dim=0)
    positions = [
        f"{'top' if y > middle[1] else 'bottom'} {'right' if x > middle[0] + 1e-9 else 'left'}"
        for x, y in corners.tolist()
    ]
    positions = [p if i < 2 else f"{p.split()[0]} center" for i, p in enumerate(positions)]
    drawn = [_markers("models", corners, surface.names, "circle", positions, corner_texts(surface))]
    if surface.models:
        further = surface.models
        drawn.append(
            _markers(
                "further models, projected", torch.cat([each.points for each in further]),
                [each.name for each in further], "diamond", ["top center"] * len(further),
                further_texts(surface),
            )
        )  # fmt: skip
    return drawn


def _markers(
    name: str, points: Tensor, names: Any, symbol: str, positions: list[str], texts: list[str]
) -> Any:
    return go.Scatter(
        x=points[:, 0].tolist(),
        y=points[:, 1].tolist(),
        mode="markers+text",
        marker={
            "size": 11, "symbol": symbol, "color": "#ffffff", "line": {"color": ON_MAP, "width": 2},
            "opacity": 1,
        },
        text=[f"<b>{label(each)}</b>" for each in names],
        textposition=positions,
        textfont={"size": 14, "color": ON_MAP, "shadow": "0 0 3px #fff, 0 0 3px #fff, 0 0 2px #fff"},
        hoverinfo="text",
        hovertext=texts,
        showlegend=False,
        name=name,
    )  # fmt: skip


def corner_texts(surface: Surface) -> list[str]:
    """What the three models say when pointed at."""
    return [
        _told(surface.names[i], place, _own(surface, i)) for i, place in enumerate(surface.corners.tolist())
    ]


def further_texts(surface: Surface) -> list[str]:
    """What the further models say when pointed at."""
    return [
        _told(each.name, each.points[0].tolist(), (each.loss, each.error))
        + f"<br>{significant(each.gap, 3)} from the plane"
        for each in surface.models
    ]


def _standing(surface: Surface) -> list[tuple[str, Tensor, str]]:
    """All models: name, place, and what they say when pointed at."""
    corners = zip(surface.names, torch.split(surface.corners, 1), corner_texts(surface), strict=True)
    further = [
        (each.name, each.points, text)
        for each, text in zip(surface.models, further_texts(surface), strict=True)
    ]
    return [*corners, *further]


def _own(surface: Surface, index: int) -> tuple[float, float] | None:
    if surface.corner_loss is None or surface.corner_error is None:
        return None
    return float(surface.corner_loss[index]), float(surface.corner_error[index])


def _told(name: str, place: list[float], own: tuple[float, float] | None) -> str:
    told = f"<b>{label(name)}</b><br>x = {significant(place[0], 4)}, y = {significant(place[1], 4)}"
    return told if own is None else f"{told}<br>loss {plain_loss(own[0])}<br>error {percent(own[1])}"

"""Loss and error along paths: the figure that shows a barrier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go
import torch
from torch import Tensor

from isthmus.barriers import Barrier, Profile, Quantity
from isthmus.errors import SettingError
from isthmus.experiments.records import PathStudy
from isthmus.report.formats import coverage, interval, position, quantity, significant, split_name, tolerance
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
from isthmus.report.sentences import barrier_sentence

Along = Literal["t", "arc"]

_DASHES = {"test": "solid", "train": "5px,3px"}
_LABEL_GAP = 0.07
"""Barriers are labelled if they are this share of the panel apart."""


@dataclass(frozen=True, eq=False)
class Line:
    """One path of a figure.

    Attributes:
        name: in the legend.
        profiles: on one split or more.
        barriers: what is known of its barriers; for hovering.
    """

    name: str
    profiles: tuple[Profile, ...]
    barriers: tuple[Barrier, ...] = ()


def lines_of_paths(paths: Sequence[PathStudy]) -> list[Line]:
    """The paths of a study."""
    return [Line(path.name, path.profiles, path.barriers) for path in paths]


def lines_of_profiles(profiles: Sequence[Profile], names: Sequence[str] | None = None) -> list[Line]:
    """Profiles as lines: those of one name on different splits are one path."""
    if names is not None and len(names) != len(profiles):
        raise SettingError(f"expected one name for each of {len(profiles)} profiles, got {len(names)}")
    grouped: dict[str, list[Profile]] = {}
    for index, profile in enumerate(profiles):
        name = names[index] if names is not None else profile.kind
        if names is None:
            name = _free_name(name, profile.split, grouped)
        grouped.setdefault(name, []).append(profile)
    return [Line(name, tuple(several)) for name, several in grouped.items()]


def profile_figure(
    lines: Sequence[Line],
    *,
    of: Quantity | Literal["both"] = "both",
    along: Along = "t",
    splits: Sequence[str] = ("test", "train"),
    level: float = 0.95,
    within: float | None = None,
    height: int = 420,
    controls: bool = True,
) -> go.Figure:
    """Loss and error along paths, with intervals, on train (dashed) and held-out data (solid).

    Args:
        lines: the paths.
        of: "loss", "error" or "both", side by side.
        along: the horizontal axis: the position "t" or the "arc" length.
        splits: which data to show.
        level: coverage of the bands.
        within: a tolerance to mark above the mean of the ends.
        height: in pixels.
        controls: whether to offer buttons for a logarithmic axis and a close-up.
    """
    if of not in ("loss", "error", "both") or along not in ("t", "arc"):
        raise SettingError(
            f"expected of='loss'|'error'|'both' and along='t'|'arc', got of={of!r}, along={along!r}"
        )
    quantities: tuple[Quantity, ...] = ("error", "loss") if of == "both" else (of,)
    panels = [profile_panel(lines, each, along, splits, level, within) for each in quantities]
    return compose(panels, height=height, controls=controls)


def profile_panel(
    lines: Sequence[Line],
    of: Quantity,
    along: Along = "t",
    splits: Sequence[str] = ("test", "train"),
    level: float = 0.95,
    within: float | None = None,
) -> Panel:
    """One quantity along all paths: bands below, then train, then held-out, then the barriers' marks."""
    shown = [
        _Curve(line, profile, style, of, along, level)
        for line, style in zip(lines, styles([line.name for line in lines]).values(), strict=True)
        for profile in line.profiles
        if profile.split in splits
    ]
    if not shown:
        raise SettingError(f"there is no profile on {' or '.join(splits)} data to draw")
    shown.sort(key=lambda curve: curve.profile.split == "test")
    lead = "test" if any(curve.profile.split == "test" for curve in shown) else shown[0].profile.split
    traces = [_band(curve) for curve in shown] + [_curve(curve, lead) for curve in shown]
    leaders = [curve for curve in shown if curve.profile.split == lead]
    traces += _barrier_marks(leaders)
    traces += _split_keys(sorted({curve.profile.split for curve in shown}, reverse=True))
    title = "error (%)" if of == "error" else "loss"
    views = _views(shown)
    top = max(float(_finite(curve.y).max()) for curve in shown)
    return Panel(
        tuple(traces),
        _position_axis(along),
        axis(title, rangemode="tozero") | views[0].axis,
        *(_tolerance_line(leaders[0], within, top) if within is not None and of == "error" else ((), ())),
        views=views,
    )


@dataclass(frozen=True, eq=False)
class _Curve:
    """One profile of one quantity, in the units of the figure."""

    line: Line
    profile: Profile
    style: PathStyle
    of: Quantity
    along: Along
    level: float

    @property
    def x(self) -> Tensor:
        return self.profile.t if self.along == "t" else self.profile.distance

    @property
    def scale(self) -> float:
        return 100.0 if self.of == "error" else 1.0

    @property
    def mean(self) -> Tensor:
        return self.profile.error if self.of == "error" else self.profile.loss

    @property
    def y(self) -> Tensor:
        return self.scale * self.mean

    @property
    def band(self) -> tuple[Tensor, Tensor]:
        """The interval of the mean, held within what an error rate can be."""
        low, high = self.profile.band(self.of, self.level)
        if self.of == "error":
            low, high = low.clamp(0, 1), high.clamp(0, 1)
        return self.scale * low, self.scale * high

    @property
    def barrier(self) -> Barrier | None:
        wanted = (self.of, self.profile.split, "mean")
        return next((b for b in self.line.barriers if (b.of, b.split, b.above) == wanted), None)

    @property
    def title(self) -> str:
        return f"<b>{label(self.line.name)}</b>, {split_name(self.profile.split)}"


def _band(curve: _Curve) -> Any:
    low, high = curve.band
    fine = low.isfinite() & high.isfinite()
    x, low, high = curve.x[fine], low[fine], high[fine]
    if bool((curve.y[fine] > 0).all()) and curve.of == "loss":
        # A logarithmic axis cannot show a lower end of 0 or less: the band then runs off the figure's foot.
        low = torch.maximum(low, curve.y[fine] / 1000)
    return go.Scatter(
        x=torch.cat([x, x.flip(0)]).tolist(),
        y=torch.cat([high, low.flip(0)]).tolist(),
        fill="toself",
        fillcolor=curve.style.faint(0.13 if curve.profile.split == "test" else 0.07),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        legendgroup=curve.line.name,
        name=f"{label(curve.line.name)}, {split_name(curve.profile.split)}, {coverage(curve.level)} interval",
    )


def _curve(curve: _Curve, lead: str) -> Any:
    held_out = curve.profile.split == "test"
    low, high = curve.profile.band(curve.of, curve.level)
    ends = (0, len(curve.x) - 1)
    return go.Scatter(
        x=curve.x.tolist(),
        y=[value if abs(value) != torch.inf else None for value in curve.y.tolist()],
        mode="lines+markers",
        line={
            "color": curve.style.colour, "width": 2.2 if held_out else 1.4,
            "dash": _DASHES.get(curve.profile.split, "dot"),
        },
        marker={
            "symbol": curve.style.symbol, "color": curve.style.colour, "opacity": 1, "line": {"width": 0},
            "size": [7 if i in ends else 4 if held_out else 0 for i in range(len(curve.x))],
        },
        name=label(curve.line.name),
        legendgroup=curve.line.name,
        showlegend=curve.profile.split == lead,
        hoverinfo="text",
        hovertext=[
            f"{curve.title}<br>t = {position(t)}, arc length {significant(d, 4)}<br>"
            f"{curve.of} {quantity(curve.of, m)}, {coverage(curve.level)} {interval(curve.of, lo, hi)}"
            for t, d, m, lo, hi in zip(
                curve.profile.t.tolist(), curve.profile.distance.tolist(), curve.mean.tolist(),
                low.tolist(), high.tolist(), strict=True,
            )
        ],
    )  # fmt: skip


def _barrier_marks(curves: Sequence[_Curve]) -> list[Any]:
    """The highest point of each path; if it stands apart, joined to the mean of the ends and labelled."""
    tops = [float(curve.y.nan_to_num(nan=0.0, posinf=0.0).max()) for curve in curves]
    room = _LABEL_GAP * max([*tops, 1e-12])
    labelled: list[float] = []
    marks = []
    for top, curve in sorted(zip(tops, curves, strict=True), key=lambda pair: -pair[0]):
        y = curve.y.nan_to_num(nan=-torch.inf, posinf=-torch.inf)
        at, foot = int(y.argmax()), float((curve.y[0] + curve.y[-1]) / 2)
        apart = top - foot > 2 * room and all(abs(top - other) > room for other in labelled)
        if apart:
            labelled.append(top)
        marks.append(_barrier_mark(curve, float(curve.x[at]), foot, top, apart))
    return marks[::-1]


def _barrier_mark(curve: _Curve, x: float, foot: float, top: float, labelled: bool) -> Any:
    height = quantity(curve.of, (top - foot) / curve.scale)
    told = barrier_sentence(curve.barrier) if curve.barrier else f"{curve.of} barrier {height}"
    text = f"{curve.title}<br>highest point: {told.replace(', on ', '<br>on ')}"
    return go.Scatter(
        x=[x, x],
        y=[foot, top],
        mode="lines+markers+text" if labelled else "markers",
        line={"color": curve.style.colour, "width": 1, "dash": "dot"},
        marker={
            "symbol": ["line-ew", curve.style.symbol], "size": [8, 10], "color": curve.style.colour,
            "opacity": 1,
            "line": {"width": [1.5 if labelled else 0, 1.5], "color": [curve.style.colour, "#ffffff"]},
        },
        text=["", f"<b>{height}</b>"],
        textposition="top center",
        textfont={"color": curve.style.colour, "size": 12},
        cliponaxis=False,
        hoverinfo="text",
        hovertext=[f"{curve.title}<br>mean of the ends", text],
        showlegend=False,
        legendgroup=curve.line.name,
        name=f"{label(curve.line.name)}, barrier",
    )  # fmt: skip


def _split_keys(splits: Sequence[str]) -> list[Any]:
    """What solid and dashed mean, in the legend."""
    return [
        go.Scatter(
            x=[None], y=[None], mode="lines", name=split_name(split), hoverinfo="skip",
            line={"color": GREY, "width": 1.8, "dash": _DASHES.get(split, "dot")}, legendgroup=f"key {split}",
        )
        for split in sorted(splits, key=lambda split: split != "test")
    ]  # fmt: skip


def _tolerance_line(
    curve: _Curve, within: float, room: float
) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
    """The tolerance above the mean of the ends, which all paths share; named where there is room."""
    height = float((curve.y[0] + curve.y[-1]) / 2) + 100 * within
    line = {
        "type": "line", "xref": "x domain", "yref": "y", "x0": 0, "x1": 1, "y0": height, "y1": height,
        "line": {"color": GREY, "width": 1, "dash": "2px,3px"}, "layer": "below",
    }  # fmt: skip
    if 100 * within < _LABEL_GAP * room:
        return (line,), ()
    note = {
        "xref": "x domain", "yref": "y", "x": 1, "y": height, "xanchor": "right", "yanchor": "bottom",
        "text": f"mean of the ends + {tolerance(within)}", "showarrow": False, "font": {"size": 10.5},
        "opacity": 0.75,
    }  # fmt: skip
    return (line,), (note,)


def _position_axis(along: Along) -> dict[str, Any]:
    if along == "arc":
        return axis("arc length from A", rangemode="tozero", showgrid=False)
    ticks = {"tickvals": [0, 0.25, 0.5, 0.75, 1], "ticktext": ["0<br>A", "0.25", "0.5", "0.75", "1<br>B"]}
    return axis("position t on the path", range=[-0.02, 1.02], showgrid=False, **ticks)


def _views(curves: Sequence[_Curve]) -> tuple[View, ...]:
    """Linear; logarithmic where every value is positive; a close-up where one path dwarfs the others."""
    tops: dict[str, float] = {}
    for curve in curves:
        top = float(_finite(curve.band[1]).max())
        tops[curve.line.name] = max(top, tops.get(curve.line.name, 0.0))
    *others, highest = sorted(tops.values())
    highest = max(highest, 1e-9)
    values = torch.cat([_finite(curve.y) for curve in curves])
    if curves[0].of == "loss" and bool((values < 0).any()):
        return (View("linear", linear_axis()),)
    views = [View("linear", linear_axis(1.1 * highest))]
    if curves[0].of == "loss" and bool((values > 0).all()):
        views.append(View("log", log_axis(float(values.min()) / 1.5, 1.3 * highest)))
    if others and 0 < others[-1] < 0.6 * highest:
        views.append(View("close-up", linear_axis(1.2 * others[-1])))
    return tuple(views)


def _finite(values: Tensor) -> Tensor:
    kept = values[values.isfinite()]
    return kept if len(kept) else torch.zeros(1, dtype=values.dtype)


def _free_name(name: str, split: str, taken: dict[str, list[Profile]]) -> str:
    """The name itself, or numbered where a path of this name already has this split."""
    candidate, number = name, 1
    while any(profile.split == split for profile in taken.get(candidate, [])):
        number += 1
        candidate = f"{name} {number}"
    return candidate

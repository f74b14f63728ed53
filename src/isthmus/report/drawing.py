"""Which figure belongs to which record, and all figures of a study."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import plotly.graph_objects as go

from isthmus.barriers import Barrier, Profile, Quantity
from isthmus.connect import Connection
from isthmus.connect.spanning import MinimaTree
from isthmus.errors import SettingError
from isthmus.experiments.comparison import Comparison
from isthmus.experiments.records import Matching, PairStudy, PathStudy
from isthmus.report.charts import (
    barrier_figure,
    barriers_of_paths,
    connection_figure,
    history_figure,
    length_figure,
    matching_figure,
)
from isthmus.report.comparisons import comparison_names
from isthmus.report.disconnectivity import disconnectivity_figure
from isthmus.report.planes import surface_figure
from isthmus.report.profiles import lines_of_paths, lines_of_profiles, profile_figure
from isthmus.surfaces import Surface

_KNOWN = (
    "Profile, Barrier, PathStudy, PairStudy, Comparison, Surface, Matching, Connection, MinimaTree, "
    "a study, or a sequence of one kind"
)


def draw(record: object, options: dict[str, Any]) -> go.Figure:
    """The figure of a record: see `figures.plot`."""
    if isinstance(record, (list, tuple)):
        return _draw_several(record, options)
    if isinstance(record, Profile):
        return _drawn(_profiles, [record], options)
    if isinstance(record, Barrier):
        return _drawn(barrier_figure, [record], options)
    if isinstance(record, PathStudy):
        return _drawn(profile_figure, lines_of_paths([record]), options)
    if isinstance(record, PairStudy):
        return _drawn(profile_figure, lines_of_paths(record.paths), {"within": record.tolerance} | options)
    if isinstance(record, Comparison):
        return _drawn(_comparison, record, options)
    single: dict[type, Callable[..., go.Figure]] = {
        Surface: surface_figure,
        Matching: matching_figure,
        Connection: connection_figure,
        MinimaTree: disconnectivity_figure,
    }
    for kind, draw in single.items():
        if isinstance(record, kind):
            return _drawn(draw, record, options)
    raise SettingError(f"there is no figure of a {type(record).__name__}: expected a {_KNOWN}")


def drawn_by_itself(record: object) -> bool:
    """Whether `draw` has a figure of a record of this kind."""
    return isinstance(record, PairStudy)


def _profiles(profiles: Sequence[Profile], names: Sequence[str] | None = None, **options: Any) -> go.Figure:
    """Profiles in one figure; those of one name on different splits are one path."""
    return _drawn(profile_figure, lines_of_profiles(profiles, names), options)


def _comparison(comparison: Comparison, **options: Any) -> go.Figure:
    """The barrier of every line of a comparison."""
    found = [barrier for line in comparison.lines for barrier in line.barriers]
    names = [name for name, line in zip(comparison_names(comparison), comparison.lines, strict=True)
             for _ in line.barriers]  # fmt: skip
    return _drawn(partial(barrier_figure, names=names), found, options)


def _draw_several(records: Sequence[object], options: dict[str, Any]) -> go.Figure:
    for kind, draw in (
        (Profile, _profiles),
        (Barrier, barrier_figure),
        (PathStudy, lambda paths, **rest: _drawn(profile_figure, lines_of_paths(paths), rest)),
    ):
        if records and all(isinstance(record, kind) for record in records):
            return _drawn(draw, records, options)
    kinds = ", ".join(sorted({type(record).__name__ for record in records})) or "nothing"
    raise SettingError(f"there is no figure of a sequence of {kinds}: expected a {_KNOWN}")


def _drawn(figure: Callable[..., go.Figure], record: object, options: dict[str, Any]) -> go.Figure:
    """The figure, with an unknown option told as a setting."""
    taken = list(inspect.signature(figure).parameters.values())[1:]
    known = [parameter.name for parameter in taken if parameter.kind is not parameter.VAR_KEYWORD]
    unknown = [name for name in options if name not in known]
    if unknown and len(known) == len(taken):
        raise SettingError(f"this figure has no option {unknown[0]!r}: it takes {', '.join(known)}")
    return figure(record, **options)


@dataclass(frozen=True)
class NamedFigure:
    """A figure with what a page or a file needs beside it.

    Attributes:
        name: for a file or an element: lower case letters and hyphens.
        figure: the figure.
        width: that suits it in a paper, in pixels.
    """

    name: str
    figure: go.Figure
    width: int = 640


def study_figures(study: PairStudy, controls: bool = False) -> tuple[NamedFigure, ...]:
    """Every figure that a study gives, in the order of the page."""
    found = []
    if study.paths:
        lines = lines_of_paths(study.paths)
        barriers, names = barriers_of_paths(study.paths)
        quantities: tuple[Quantity, ...] = ("error", "loss")
        for of in quantities:
            drawn = profile_figure(lines, of=of, within=study.tolerance, controls=controls)
            found.append(NamedFigure(f"profile-{of}", drawn))
        for of in quantities:
            drawn = barrier_figure(barriers, names, of=of, within=study.tolerance)
            found.append(NamedFigure(f"barriers-{of}", drawn))
    for index, surface in enumerate(study.surfaces, start=1):
        found.append(NamedFigure(f"plane-{index}-loss", surface_figure(surface, of="loss")))
        found.append(NamedFigure(f"plane-{index}-error", surface_figure(surface, of="error")))
    if study.paths:
        found.append(NamedFigure("lengths", length_figure(study.paths)))
    if study.matching is not None and study.matching.axes:
        found.append(NamedFigure("matching", matching_figure(study.matching)))
    fits = [(path.name, path.fit) for path in study.paths if path.fit is not None]
    if fits:
        found.append(NamedFigure("fit-history", history_figure(fits, controls=controls)))
    return tuple(found)

"""What stands on the page: sections of paragraphs, tables, figures and terms, made from records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from isthmus.barriers import Barrier, Profile
from isthmus.connect import Connection
from isthmus.experiments.records import Matching, PairStudy, PathStudy
from isthmus.report import tables, terms
from isthmus.report.charts import barrier_figure, barriers_of_paths, history_figure, length_figure
from isthmus.report.charts import matching_figure as matched
from isthmus.report.drawing import draw
from isthmus.report.formats import significant
from isthmus.report.panels import Panel, View, compose, relayout
from isthmus.report.planes import MAP_FRAME, shape_of, surface_figure
from isthmus.report.profiles import lines_of_paths, lines_of_profiles, profile_panel
from isthmus.report.sentences import barrier_sentence, fit_sentence, matching_sentence
from isthmus.surfaces import Surface

_IN_PLANE = 1e-4
"""A path this close to the plane, as a share of the distance between the first two models, lies in it."""
_LONG = 12
"""A table of more rows than this is folded."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Grid:
    """A table, folded under a summary if there is one."""

    kind: ClassVar[str] = "grid"
    table: tables.Table
    folded: str = ""


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure on the page.

    Attributes:
        name: of its element.
        figure: the figure, without buttons of its own.
        label: what it shows, for those who do not see it.
        caption: below it.
        buttons: pairs (name, what it changes).
        shape: a map's height over its width; 0 for a figure of fixed height.
        frame: pixels above and below a map.
    """

    name: str
    figure: Any
    label: str
    caption: str
    buttons: tuple[tuple[str, dict[str, Any]], ...] = ()
    shape: float = 0.0
    frame: int = MAP_FRAME


@dataclass(frozen=True)
class Figures:
    """Figures side by side where there is room."""

    kind: ClassVar[str] = "figures"
    drawings: tuple[Drawing, ...]


@dataclass(frozen=True)
class Terms:
    """Words and what they mean here."""

    kind: ClassVar[str] = "terms"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    name: str
    title: str
    blocks: tuple[Text | Grid | Figures | Terms, ...] = field(default=())


def study_sections(study: PairStudy, prefix: str = "") -> list[Section]:
    """The whole story of a pair, in the order in which it is best read."""
    found = [_ends(study)]
    if study.paths:
        found += [_paths(study), _profiles(study, prefix), _barriers(study, prefix)]
    if study.surfaces:
        found.append(_planes(study.surfaces, prefix))
    if study.paths:
        found.append(_lengths(study.paths, prefix))
    if study.matching is not None:
        found.append(_matching(study.matching, prefix))
    if any(path.fit for path in study.paths):
        found.append(_fits(study.paths, prefix))
    found.append(Section("reading", "How to read this", (Terms(terms.study_terms(study)),)))
    found.append(
        Section("provenance", "Provenance", (Grid(tables.provenance_rows(study.ends, study.provenance)),))
    )
    return [Section(prefix + each.name, each.title, each.blocks) for each in found]


def record_section(record: object, index: int) -> Section:
    """A section about one record by itself."""
    name = f"record-{index}"
    told = f"{type(record).__name__} {index}"
    if isinstance(record, PathStudy):
        told = record.name
    if isinstance(record, Barrier):
        blocks: tuple[Any, ...] = (Text(barrier_sentence(record) + "."), Grid(tables.barrier_rows([record])))
        return Section(name, f"Barrier {index}", blocks)
    if isinstance(record, Matching):
        return Section(name, f"What was matched, {index}", _matching(record, f"{name}-").blocks)
    if isinstance(record, Surface):
        return Section(name, f"Plane {index}", (Figures(_maps(record, name)), Text(_plane_text(record))))
    if isinstance(record, (Profile, PathStudy)):
        lines = lines_of_profiles([record]) if isinstance(record, Profile) else lines_of_paths([record])
        drawings = tuple(_profile(lines, of, name, None) for of in ("error", "loss"))
        return Section(name, f"Along the path: {told}", (Figures(drawings),))
    figure = draw(record, {"controls": False})
    told = "How the training loss fell" if isinstance(record, Connection) else told
    return Section(name, told, (Figures((Drawing(f"{name}-figure", figure, told, ""),)),))


def _ends(study: PairStudy) -> Section:
    note = [Text(study.note)] if study.note else []
    return Section("networks", "The two networks", (*note, Grid(tables.end_rows(study.ends))))


def _paths(study: PairStudy) -> Section:
    blocks: list[Text | Grid | Figures | Terms] = [Grid(tables.path_rows(study))]
    if study.merges:
        blocks.append(Grid(tables.merge_rows(study.merges)))
    return Section("paths", "The paths between them", tuple(blocks))


def _profiles(study: PairStudy, prefix: str) -> Section:
    lines = lines_of_paths(study.paths)
    drawings = tuple(_profile(lines, of, f"{prefix}profile", study.tolerance) for of in ("error", "loss"))
    return Section("profiles", "Along the paths", (Figures(drawings), Text(terms.BANDS)))


def _profile(lines: Sequence[Any], of: Any, name: str, within: float | None) -> Drawing:
    panel = profile_panel(lines, of, within=within)
    names = ", ".join(line.name for line in lines)
    label = f"{of.capitalize()} against the position on the path, for {names}; the figures are in the tables."
    caption = f"{of.capitalize()} along each path. Solid: held-out data; dashed: train."
    return _drawing(f"{name}-{of}", panel, 420, label, caption)


def _barriers(study: PairStudy, prefix: str) -> Section:
    barriers, names = barriers_of_paths(study.paths)
    drawings = tuple(
        Drawing(
            f"{prefix}barriers-{of}",
            barrier_figure(barriers, names, of=of, within=study.tolerance),
            f"{of.capitalize()} barriers of {', '.join(p.name for p in study.paths)} with their intervals.",
            f"{of.capitalize()} barriers above the mean of the ends, with their intervals.",
        )
        for of in terms.QUANTITIES
    )
    every = Grid(tables.chord_rows(study), "Every barrier: above the mean and above the chord, and where")
    return Section("barriers", "The barriers side by side", (Figures(drawings), Text(terms.AXIS), every))


def _planes(surfaces: Sequence[Surface], prefix: str) -> Section:
    blocks: list[Text | Grid | Figures | Terms] = []
    for index, surface in enumerate(surfaces, start=1):
        blocks += [Figures(_maps(surface, f"{prefix}plane-{index}")), Text(_plane_text(surface))]
    title = "The plane through three networks" if len(surfaces) == 1 else "Planes through three networks"
    return Section("planes", title, tuple(blocks))


def _maps(surface: Surface, name: str) -> tuple[Drawing, ...]:
    shown = ", ".join(surface.names)
    return tuple(
        Drawing(
            f"{name}-{of}",
            surface_figure(surface, of=of),
            f"Contours of {of} over the plane through {shown}.",
            f"{of.capitalize()} over the plane through {shown}.",
            shape=shape_of(surface),
        )
        for of in ("loss", "error")
    )


def _plane_text(surface: Surface) -> str:
    told = terms.plane_sentence(surface)
    if len(surface.curve) and surface.gap > _IN_PLANE * float(surface.corners[1, 0]):
        told += (
            f" The {surface.curve_name} is projected on the plane; it leaves it by at most "
            f"{significant(surface.gap, 3)}."
        )
    return told


def _lengths(paths: Sequence[PathStudy], prefix: str) -> Section:
    label = "The arc length of each path, with the straight line between its ends."
    drawing = Drawing(f"{prefix}lengths-figure", length_figure(paths), label, terms.LENGTHS)
    return Section(
        "lengths", "How long the paths are", (Figures((drawing,)), Grid(tables.length_rows(paths)))
    )


def _matching(matching: Matching, prefix: str) -> Section:
    axes, pinned = tables.axis_rows(matching), tables.pinned_rows(matching)
    blocks: list[Text | Grid | Figures | Terms] = [
        Text(matching_sentence(matching)),
        Text(f"Check of the symmetry: {matching.verified.rstrip('.')}."),
    ]
    if matching.axes:
        label = "The share of units that the matching moved, for each hidden axis."
        drawing = Drawing(f"{prefix}matching-figure", matched(matching), label, label)
        folded = f"All {len(axes.rows)} hidden axes" if len(axes.rows) > _LONG else ""
        blocks.append(Grid(axes, folded))
        if len(axes.rows) <= 4 * _LONG:
            blocks.append(Figures((drawing,)))
    if matching.pinned:
        blocks.append(Grid(pinned, f"What may not move, and why ({len(pinned.rows)})"))
    return Section("matching", "What was matched", tuple(blocks))


def _fits(paths: Sequence[PathStudy], prefix: str) -> Section:
    fits = [(path.name, path.fit) for path in paths if path.fit is not None]
    label = "How the training loss fell as each path was found."
    caption = (
        "Of a curve, the mean over each epoch at random points of it; of a band, at its highest pivot; of a "
        "string, the highest of its pieces in each round. A sign of convergence, no measurement."
    )
    figure = history_figure(fits, controls=False)
    outcomes = Text(" ".join(fit_sentence(name, fit) for name, fit in fits))
    settings = [Grid(tables.setting_rows(name, fit), f"Settings of the {name}") for name, fit in fits]
    drawing = Drawing(f"{prefix}fit-history", figure, label, caption)
    return Section("fits", "How the paths were found", (outcomes, Figures((drawing,)), *settings))


def _drawing(name: str, panel: Panel, height: int, label: str, caption: str) -> Drawing:
    buttons = tuple((view.name, _changes(view)) for view in panel.views) if len(panel.views) > 1 else ()
    return Drawing(name, compose([panel], height=height, controls=False), label, caption, buttons)


def _changes(view: View) -> dict[str, Any]:
    return relayout(view)

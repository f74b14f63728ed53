"""The page of a region of low loss: what lies inside, how it grew, and what it is good for."""

from __future__ import annotations

from functools import partial
from pathlib import PurePath
from typing import Any

from isthmus.barriers import Quantity
from isthmus.experiments.simplexrecords import COLLAPSED, Inside, SimplexStudy
from isthmus.report.charts import history_figure
from isthmus.report.drawing import NamedFigure
from isthmus.report.formats import (
    count,
    coverage,
    percent,
    percent_interval,
    plain_loss,
    significant,
    split_name,
    tolerance,
)
from isthmus.report.pages import Card, Page
from isthmus.report.panels import compose, relayout
from isthmus.report.planes import shape_of, surface_figure
from isthmus.report.profiles import lines_of_paths, profile_panel
from isthmus.report.sections import Drawing, Figures, Grid, Section, Terms, Text
from isthmus.report.simplexfigures import growth_figure, inside_figure, volume_figure
from isthmus.report.simplextables import ensemble_rows, inside_rows, route_rows, stage_rows
from isthmus.report.tables import end_rows, provenance_rows, setting_rows

_SPLITS = ("test", "train")
_QUANTITIES: tuple[Quantity, ...] = ("error", "loss")
_BADGES = {"connected": "✓ as low", "barrier": "✕ higher", "undecided": "? undecided"}


def simplex_page(study: SimplexStudy, prefix: str = "") -> Page:
    """A region: whether it is low, how far it reaches, and what was drawn from it."""
    return Page(
        title=study.task,
        headline=_headline(study),
        sentence=region_sentence(study),
        aside=_aside(study),
        cards_title="Error of an average point inside, above that of the given networks, with its interval",
        cards=_cards(study),
        sections=tuple(_sections(study, prefix)),
        figures=partial(simplex_figures, study),
        tables=(inside_rows(study), stage_rows(study)) if study.stages else (end_rows(study.networks),),
    )


def simplex_figures(study: SimplexStudy) -> tuple[NamedFigure, ...]:
    """Every figure of the study, in the order of the page."""
    found: list[NamedFigure] = []
    if study.stages:
        found += [NamedFigure(f"inside-{of}", inside_figure(study, of=of)) for of in _QUANTITIES]
        found.append(NamedFigure("growth-volume", volume_figure(study)))
        found += [NamedFigure(f"growth-{of}", growth_figure(study, of=of)) for of in _QUANTITIES]
    if study.paths:
        found += [NamedFigure(f"profile-{of}", _profile(study, of)[0]) for of in _QUANTITIES]
    for surface in study.surfaces:
        found += [NamedFigure(f"plane-{of}", surface_figure(surface, of=of)) for of in ("loss", "error")]
    found.append(NamedFigure("fit-history", history_figure([(_named(study), study.fit)], controls=False)))
    return tuple(found)


def region_sentence(study: SimplexStudy) -> str:
    """What was found inside on held-out data, with its sample and interval."""
    if not study.stages:
        return f"The {_named(study)} was not grown to the end: {study.fit.outcome}."
    inside = study.stages[-1].on("test")
    return (
        f"Of {count(len(inside.loss))} points drawn inside the {_named(study)}, the average one has error "
        f"{percent(inside.score.error)} on {count(inside.score.examples)} held-out examples, "
        f"{_apart(study, inside)}; the highest has {percent(float(inside.error.max()))}."
    )


def dimension_sentence(study: SimplexStudy) -> str:
    """The estimate of the low-loss dimension, and why it ends there."""
    found, at = study.dimension, tolerance(study.tolerance)
    if not found.ended:
        return (
            f"Every stage stayed low to {at} error: the low-loss dimension is at least {found.value}; more "
            f"vertices may find more."
        )
    return (
        f"The low-loss dimension is estimated as {found.value}, at {at} error: with one vertex more, "
        f"{found.ended}."
    )


def _apart(study: SimplexStudy, inside: Inside) -> str:
    given = "given network" + "s" * (len(study.networks) > 1)
    size = percent(abs(inside.gap))
    side = f"{size} {'above' if inside.gap > 0 else 'below'} that of"
    if size == percent(0.0):
        side = "the same to two digits as that of"
    bounds = f"{coverage(inside.score.level)} interval of the difference"
    return f"{side} the {given} ({bounds} {percent_interval(inside.gap_low, inside.gap_high)} %)"


def _named(study: SimplexStudy) -> str:
    """What the region is called."""
    vertices = len({number for simplex in study.simplexes for number in simplex})
    if study.kind == "simplex":
        return f"simplex of {vertices} vertices"
    if study.kind == "complex":
        connectors = vertices - len(study.networks)
        return f"complex of {len(study.networks)} networks and {connectors} connector{'s' * (connectors > 1)}"
    many = len(study.networks)
    return f"{many} simplex{'es' * (many > 1)} of {len(study.simplexes[0])} vertices"


def _state(study: SimplexStudy, split: str) -> str:
    inside = study.stages[-1].on(split)
    if inside.gap_high <= study.tolerance:
        return "connected"
    return "barrier" if inside.gap_low > study.tolerance else "undecided"


def _headline(study: SimplexStudy) -> str:
    if not study.stages:
        return f"The {_named(study)} was not grown to the end"
    at = tolerance(study.tolerance)
    told = {
        "connected": f"On average as low inside as the given networks, to {at} error",
        "barrier": f"On average higher inside than the given networks, by more than {at} error",
        "undecided": f"Undecided at {at} error whether it is on average as low inside as the given networks",
    }
    article = "" if study.kind == "simplexes" else "a "
    return f"{told[_state(study, 'test')]}: {article}{_named(study)}"


def _aside(study: SimplexStudy) -> str:
    if not study.stages:
        return ""
    return (
        f"{dimension_sentence(study)} The points are a sample: higher ones may lie inside, and the intervals "
        "are about the examples, not about the points."
    )


def _cards(study: SimplexStudy) -> tuple[Card, ...]:
    if not study.stages:
        return ()
    cards = []
    for split in _SPLITS:
        inside, state = study.stages[-1].on(split), _state(study, split)
        bounds = percent_interval(inside.gap_low, inside.gap_high)
        cards.append(Card(split_name(split), percent(inside.gap), bounds, _BADGES[state], state))
    found = study.dimension
    value = str(found.value) if found.ended else f"≥ {found.value}"
    cards.append(Card("low-loss dimension", value, f"at {tolerance(study.tolerance)} error"))
    last = study.stages[-1]
    cards.append(
        Card("log-volume", significant(last.log_volume, 3), f"mean edge {significant(last.edge, 3)}")
    )
    return tuple(cards)


def _sections(study: SimplexStudy, prefix: str) -> list[Section]:
    files = "; ".join(f"{end.name}: {PurePath(end.source).name}" for end in study.networks)
    note = [Text(text) for text in (study.note, f"{files}.") if text]
    found = [Section(f"{prefix}networks", "The given networks", (*note, Grid(end_rows(study.networks))))]
    if study.stages:
        found += [_inside(study, prefix), _growth(study, prefix)]
    if study.paths:
        found.append(_paths(study, prefix))
    if study.surfaces:
        found.append(_plane(study, prefix))
    if study.ensembles:
        found.append(Section(f"{prefix}ensembles", "An ensemble of points inside", _ensembles(study)))
    fit = Drawing(
        f"{prefix}fit-history", history_figure([(_named(study), study.fit)], controls=False),
        "The mean training loss of each epoch of the growth.",
        "The mean training loss of each epoch, at random points inside: a sign of convergence, no "
        "measurement. It steps where a new vertex begins.",
    )  # fmt: skip
    settings = Grid(setting_rows(_named(study), study.fit), f"Settings of the {_named(study)}")
    outcome = Text(f"The growth: {study.fit.outcome}. {_saddle(study)}".strip())
    found.append(Section(f"{prefix}fit", "How it was grown", (outcome, Figures((fit,)), settings)))
    found.append(Section(f"{prefix}reading", "How to read this", (Terms(_terms(study)),)))
    found.append(
        Section(
            f"{prefix}provenance", "Provenance", (Grid(provenance_rows(study.networks, study.provenance)),)
        )
    )
    return found


def _saddle(study: SimplexStudy) -> str:
    if study.saddle != study.saddle:  # not a number: none was drawn
        return ""
    return f"The highest mean training loss of the points drawn at its end is {plain_loss(study.saddle)}."


def _inside(study: SimplexStudy, prefix: str) -> Section:
    drawings = tuple(
        Drawing(
            f"{prefix}inside-{of}",
            inside_figure(study, of=of),
            f"{of.capitalize()} of every point drawn inside, with the given networks.",
            f"{of.capitalize()} of every point drawn inside the {_named(study)} (small), the average point "
            "with its interval (large), and the given networks (diamonds).",
        )
        for of in _QUANTITIES
    )
    return Section(f"{prefix}inside", "What lies inside", (Grid(inside_rows(study)), Figures(drawings)))


def _growth(study: SimplexStudy, prefix: str) -> Section:
    volume = Drawing(
        f"{prefix}growth-volume", volume_figure(study),
        "The height of each new vertex, and the mean edge, against the number of dimensions.",
        "How far each new vertex stands from the plane of the older ones of its simplex, with the mean edge.",
    )  # fmt: skip
    drawings = tuple(
        Drawing(
            f"{prefix}growth-{of}",
            growth_figure(study, of=of),
            f"{of.capitalize()} inside against the number of dimensions.",
            f"{of.capitalize()} of the average point inside, with strokes from the lowest to the highest "
            "point. At 0: the given networks.",
        )
        for of in ("loss", "error")
    )
    return Section(
        f"{prefix}growth",
        "How it grew",
        (Text(dimension_sentence(study)), Figures((volume, *drawings)), Grid(stage_rows(study))),
    )


def _profile(study: SimplexStudy, of: Quantity) -> tuple[Any, tuple[tuple[str, dict[str, Any]], ...]]:
    """The lines and routes in one figure, and its views."""
    panel = profile_panel(lines_of_paths(study.paths), of)
    others = ", ".join(end.name for end in study.networks[1:])
    panel.xaxis["ticktext"] = [*panel.xaxis["ticktext"][:-1], f"1<br>{others}"]
    views = tuple((view.name, relayout(view)) for view in panel.views) if len(panel.views) > 1 else ()
    return compose([panel], height=420, controls=False), views


def _paths(study: SimplexStudy, prefix: str) -> Section:
    drawings = tuple(
        Drawing(
            f"{prefix}profile-{of}",
            figure,
            f"{of.capitalize()} along the straight lines and the routes through the complex.",
            f"{of.capitalize()} along the straight line, and along the route through the complex. Solid: "
            "held-out data; dashed: train.",
            views,
        )
        for of in _QUANTITIES
        for figure, views in (_profile(study, of),)
    )
    return Section(f"{prefix}paths", "From network to network", (Grid(route_rows(study)), Figures(drawings)))


def _plane(study: SimplexStudy, prefix: str) -> Section:
    surface = study.surfaces[0]
    shown = ", ".join(surface.names)
    drawings = tuple(
        Drawing(
            f"{prefix}plane-{of}",
            surface_figure(surface, of=of),
            f"Contours of {split_name(surface.split)} {of} over the plane through {shown}.",
            f"{split_name(surface.split).capitalize()} {of} over the plane through {shown}.",
            shape=shape_of(surface),
        )
        for of in ("loss", "error")
    )
    told = (
        f"The plane lies in the region between its corners; it rests on {count(surface.examples)} "
        f"{split_name(surface.split)} examples a node."
    )
    return Section(f"{prefix}plane", "A plane through it", (Figures(drawings), Text(told)))


def _ensembles(study: SimplexStudy) -> tuple[Text | Grid, ...]:
    told = (
        "Class probabilities averaged over points drawn inside (ESPRO). The intervals resample the examples; "
        "the best single point is chosen on the held-out examples, so it looks better there than it is."
    )
    return Text(told), Grid(ensemble_rows(study))


def _terms(study: SimplexStudy) -> tuple[tuple[str, str], ...]:
    return (
        ("Inside", "Points are drawn with coordinates ~ Dirichlet(1), evenly over each simplex; each simplex "
         "gets as many as another. An average point's loss is the mean over points and examples."),
        ("Error above the given", "The average point's error minus the mean of the given networks' on the "
         f"same examples, with the {coverage(0.95)} interval of a mean of paired differences. As low: the "
         f"interval ends below {tolerance(study.tolerance)}. Higher: it begins above."),
        ("Height", "The distance of a new vertex from the plane of the older ones of its simplex; of several "
         "simplexes the least. Volumes of different dimensions have different units; heights compare."),
        ("Regular", "The volume over that of the regular simplex with the same root mean square edge; "
         "1 for a regular one, 0 for a flat one; of several simplexes the mean."),
        ("Low-loss dimension", "The dimension of the last stage before the error inside exceeds the given "
         f"networks' by more than {tolerance(study.tolerance)}, on train or held-out data, or before a new "
         f"vertex stands lower than {coverage(COLLAPSED)} of the first one's height. A lower bound: of what "
         "this procedure reaches, and directions that do not matter to the network count."),
    )  # fmt: skip

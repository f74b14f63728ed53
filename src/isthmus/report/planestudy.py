"""The page of a plane: maps and reliefs, on held-out data and on train."""

from __future__ import annotations

import math
from functools import partial

from isthmus.experiments.planes import PlaneStudy
from isthmus.report.drawing import NamedFigure
from isthmus.report.formats import count, interval, percent, plain_loss, quantity, significant, split_name
from isthmus.report.pages import Card, Page
from isthmus.report.planes import quantity_name, shape_of, surface_figure
from isthmus.report.sections import Drawing, Figures, Grid, Section, Terms, Text
from isthmus.report.tables import Cell, Column, Table, provenance_rows, score_rows
from isthmus.surfaces import Shown, Surface

_IN_PLANE = 1e-4
"""A path this close to the plane, as a share of the distance between the first two models, lies in it."""
_RELIEF_HEIGHT = 460

_TERMS = (
    (
        "The plane",
        "θ(x, y) = A + x û + y v̂, with û from A to B and v̂ the part of C − A at right angles to it. Both "
        "axes are Euclidean distances between weights, drawn to one scale. Nothing was trained for it.",
    ),
    (
        "Levels",
        "Contours are even on a logarithmic scale: of the value itself where the values span a power of ten "
        "(four at most), else of its height above the lowest. An error of none is drawn as half an example.",
    ),
    (
        "Loss with weight decay",
        "What training minimised: the loss on the training data plus ½ λ ‖θ‖², with the λ of the recipe. The "
        "loss of a network that fits its data goes on falling as its weights grow, so that no contour closes "
        "around the model; with the decay it has a minimum.",
    ),
    (
        "Projected",
        "A model or a path that does not lie in the plane is drawn at the nearest point of it. What the map "
        "shows there is the plane's value, not its own: its distance from the plane and its own loss are in "
        "the table.",
    ),
    (
        "What this does not say",
        "A plane is two directions out of many. A barrier in it says nothing about paths that leave it.",
    ),
)
_INTERPOLATED = (
    "Interpolated",
    "Nodes without a dot were not evaluated. They are interpolated by kriging on the colour scale, and their "
    "intervals rest on how well each evaluated node is predicted from the others: an estimate, which a basin "
    "narrower than the distance between dots would escape.",
)
_BATCHNORM = {
    "recalibrate": "At every node batch-norm statistics were measured anew on training examples.",
    "interpolate": "At every node batch-norm statistics are the blend of those of the three models.",
    "keep": "Every node keeps the batch-norm statistics of the nearest of the three models.",
}


def plane_page(study: PlaneStudy, prefix: str = "") -> Page:
    """A plane: the pictures first, then what is in them as numbers."""
    first = study.surface("test")
    return Page(
        title=study.task,
        headline=f"The plane through {_listed(first.names)}: {_walls(study)}",
        sentence=plane_sentence(study),
        aside="A barrier in this plane says nothing about paths that leave it.",
        cards_title=f"Held-out {study.of} of the models, and the highest node of the plane",
        cards=_cards(study),
        sections=tuple(_sections(study, prefix)),
        figures=partial(plane_figures, study),
        tables=(score_rows([(end.name, end.scores) for end in study.models], "The models, as saved"),
                nodes_table(study)),
    )  # fmt: skip


def plane_sentence(study: PlaneStudy) -> str:
    """What the plane holds, on held-out data and on train, and on how much."""
    surface, train = study.surface("test"), study.surface("train")
    low, high = _ends(surface, study.of)
    least, most = _ends(train, study.of)
    spent = (
        f"all {count(surface.nodes)} nodes"
        if surface.interpolated is None
        else f"{count(surface.evaluations)} of {count(surface.nodes)} nodes, the others interpolated"
    )
    return (
        f"Over the plane through {_listed(surface.names)} the held-out {study.of} runs from "
        f"{quantity(study.of, low)} to {quantity(study.of, high)} ({count(surface.examples)} examples at "
        f"{spent}), and that on train from {quantity(study.of, least)} to {quantity(study.of, most)} "
        f"({count(train.examples)} examples)."
    )


def nodes_table(study: PlaneStudy) -> Table:
    """The lowest and the highest node on each split, and how many were evaluated."""
    columns = (
        Column("data", "name"), Column("quantity", "text"), Column("lowest node"), Column("highest node"),
        Column("examples"), Column("evaluated"),
    )  # fmt: skip
    rows = [
        (
            Cell(split_name(surface.split)), Cell(quantity_name(of)),
            *(Cell(_value(of, value)) for value in _ends(surface, of)), Cell(count(surface.examples)),
            Cell(f"{count(surface.evaluations)} of {count(surface.nodes)}"),
        )
        for surface in study.surfaces for of in _shown(study, surface)
    ]  # fmt: skip
    return Table("The nodes of the plane", columns, tuple(rows))


def projected_table(surface: Surface) -> Table:
    """How far from the plane each projected model and path is."""
    columns = (
        Column("what is projected", "name"), Column("kind", "text"), Column("distance from the plane"),
        Column(f"its own {split_name(surface.split)} loss"), Column("its own error"),
    )  # fmt: skip
    across = float(surface.corners[1, 0])
    rows = tuple(
        (
            Cell(each.name), Cell(each.kind), Cell(_distance(each.gap, across)),
            Cell("—" if math.isnan(each.loss) else plain_loss(each.loss)),
            Cell("—" if math.isnan(each.error) else percent(each.error)),
        )
        for each in surface.projected
    )  # fmt: skip
    return Table("Drawn at their projections", columns, rows)


def plane_figures(study: PlaneStudy) -> tuple[NamedFigure, ...]:
    """Every map and every relief, in the order of the page."""
    found = []
    for view in ("map", "relief"):
        for of in _order(study):
            for surface in study.surfaces:
                if of in _shown(study, surface):
                    name = f"plane-{of}-{split_name(surface.split)}{'-relief' if view == 'relief' else ''}"
                    found.append(NamedFigure(name, surface_figure(surface, of=of, view=view)))
    return tuple(found)


def _sections(study: PlaneStudy, prefix: str) -> list[Section]:
    note = [Text(study.note)] if study.note else []
    scored = score_rows([(end.name, end.scores) for end in study.models], "The given models, as saved")
    blocks: list[Text | Grid | Figures | Terms] = [
        Figures(tuple(_drawing(surface, of, prefix) for surface in study.surfaces))
        for of in _order(study) if of != "objective"
    ]  # fmt: skip
    for surface in study.surfaces:
        if "objective" in _shown(study, surface):
            both = (_drawing(surface, "objective", prefix), _relief(surface, "objective", prefix))
            blocks.append(Figures(both))
    reliefs: list[Text | Grid | Figures | Terms] = [
        Figures(tuple(_relief(surface, of, prefix) for surface in study.surfaces))
        for of in _order(study) if of != "objective"
    ]  # fmt: skip
    numbers: list[Text | Grid | Figures | Terms] = [Grid(nodes_table(study))]
    if study.surfaces[0].projected:
        numbers += [Grid(projected_table(surface)) for surface in study.surfaces]
    terms = [*_TERMS[:2], *((_INTERPOLATED,) if study.surfaces[0].interpolated else ()), *_TERMS[2:]]
    policy = _BATCHNORM.get(study.surfaces[0].batchnorm)
    if policy:
        terms.insert(
            -1, ("Batch norm", f"{policy} The models' own scores are with those they were saved with.")
        )
    return [
        Section(f"{prefix}maps", "The plane", tuple(blocks)),
        Section(f"{prefix}reliefs", "The same, in three dimensions", tuple(reliefs)),
        Section(f"{prefix}networks", "The models", (*note, Grid(scored))),
        Section(f"{prefix}numbers", "In numbers", tuple(numbers)),
        Section(f"{prefix}reading", "How to read this", (Terms(tuple(terms)),)),
        Section(
            f"{prefix}provenance", "Provenance", (Grid(provenance_rows(study.models, study.provenance)),)
        ),
    ]


def _drawing(surface: Surface, of: Shown, prefix: str) -> Drawing:
    split = split_name(surface.split)
    told = f"{split.capitalize()} {quantity_name(of)} over the plane through {_listed(surface.names)}"
    if of == "objective":
        told += f", λ = {surface.decay:g}"
    return Drawing(
        f"{prefix}plane-{of}-{surface.split}", surface_figure(surface, of=of), f"Contours: {told}.",
        f"{told}.", shape=shape_of(surface),
    )  # fmt: skip


def _relief(surface: Surface, of: Shown, prefix: str) -> Drawing:
    split = split_name(surface.split)
    told = f"{split.capitalize()} {quantity_name(of)} as a relief; drag to turn it."
    figure = surface_figure(surface, of=of, view="relief", height=_RELIEF_HEIGHT)
    return Drawing(f"{prefix}relief-{of}-{surface.split}", figure, told, told)


def _order(study: PlaneStudy) -> tuple[Shown, ...]:
    return ("loss", "error", "objective") if study.of == "loss" else ("error", "loss", "objective")


def _shown(study: PlaneStudy, surface: Surface) -> tuple[Shown, ...]:
    """What is drawn of a surface: the objective on the data that it was minimised on, and if it differs."""
    decayed = surface.split == "train" and surface.squares is not None and surface.decay > 0
    return tuple(of for of in _order(study) if of != "objective" or decayed)


def _cards(study: PlaneStudy) -> tuple[Card, ...]:
    cards = []
    for end in study.models:
        score = next(score for score in end.scores if score.split == "test")
        value, low, high = (
            (score.loss, score.loss_low, score.loss_high) if study.of == "loss"
            else (score.error, score.error_low, score.error_high)
        )  # fmt: skip
        cards.append(Card(end.name, quantity(study.of, value), interval(study.of, low, high)))
    surface = study.surface("test")
    detail = f"over {count(surface.nodes)} nodes"
    return (*cards, Card("highest node", _value(study.of, _ends(surface, study.of)[1]), detail))


def _ends(surface: Surface, of: Shown) -> tuple[float, float]:
    values = surface.values(of).nan_to_num(nan=math.inf, posinf=math.inf)
    return float(values.min()), float(values.max())


def _value(of: Shown, value: float) -> str:
    return quantity("error" if of == "error" else "loss", value)


def _walls(study: PlaneStudy) -> str:
    """Between which values it lies, in a few words."""
    low, high = (_value(study.of, value) for value in _ends(study.surface("test"), study.of))
    return f"held-out {study.of} {low} to {high}"


def _distance(gap: float, across: float) -> str:
    return "0 (in the plane)" if gap <= _IN_PLANE * across else significant(gap, 3)


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"

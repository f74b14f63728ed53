"""The page of a tree of minima: how high the saddles between many networks lie."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import takewhile
from statistics import fmean

from isthmus.experiments.minimarecords import EdgeStudy, MinimaStudy, Ratio
from isthmus.report.disconnectivity import disconnectivity_figure, disconnectivity_panel, heights_figure
from isthmus.report.drawing import NamedFigure
from isthmus.report.formats import (
    count,
    coverage,
    loss_interval,
    percent,
    percent_interval,
    plain_loss,
    position,
    ratio,
    significant,
    split_name,
)
from isthmus.report.pages import Card, Page
from isthmus.report.panels import relayout
from isthmus.report.sections import Drawing, Figures, Grid, Section, Terms, Text
from isthmus.report.tables import Cell, Column, Table, provenance_rows, score_rows
from isthmus.scores import Score

_NOTHING = "—"
_KINDS = {"neb": "elastic bands", "bezier": "Bézier curves", "chain": "polygonal chains", "string": "strings"}
_SPLITS = ("train", "test")
_LONG = 12
"""A table of more edges than this is folded."""


def minima_page(study: MinimaStudy, prefix: str = "") -> Page:
    """Many minima: the ratio of saddles to minima, the disconnectivity graph, and every tested pair."""
    names = short_names(study.tree.names)
    return Page(
        title=study.task,
        headline=_headline(study),
        sentence=ratio_sentence(study),
        aside=" ".join(part for part in (_diverged(study, names), _CAVEAT) if part),
        cards_title="Mean loss of the tree's saddles over that of the minima, and what it rests on",
        cards=tuple(_cards(study)),
        sections=tuple(
            Section(prefix + each.name, each.title, each.blocks) for each in _sections(study, names, prefix)
        ),
        figures=partial(_figures, study, names),
        tables=(edge_rows(study, names), ratio_rows(study)),
    )


def short_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names without the words that all begin or end with; as they are where nothing would be left.

    Example:
        >>> short_names(["digits-mlp-seed1", "digits-mlp-seed10"])
        ('seed1', 'seed10')
    """
    cut = _shared(names)
    end = _shared([name[cut:][::-1] for name in names])
    found = tuple(name[cut : len(name) - end] for name in names)
    return found if all(found) else tuple(names)


def _shared(names: Sequence[str]) -> int:
    """How many letters all names begin with, up to the last sign that parts words."""
    alike = list(takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))
    return max((place for place, letters in enumerate(alike, start=1) if letters[0] in "-_. "), default=0)


def ratio_sentence(study: MinimaStudy) -> str:
    """How much higher the saddles lie than the minima, on both splits, and what was tested."""
    train, held_out = study.ratio("train"), study.ratio("test")
    tested, every = len(study.tested), len(study.minima) * (len(study.minima) - 1) // 2
    if not train.edges:
        return f"No path joins any two of the {len(study.minima)} minima: every fit diverged."
    examples = {split: study.minima[0].score(split).examples for split in _SPLITS}
    return (
        f"On {count(examples['train'])} training examples the {_counted(train.edges, 'saddle')} of the tree "
        f"over {count(len(study.minima))} minima {_have(train)}; on {count(examples['test'])} held-out "
        f"examples {_have(held_out, again=True)}. {count(tested)} of {_counted(every, 'pair')} "
        f"{'was' if tested == 1 else 'were'} tested, by {_KINDS.get(study.kind, study.kind)}: "
        f"{study.tree.ending.value}."
    )


def edge_rows(study: MinimaStudy, names: Sequence[str]) -> Table:
    """The edges of the tree, the lowest saddle first: the saddle on train and on held-out data."""
    columns = (
        Column("tree's edge", "name"), Column("data", "text"), Column("loss at saddle", "measure"),
        Column("error at saddle", "measure"), Column("saddle / ends"), Column("length"),
    )  # fmt: skip
    rows = [
        (
            Cell(_pair(tested, names) if split == "test" else ""), Cell(split_name(split)),
            *_score_cells(tested.score(split)), Cell(_over_ends(study, tested, split)),
            Cell(ratio(tested.edge.length, tested.edge.endpoint_distance) if split == "test" else ""),
        )
        for tested in study.tree_tested for split in ("test", "train")
    ]  # fmt: skip
    return Table(
        "The spanning tree: each saddle, also over the mean of its ends; length over the straight line",
        columns, tuple(rows),
    )  # fmt: skip


def ratio_rows(study: MinimaStudy) -> Table:
    """Minima and saddles, means and standard deviations, and both ratios."""
    columns = (
        Column("data", "name"), Column("minima", "measure"), Column("saddles", "measure"),
        Column("saddles / minima"), Column("mean over edges", "measure"),
    )  # fmt: skip
    rows = tuple(
        (
            Cell(split_name(found.split)),
            Cell(plain_loss(found.minimum), f"± {plain_loss(found.minimum_spread)}"),
            Cell(plain_loss(found.saddle), f"± {plain_loss(found.saddle_spread)}"),
            Cell(significant(found.overall, 3)),
            Cell(significant(found.each, 3), _bounds(found)),
        )
        for found in (study.ratio("test"), study.ratio("train"))
    )
    return Table("Mean loss ± standard deviation among them, and the ratio of the means", columns, rows)


def tested_rows(study: MinimaStudy, names: Sequence[str]) -> Table:
    """Every pair in the order in which it was tested."""
    columns = (
        Column("pair", "name"), Column("why tested", "text"), Column("in the tree", "text"),
        Column("saddle, train"), Column("at t"), Column("highest, held-out"), Column("length / straight"),
        Column("steps"), Column("how it ended", "text"),
    )  # fmt: skip
    spanning = set(study.tree.spanning)
    rows = []
    for number, tested in enumerate(study.tested):
        edge, held_out = tested.edge, tested.held_out
        rows.append(
            (
                Cell(_pair(tested, names)), Cell(_purpose(study, tested, names)),
                Cell("yes" if number in spanning else "no"),
                Cell(plain_loss(edge.saddle.loss) if edge.saddle else _NOTHING),
                Cell(position(edge.saddle.t) if edge.saddle else _NOTHING),
                Cell(plain_loss(held_out.loss) if held_out else _NOTHING),
                Cell(ratio(edge.length, edge.endpoint_distance) if edge.saddle else _NOTHING),
                Cell(count(edge.steps)), Cell(edge.outcome.value),
            )
        )  # fmt: skip
    return Table("Every tested pair, in order", columns, tuple(rows))


def _sections(study: MinimaStudy, names: Sequence[str], prefix: str) -> list[Section]:
    graphs = tuple(_graph(study, names, split, prefix) for split in _SPLITS)
    heights = Drawing(
        f"{prefix}minima-heights", heights_figure(study.tree, names),
        "The lowest known saddle between every two minima, as numbers in a table of colours.", _HEIGHTS,
    )  # fmt: skip
    note = [Text(study.note)] if study.note else []
    folded = f"All {len(study.tree.spanning)} edges of the tree" if len(study.tree.spanning) > _LONG else ""
    edges = Grid(edge_rows(study, names), folded)
    return [
        Section(
            "tree", "The tree of lowest saddles",
            (Figures(graphs), Text(_GRAPH), Grid(ratio_rows(study)), edges),
        ),
        Section(
            "heights", "Between every two minima",
            (Figures((heights,)), Grid(tested_rows(study, names), f"All {len(study.tested)} tested pairs")),
        ),
        Section("minima", "The given networks", (*note, Grid(_minimum_rows(study)))),
        Section("reading", "How to read this", (Terms(_terms(study)),)),
        Section("provenance", "Provenance", (Grid(_provenance_rows(study)),)),
    ]  # fmt: skip


def _graph(study: MinimaStudy, names: Sequence[str], split: str, prefix: str) -> Drawing:
    tree = study.tree if split == "train" else study.held_out
    views = disconnectivity_panel(tree, names).views
    buttons = tuple((view.name, relayout(view)) for view in views) if len(views) > 1 else ()
    told = (
        "Train: what networks and paths were fitted to. Branches merge at the saddles."
        if split == "train"
        else "Held-out. Branches merge at the highest held-out loss of each path."
    )
    return Drawing(
        f"{prefix}disconnectivity-{split}", disconnectivity_figure(tree, names, controls=False),
        f"Disconnectivity graph on {split_name(split)} data; the figures are in the tables.",
        told, buttons,
    )  # fmt: skip


def _figures(study: MinimaStudy, names: Sequence[str]) -> tuple[NamedFigure, ...]:
    both = disconnectivity_figure([study.tree, study.held_out], names, controls=False)
    return (
        NamedFigure("disconnectivity", both, 900),
        NamedFigure("disconnectivity-train", disconnectivity_figure(study.tree, names, controls=False)),
        NamedFigure(
            "disconnectivity-held-out", disconnectivity_figure(study.held_out, names, controls=False)
        ),
        NamedFigure("saddle-heights", heights_figure(study.tree, names), 120 + 52 * max(6, len(names))),
    )


def _cards(study: MinimaStudy) -> list[Card]:
    cards = [
        Card(
            split_name(found.split), significant(found.overall, 3),
            f"{plain_loss(found.saddle)} / {plain_loss(found.minimum)}; mean over the edges "
            f"{significant(found.each, 3)} {_bounds(found)}",
        )
        for found in (study.ratio("test"), study.ratio("train"))
    ]  # fmt: skip
    if tree := study.tree_tested:
        top = tree[-1]
        names = short_names(study.tree.names)
        cards.append(
            Card("highest saddle, train", plain_loss(top.edge.height), f"between {_pair(top, names)}")
        )
    every = len(study.minima) * (len(study.minima) - 1) // 2
    cards.append(Card("pairs tested", f"{len(study.tested)} of {every}", study.tree.ending.value))
    return cards


def _headline(study: MinimaStudy) -> str:
    found, number = study.ratio("train"), len(study.minima)
    if not found.edges:
        return f"No two of the {number} minima were joined: every fit diverged"
    if found.edges < number - 1:
        return f"{number} minima are joined in {number - found.edges} parts; some fits diverged"
    return (
        f"{number} minima are joined by saddles {significant(found.overall, 2)} times as high as they are, "
        "on training data"
    )


def _have(found: Ratio, again: bool = False) -> str:
    told = f"{plain_loss(found.saddle)} ± {plain_loss(found.saddle_spread)}"
    bottom = f"{plain_loss(found.minimum)} ± {plain_loss(found.minimum_spread)}"
    if again:
        return f"{told}, {significant(found.overall, 3)} times the minima's {bottom}"
    return (
        f"{'has' if found.edges == 1 else 'have'} mean loss {told}, {significant(found.overall, 3)} times "
        f"the minima's {bottom} (± standard deviation among them)"
    )


def _diverged(study: MinimaStudy, names: Sequence[str]) -> str:
    pairs = [_pair(tested, names) for tested in study.tested if not tested.edge.joins]
    return f"Kept out of the tree, because the fit diverged: {', '.join(pairs)}." if pairs else ""


def _pair(tested: EdgeStudy, names: Sequence[str]) -> str:
    return f"{names[tested.edge.first]} – {names[tested.edge.second]}"


def _purpose(study: MinimaStudy, tested: EdgeStudy, names: Sequence[str]) -> str:
    if tested.edge.attacks:
        return f"to replace {' – '.join(names[number] for number in tested.edge.attacks)}"
    return "star" if study.tree.best in tested.edge.pair else "to join two parts"


def _over_ends(study: MinimaStudy, tested: EdgeStudy, split: str) -> str:
    found = tested.score(split)
    ends = fmean(study.minima[number].score(split).loss for number in tested.edge.pair)
    return significant(found.loss / ends, 3) if found is not None and ends else _NOTHING


def _score_cells(found: Score | None) -> tuple[Cell, Cell]:
    if found is None:
        return Cell(_NOTHING), Cell(_NOTHING)
    return (
        Cell(plain_loss(found.loss), loss_interval(found.loss_low, found.loss_high)),
        Cell(percent(found.error), percent_interval(found.error_low, found.error_high)),
    )


def _bounds(found: Ratio) -> str:
    return f"[{significant(found.low, 3)}, {significant(found.high, 3)}]"


def _counted(number: int, what: str) -> str:
    return f"{count(number)} {what}{'s' * (number != 1)}"


def _minimum_rows(study: MinimaStudy) -> Table:
    return score_rows(
        [(each.name, each.scores) for each in study.minima], "The minima, as losses are measured"
    )


def _provenance_rows(study: MinimaStudy) -> Table:
    fit = ", ".join(f"{name} {value}" for each in study.tested[:1] for name, value in each.settings.items())
    return provenance_rows(study.minima, ({"every fit": fit} if fit else {}) | study.provenance)


_CAVEAT = (
    "Each saddle is the highest point of a path that was found, so it bounds the lowest pass from above: a "
    "better path, or one between a pair that was not tested, may be lower."
)
_GRAPH = (
    "Each minimum is a leaf that ends at its loss; going up, two branches merge at the lowest saddle known "
    "between them. Only heights mean something: the order from left to right is chosen so that no branches "
    "cross. Drag to zoom, double-click to return."
)
_HEIGHTS = (
    "Training loss. Below the diagonal: the lowest known saddle, which is the highest one on the tree's way; "
    "above it: the path between the two themselves, blank where it was not tested; upon it: the minimum."
)
_TREE = (
    "The minimum spanning tree of all tested pairs by the height of their saddles. The lowest minimum is "
    "first connected to every other; then the tree's highest edge that can still be replaced is attacked by "
    "the untested pair of the smallest distance that crosses it. Pairs with an end as high as that edge are "
    "not tested, as no path between them is lower. Two minima are joined at the highest edge "
    "on the tree's way between them, so of any three minima the two highest of the three saddles are equal "
    "(an ultrametric)."
)


def _terms(study: MinimaStudy) -> tuple[tuple[str, str], ...]:
    level = coverage(study.ratio("train").level)
    return (
        ("Saddle", "The highest training loss on the path between two minima, among the positions that were "
         "evaluated. Its held-out loss is that of the same point. In the held-out graph, branches merge at "
         "the highest held-out loss along each path instead, which is never below its ends."),
        ("Tree", _TREE),
        ("Ratio", "The mean loss of the tree's saddles over the mean loss of the minima. Mean over edges: "
         f"each saddle over the mean of its own two ends, averaged, with Student's {level} interval over the "
         "tree's edges. Edges share minima, so that the interval is rough."),
        ("Intervals", "Of a loss: the normal interval of a mean over examples; of an error: Wilson's."),
        ("Train and held-out", "Train: the examples that networks and paths were fitted to. Held-out: "
         "examples that they never saw."),
    )  # fmt: skip

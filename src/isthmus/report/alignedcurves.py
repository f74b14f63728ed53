"""The page of curves before and after alignment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from isthmus.experiments.alignedrecords import LENGTH, MAXIMUM, MINIMUM, STEPS, CurveComparison
from isthmus.report.alignedfigures import (
    QUANTITIES,
    fits_figure,
    paired_figure,
    paired_panel,
    profile_panel,
    profiles_figure,
)
from isthmus.report.alignedtables import (
    contrast_interval,
    contrast_rows,
    contrast_value,
    improved,
    number_of_pairs,
    pair_rows,
    quantity_name,
    reached,
    step_rows,
)
from isthmus.report.drawing import NamedFigure
from isthmus.report.formats import count, split_name
from isthmus.report.pages import Card, Page
from isthmus.report.panels import compose, relayout
from isthmus.report.sections import Drawing, Figures, Grid, Section, Terms, Text
from isthmus.report.sentences import matching_sentence
from isthmus.report.tables import Table, axis_rows, end_rows, provenance_rows, setting_rows

_CLAIMS = (
    (LENGTH, "", "shorter", "longer", "length"),
    (MAXIMUM, "test", "lower", "higher", "maximum loss"),
    (MINIMUM, "test", "more accurate", "less accurate", "minimum accuracy"),
    (STEPS, "train", "quicker to fit", "slower to fit", "steps to the level"),
)  # fmt: skip
"""Quantity, split, what an improvement is called, what the opposite, and its short name."""


def curves_page(study: CurveComparison, prefix: str = "") -> Page:
    """Curves before and after alignment: what changed, over the pairs, then every pair."""
    whole = bool(study.contrasts)
    return Page(
        title=study.task,
        headline=headline(study),
        sentence=sentence(study),
        aside=" ".join((_pairs_sentence(study), *study.failures)),
        cards_title="Aligned − unaligned: the mean over the pairs, with its interval" if whole else "",
        cards=tuple(_card(study, *claim) for claim in _CLAIMS) if whole else (),
        sections=tuple(curve_sections(study, prefix)),
        figures=partial(curve_figures, study),
        tables=(contrast_rows(study, brief=True),) if whole else (),
    )


def curve_figures(study: CurveComparison) -> tuple[NamedFigure, ...]:
    """Every figure of a comparison, as files."""
    fits = NamedFigure("curves-fits", fits_figure(study), 640)
    if not study.contrasts:
        return (fits,)
    return (
        NamedFigure("curves-paired", paired_figure(study), 1080),
        NamedFigure("curves-profiles", profiles_figure(study, controls=False), 920),
        fits,
    )


def headline(study: CurveComparison) -> str:
    """What alignment did to the curves, as far as the intervals say."""
    if not study.contrasts:
        return "No pair had both of its curves fitted"
    found = [(study.contrast(claim[0], claim[1]), claim[2], claim[3]) for claim in _CLAIMS]
    better = [word for each, word, _ in found if each.decided > 0]
    worse = [word for each, _, word in found if each.decided < 0]
    number = len(found[0][0].before)
    if not better and not worse:
        return f"Aligned and unaligned curves: undecided over {number_of_pairs(number)}"
    return f"Over {number_of_pairs(number)}, aligned curves are {_listed([*better, *worse])}"


def sentence(study: CurveComparison) -> str:
    """The claims with their figures, on held-out data."""
    if not study.contrasts:
        return "The fits diverged; a smaller rate may help."
    clauses, number = [], len(study.contrasts[0].before)
    for name, split, _, _, short in _CLAIMS:
        each = study.contrast(name, split)
        on = f" ({split_name(split)})" if split else ""
        told = (
            f"{contrast_value(each, each.before_mean.value)} → {contrast_value(each, each.after_mean.value)}"
        )
        if not math.isfinite(each.difference.value) and name == STEPS:
            told = f"reached in {reached(each.before)} → {reached(each.after)} of {number}"
        clauses.append(f"{short}{on} {told}, {improved(each)}")
    return (
        f"Unaligned → aligned by {study.method}, means over {number_of_pairs(number)}: {'; '.join(clauses)}."
    )


def curve_sections(study: CurveComparison, prefix: str = "") -> list[Section]:
    """The comparison, in the order in which it is best read."""
    note = (Text(study.note),) if study.note else ()
    found = []
    if study.contrasts:
        found = [
            Section("contrasts", "Unaligned against aligned", (Grid(contrast_rows(study)),)),
            Section(
                "paired", "Pair by pair",
                (Figures(_paired(study, prefix)), Text(_PAIRED), Grid(pair_rows(study))),
            ),
            Section("profiles", "Along the curves", (Figures(_profiles(study, prefix)), Text(_PROFILES))),
        ]  # fmt: skip
    label = "The highest training loss on each curve against the gradient steps of its fit."
    fits = Drawing(f"{prefix}curves-fits", fits_figure(study), label, label)
    found.append(
        Section("fits", "As the curves were fitted", (Figures((fits,)), Text(_FITS), Grid(step_rows(study))))
    )
    found.append(Section("matching", "What was matched", tuple(_matchings(study))))
    found.append(Section("networks", "The networks", (*note, Grid(end_rows_of(study)))))
    found.append(Section("reading", "How to read this", (Terms(_terms(study)),)))
    found.append(Section("provenance", "Provenance", tuple(_provenance(study))))
    return [Section(prefix + each.name, each.title, each.blocks) for each in found]


def end_rows_of(study: CurveComparison) -> Table:
    """The given networks, as saved."""
    return end_rows(study.ends)


def _paired(study: CurveComparison, prefix: str) -> tuple[Drawing, ...]:
    drawings = []
    for index, name in enumerate(QUANTITIES, start=1):
        title = quantity_name(name, study.multiple)
        label = f"{title} of every pair, unaligned and aligned; the figures are in the tables."
        figure = compose([paired_panel(study, name)], height=320, controls=False)
        drawings.append(Drawing(f"{prefix}curves-paired-{index}", figure, label, f"{title.capitalize()}."))
    return tuple(drawings)


def _profiles(study: CurveComparison, prefix: str) -> tuple[Drawing, ...]:
    drawings = []
    for of in ("loss", "accuracy"):
        panel = profile_panel(study, of)
        label = f"Mean {of} along unaligned and aligned curves, held-out and train."
        caption = f"{of.capitalize()} along the curves, mean over the pairs. Solid: held-out; dashed: train."
        buttons = tuple((v.name, relayout(v)) for v in panel.views) if len(panel.views) > 1 else ()
        figure = compose([panel], height=380, controls=False)
        drawings.append(Drawing(f"{prefix}curves-profile-{of}", figure, label, caption, buttons))
    return tuple(drawings)


def _matchings(study: CurveComparison) -> list[Text | Grid | Figures | Terms]:
    blocks: list[Text | Grid | Figures | Terms] = []
    for pair in study.pairs:
        blocks.append(Text(f"{pair.name}: {matching_sentence(pair.matching)}"))
        blocks.append(Grid(axis_rows(pair.matching), f"Hidden axes of {pair.name}"))
    blocks.append(Text(f"Check of the symmetry: {study.pairs[0].matching.verified.rstrip('.')}."))
    return blocks


def _provenance(study: CurveComparison) -> list[Text | Grid | Figures | Terms]:
    fit = study.pairs[0].unaligned.fit
    return [
        Grid(provenance_rows(study.ends, study.provenance)),
        Grid(setting_rows("curves", fit), "Settings of the fits"),
    ]


def _card(study: CurveComparison, name: str, split: str, better: str, worse: str, short: str) -> Card:
    each = study.contrast(name, split)
    state = {1: "connected", 0: "undecided", -1: "barrier"}[each.decided]
    badge = {1: f"✓ {better}", 0: "? undecided", -1: f"✕ {worse}"}[each.decided]
    title = f"{short}{f', {split_name(split)}' if split else ''}"
    return Card(
        title, contrast_value(each, each.difference.value, signed=True),
        contrast_interval(each, each.difference) or improved(each), badge, state,
    )  # fmt: skip


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _pairs_sentence(study: CurveComparison) -> str:
    """How far the pairs are independent."""
    if len(study.pairs) < 2:
        return "One pair: there is no interval over pairs."
    if study.shared:
        return (
            f"The {len(study.pairs)} pairs are made of {len(study.ends)} networks. Pairs that share a "
            "network are not independent, so the intervals over pairs are narrower than they should be; "
            "disjoint pairs (--pairs disjoint) are independent."
        )
    return "No network is in two pairs: the pairs are independent, given the data."


_PAIRED = (
    "A thin line joins the two curves of a pair. The bar beside the dots is the mean over the pairs with its "
    "interval."
)
_PROFILES = (
    "Lines: the mean over the pairs; bands: from the lowest pair to the highest. A is the network that "
    "stays, B the one that is aligned to it."
)
_FITS = (
    "A look at the fit measures the curve at even positions on training examples; looks are in equal ratios "
    "of steps. At 0 steps the curve is the straight line. Both curves of a pair see the same positions and "
    "batches."
)
_ALIGNED = (
    "The second network of a pair with its hidden units put in another order, chosen by the matching. It "
    "computes exactly what it computed before; only the path between the two differs."
)
_CURVE = (
    "A path whose inner control points were trained so that the loss is low at random points of it. It is "
    "fitted to the training data; the ends stay."
)
_EXTREMES = (
    "The highest mean loss and the lowest accuracy among the positions evaluated: even ones, and more around "
    "the highest. Both are extremes over noisy means, and so a little pessimistic."
)
_INTERVALS = (
    "Over pairs: Student's, for the mean of the pairs, cut where a value cannot be; it takes them to be "
    "independent and about normal. Of one pair: 95 % nominally, by the paired bootstrap over the examples, "
    "the union of the percentile and the basic interval. Better in: the pairs in which the aligned curve is "
    "strictly better."
)
_LIMITS = (
    "The curves are what this schedule found, not the best there are; another rate or more steps may bring "
    "the two closer."
)


def _terms(study: CurveComparison) -> tuple[tuple[str, str], ...]:
    watch = study.pairs[0].unaligned.watch
    steps = (
        f"Gradient steps of the fit until the curve is at or below the level at all of {watch.points} "
        f"positions, on {count(watch.examples)} training examples: known to within two looks. The level is "
        f"{study.multiple:g} times the loss of the pair's higher end. Steps to the unaligned fit's lowest: "
        "until the curve is as low as the unaligned one ever was."
    )
    return (
        ("Aligned", _ALIGNED), ("Curve", _CURVE),
        ("Length", "The arc length of the curve in weight space; straight: the distance between its ends."),
        ("Maximum loss, minimum accuracy", _EXTREMES),
        ("Mean loss", "Along the curve by arc length: ∫ L dl / ∫ dl."),
        ("Steps to the level", steps), ("Intervals", _INTERVALS), ("What this does not say", _LIMITS),
    )  # fmt: skip

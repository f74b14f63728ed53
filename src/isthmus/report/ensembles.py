"""The page of an ensemble: its quality beside that of single models and of their weight average."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from isthmus.ensembles import AVERAGE, BEST, ENSEMBLE, SINGLE, Ensemble, Estimate, Gain, Quality
from isthmus.experiments.ensembling import EnsembleStudy
from isthmus.report.charts import history_figure
from isthmus.report.drawing import NamedFigure
from isthmus.report.ensemblefigures import (
    confidence_figure,
    member_figure,
    quality_figure,
    rate_figure,
    reliability_figure,
)
from isthmus.report.formats import (
    count,
    coverage,
    interval,
    percent,
    percent_interval,
    plain_loss,
    quantity,
    split_name,
)
from isthmus.report.pages import Card, Page
from isthmus.report.sections import Drawing, Figures, Grid, Section, Terms, Text
from isthmus.report.tables import Cell, Column, Table, provenance_rows, score_rows

_COMPARED = (ENSEMBLE, AVERAGE, BEST, SINGLE)
_LONG = 12
"""A table of more members than this is folded."""
_QUANTITIES = ("error", "loss", "calibration")
_TITLES = {"error": "Error", "loss": "Loss", "calibration": "Calibration error"}


def ensemble_page(study: EnsembleStudy, prefix: str = "") -> Page:
    """An ensemble: what averaging the predictions is worth, then all members."""
    found = study.ensemble
    split = _judged(found)
    cards = tuple(_card(found, name, split) for name in _COMPARED)
    return Page(
        title=study.task,
        headline=_headline(study, split),
        sentence=gain_sentence(study, split),
        aside=_aside(found, split),
        cards_title=f"Error on {split_name(split)} data, with its interval",
        cards=cards,
        sections=tuple(_sections(study, prefix)),
        figures=partial(ensemble_figures, study),
        tables=(quality_rows(found), gain_rows(found)),
    )


def ensemble_figures(study: EnsembleStudy) -> tuple[NamedFigure, ...]:
    """Every figure of the study, in the order of the page."""
    found = study.ensemble
    figures = [NamedFigure(f"ensemble-{of}", quality_figure(found, of)) for of in _measured(found)]
    if found.quality(ENSEMBLE, _judged(found)).reliability is not None:
        figures.append(NamedFigure("reliability", reliability_figure(found, _judged(found)), 520))
        figures.append(NamedFigure("confidence", confidence_figure(found, _judged(found)), 520))
    figures += [NamedFigure(f"members-{of}", member_figure(found, of)) for of in ("error", "loss")]
    if study.cycles is not None:
        figures.append(NamedFigure("rates", rate_figure(study.cycles)))
        figures.append(NamedFigure("training", history_figure([("cycles", study.cycles.fit)])))
    return tuple(figures)


def quality_rows(found: Ensemble) -> Table:
    """The ensemble and what it is compared with: error, loss and calibration error on each split."""
    titles = {BEST: f"{BEST}, {found.names[found.best]}"}
    rows = tuple(
        _quality_row(found.quality(name, split), titles.get(name, name) if first else "")
        for name in _COMPARED
        for first, split in _splits(found)
    )
    return Table("The ensemble beside its members", _columns(found, "predictor"), rows)


def gain_rows(found: Ensemble) -> Table:
    """How much lower the ensemble lies than each, on the same examples."""
    rows = tuple(
        _gain_row(found.gain(name, split), name if first else "")
        for name in (BEST, SINGLE, AVERAGE)
        for first, split in _splits(found)
    )
    return Table("How much lower the ensemble is, paired", _columns(found, "than"), rows)


def gain_sentence(study: EnsembleStudy, split: str) -> str:
    """The claim with its data and intervals."""
    found = study.ensemble
    mine, best, gain = found.quality(ENSEMBLE, split), found.quality(BEST, split), found.gain(BEST, split)
    told = (
        f"On {count(mine.examples)} {split_name(split)} examples the average of the predictions of "
        f"{study.about} has error {percent(mine.error.value)} and loss {plain_loss(mine.loss.value)}; the "
        f"best single one ({best.name}) has {percent(best.error.value)} and {plain_loss(best.loss.value)}. "
        f"Against that one {_difference('error', gain.error)}; {_difference('loss', gain.loss)} "
        f"({coverage(found.level)} intervals, paired)."
    )
    return told[0].upper() + told[1:]


def _difference(of: str, gain: Estimate) -> str:
    """What a paired difference says."""
    if gain.value == gain.low == gain.high == 0:
        return f"its {of} is the same"
    lower = gain.value >= 0
    spread = interval(of, gain.low, gain.high) if lower else interval(of, -gain.high, -gain.low)
    decided = "" if gain.low > 0 or gain.high < 0 else ", which these examples do not decide"
    size = quantity(of, abs(gain.value))
    if size == quantity(of, 0.0):
        return f"its {of} is the same {spread}{decided}"
    return f"its {of} is {'lower' if lower else 'higher'} by {size} {spread}{decided}"


def _headline(study: EnsembleStudy, split: str) -> str:
    found = study.ensemble
    mine, best, mean = (found.quality(name, split).error.value for name in (ENSEMBLE, BEST, AVERAGE))
    return (
        f"An ensemble of {study.about}: error {percent(mine)}, the best single one {percent(best)}, "
        f"their weight average {percent(mean)}"
    )


def _aside(found: Ensemble, split: str) -> str:
    apart = found.disagreement[split]
    told = (
        "The best single member is chosen by its loss on these same examples, so the gain over it is "
        "understated. "
    )
    if apart == apart:
        told += (
            f"Two members predict different classes on {percent(apart)} of the examples: where they agree, "
            "averaging changes nothing. "
        )
    if set(found.splits) == {"train", "test"}:
        train = found.quality(ENSEMBLE, "train")
        told += (
            f"On train data the ensemble has error {percent(train.error.value)} and loss "
            f"{plain_loss(train.loss.value)}."
        )
    return told.strip()


def _card(found: Ensemble, name: str, split: str) -> Card:
    error = found.quality(name, split).error
    spread = percent_interval(error.low, error.high)
    badge = "" if name == ENSEMBLE else _verdict(found.gain(name, split).error)
    return Card(name, percent(error.value), spread, badge)


def _verdict(gain: Estimate) -> str:
    if gain.low > 0:
        return "beaten"
    if gain.low == gain.high == 0:
        return "equal"
    return "better" if gain.high < 0 else "undecided"


def _sections(study: EnsembleStudy, prefix: str) -> list[Section]:
    found, split = study.ensemble, _judged(study.ensemble)
    note = [Text(study.note)] if study.note else []
    sections = [
        Section("quality", "The ensemble and its members", (*note, Grid(quality_rows(found)))),
        Section(
            "gains", "What the ensemble gains", (Grid(gain_rows(found)), _quality_drawings(found, prefix))
        ),
    ]
    if found.quality(ENSEMBLE, split).reliability is not None:
        sections.append(_calibration(found, split, prefix))
    sections.append(_members(found, prefix))
    if study.cycles is not None:
        sections.append(_cycles(study, prefix))
    sections.append(Section("reading", "How to read this", (Terms(_terms(found)),)))
    sections.append(Section("provenance", "Provenance", (Grid(_provenance(study)),)))
    return [Section(prefix + each.name, each.title, each.blocks) for each in sections]


def _quality_drawings(found: Ensemble, prefix: str) -> Figures:
    return Figures(
        tuple(
            Drawing(
                f"{prefix}ensemble-{of}",
                quality_figure(found, of),
                f"{_TITLES[of]} of the ensemble, the weight average, the best and the mean single member.",
                f"{_TITLES[of]} with intervals. Filled: held-out data; open: train. The axis is linear near "
                "zero and logarithmic beyond.",
            )
            for of in _measured(found)
        )
    )


def _calibration(found: Ensemble, split: str, prefix: str) -> Section:
    label = f"Accuracy against confidence on {split_name(split)} data; the table has the errors."
    caption = (
        f"How often predictions of some confidence are right, on {split_name(split)} data, in {found.bins} "
        "bins of equal width. On the diagonal a model is as often right as it says. The larger a marker, the "
        "more predictions it stands for; small ones are noise."
    )
    shares = (
        f"How many of the predictions on {split_name(split)} data have which confidence, in the same bins."
    )
    drawings = (
        Drawing(f"{prefix}reliability", reliability_figure(found, split), label, caption),
        Drawing(f"{prefix}confidence", confidence_figure(found, split), shares, shares),
    )
    return Section("calibration", "Whether the confidence is right", (Figures(drawings),))


def _members(found: Ensemble, prefix: str) -> Section:
    where = "along the path" if len(found.t) else "one by one"
    drawings = tuple(
        Drawing(
            f"{prefix}members-{of}",
            member_figure(found, of),
            f"{_TITLES[of]} of the members {where}, with the ensemble's.",
            f"{_TITLES[of]} of the members {where}. Filled: held-out data; open: train. The lines are the "
            "ensemble's: solid on held-out data, dashed on train.",
        )
        for of in ("error", "loss")
    )
    rows = tuple(
        _quality_row(found.quality(name, split), name if first else "")
        for name in found.names
        for first, split in _splits(found)
    )
    table = Table("Every member", _columns(found, "member"), rows)
    folded = f"All {len(found.names)} members" if len(found.names) > _LONG else ""
    return Section("members", f"The members, {where}", (Figures(drawings), Grid(table, folded)))


def _cycles(study: EnsembleStudy, prefix: str) -> Section:
    cycles = study.cycles
    assert cycles is not None
    label = "The learning rate of every step, with the steps after which a snapshot was taken."
    drawings = (
        Drawing(f"{prefix}rates", rate_figure(cycles), label, label),
        Drawing(
            f"{prefix}training",
            history_figure([("cycles", cycles.fit)], controls=False),
            "The mean training loss of each epoch.",
            "The mean training loss of each epoch of the cycles, in training mode.",
        ),
    )
    settings = tuple((Cell(name), Cell(str(value))) for name, value in cycles.fit.settings.items())
    table = Table("Settings of the cycles", (Column("setting", "name"), Column("value")), settings)
    start = score_rows([("start", cycles.start)], "The model that the training began at, as saved")
    return Section("cycles", "How the snapshots were trained", (Grid(start), Figures(drawings), Grid(table)))


def _terms(found: Ensemble) -> tuple[tuple[str, str], ...]:
    pairs = [("Ensemble", _PROBABILITIES if found.averaged == "probabilities" else _OUTPUTS)]
    pairs += [("Weight average", _WEIGHTS), ("Best single, mean single", _SINGLE)]
    if found.averaged == "probabilities":
        pairs.append(("Calibration error", _CALIBRATION.format(bins=found.bins)))
    pairs.append(("Interval", _INTERVAL.format(level=coverage(found.level))))
    return tuple(pairs)


def _provenance(study: EnsembleStudy) -> Table:
    return provenance_rows(
        study.origins, {"batch norm of the members": study.ensemble.batchnorm} | study.provenance
    )


def _columns(found: Ensemble, first: str) -> tuple[Column, ...]:
    names = {"error": "error", "loss": "loss", "calibration": "calibration error"}
    measures = (Column(names[of], "measure") for of in _measured(found))
    return (Column(first, "name"), Column("data", "text"), *measures)


def _quality_row(quality: Quality, name: str) -> tuple[Cell, ...]:
    return Cell(name), Cell(split_name(quality.split)), *_cells(quality)


def _gain_row(gain: Gain, name: str) -> tuple[Cell, ...]:
    return Cell(name), Cell(split_name(gain.split)), *_cells(gain)


def _cells(record: Quality | Gain) -> list[Cell]:
    pairs = [("error", record.error), ("loss", record.loss)]
    if record.calibration is not None:
        pairs.append(("error", record.calibration))
    return [Cell(quantity(of, e.value), interval(of, e.low, e.high)) for of, e in pairs]


def _splits(found: Ensemble) -> Sequence[tuple[bool, str]]:
    """Held-out data first; whether it is the first."""
    ordered = sorted(found.splits, key=lambda split: split != "test")
    return [(split == ordered[0], split) for split in ordered]


def _judged(found: Ensemble) -> str:
    return _splits(found)[0][1]


def _measured(found: Ensemble) -> tuple[str, ...]:
    calibrated = found.qualities[0].calibration is not None
    return _QUANTITIES if calibrated else _QUANTITIES[:2]


_PROBABILITIES = (
    "One predictor made of several models: their class probabilities are averaged, for sequences at every "
    "position. Its loss is never above the mean of theirs. It costs one forward pass a member."
)
_OUTPUTS = (
    "One predictor made of several models: their outputs are averaged, and judged by the task's own loss and "
    "error. It costs one forward pass a member."
)
_WEIGHTS = (
    "One model whose weights are the mean of the members' weights, batch-norm statistics measured anew. It "
    "costs one forward pass in all; it is good only where the loss between the members is low."
)
_SINGLE = (
    "The member of the lowest loss on held-out data, chosen on the very examples it is shown on; and the "
    "mean over all members."
)
_CALIBRATION = (
    "The expected calibration error: predictions are sorted by the confidence in the predicted class into "
    "{bins} bins of equal width; it is the mean gap between accuracy and mean confidence, weighted by the "
    "bins' shares. Noise in bins of few predictions raises it, so small differences on few examples say "
    "little."
)
_INTERVAL = (
    "{level} intervals: of a loss the normal one, of an error Wilson's. Differences are paired: they "
    "resample the examples, the same for both predictors, and are known more closely than the two numbers "
    "suggest. Those of calibration errors hold the percentile and the reflected interval. None says anything "
    "of other trainings from other seeds."
)

"""Tables as data: rows of text made from records, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from isthmus.barriers import Barrier, Verdict
from isthmus.experiments.records import End, Fit, Matching, Merge, PairStudy, PathStudy
from isthmus.report.formats import (
    count,
    interval,
    loss_interval,
    percent,
    percent_interval,
    plain_loss,
    position,
    quantity,
    ratio,
    significant,
    split_name,
)
from isthmus.report.sentences import VERDICT_SIGNS, VERDICT_WORDS
from isthmus.scores import Score


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: its heading.
        kind: "name" (the row's heading), "text", "number" (to the right), "measure" (a number with its
            interval) or "verdict".
    """

    name: str
    kind: Literal["name", "text", "number", "measure", "verdict"] = "number"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what it says.
        detail: what stands smaller beside it (an interval), or nothing.
        verdict: what it judges, in a column of verdicts.
    """

    text: str
    detail: str = ""
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows.
        columns: from left to right; the first is the row's heading.
        rows: from top to bottom, each with one cell a column.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def score_rows(scored: Sequence[tuple[str, tuple[Score, ...]]], caption: str) -> Table:
    """Loss, error and accuracy of networks, one row for each network and split."""
    columns = (
        Column("network", "name"), Column("data", "text"), Column("examples"), Column("loss", "measure"),
        Column("error", "measure"), Column("accuracy"),
    )  # fmt: skip
    rows = [_score_row(name, score) for name, scores in scored for score in held_out_first(scores)]
    return Table(caption, columns, tuple(rows))


def end_rows(ends: Sequence[End]) -> Table:
    """The given networks, as their owners saved them."""
    return score_rows([(end.name, end.scores) for end in ends], "The given networks, as saved")


def path_rows(study: PairStudy) -> Table:
    """Every path with its verdict, its barriers above the mean of its ends, and its length."""
    columns = (
        Column("path", "name"), Column("verdict", "verdict"), Column("error barrier, held-out", "measure"),
        Column("error barrier, train", "measure"), Column("loss barrier, held-out", "measure"),
        Column("loss barrier, train", "measure"), Column("length / straight"),
    )  # fmt: skip
    return Table(
        "Barriers above the mean of the ends",
        columns,
        tuple(_path_row(path, study.tolerance) for path in study.paths),
    )


def study_rows(study: PairStudy) -> Table:
    """The paths again, one row for each path and split: narrow enough for a terminal of 80 columns."""
    columns = (
        Column("path", "name"), Column("verdict", "verdict"), Column("data", "text"),
        Column("error barrier", "measure"), Column("loss barrier", "measure"), Column("length"),
    )  # fmt: skip
    rows = [
        (
            Cell(path.name if split == "test" else ""),
            _verdict_cell(path.barrier("error", split).verdict(study.tolerance)),
            Cell(split_name(split)),
            _barrier_cell(path.barrier("error", split)), _barrier_cell(path.barrier("loss", split)),
            Cell(ratio(path.length, path.endpoint_distance) if split == "test" else ""),
        )
        for path in study.paths for split in ("test", "train")
    ]  # fmt: skip
    return Table("Barriers above the mean of the ends; length over the straight line", columns, tuple(rows))


def barrier_rows(
    barriers: Sequence[Barrier], tolerance: float = 0.02, names: Sequence[str] | None = None
) -> Table:
    """Barriers one by one, with all that defines each; only an error barrier above the mean is judged."""
    columns = (
        Column("path", "name"), Column("barrier of", "text"), Column("data", "text"),
        Column("height", "measure"), Column("at t"), Column("examples"), Column("verdict", "verdict"),
    )  # fmt: skip
    titles = names if names is not None else [barrier.kind for barrier in barriers]
    rows = [
        (
            Cell(title), Cell(f"{barrier.of} above {barrier.above}"), Cell(split_name(barrier.split)),
            _barrier_cell(barrier), Cell(position(barrier.at)), Cell(count(barrier.examples)),
            _verdict_cell(barrier.verdict(tolerance)) if judged(barrier) else Cell("—"),
        )
        for title, barrier in zip(titles, barriers, strict=True)
    ]  # fmt: skip
    return Table("Barriers", columns, tuple(rows))


def judged(barrier: Barrier) -> bool:
    """Whether the tolerance is about this kind of barrier (Frankle et al. 2020)."""
    return (barrier.of, barrier.above) == ("error", "mean")


def chord_rows(study: PairStudy) -> Table:
    """Every barrier above the mean and above the chord, where each was measured, with its place."""
    found = [(path.name, barrier) for path in study.paths for barrier in path.barriers]
    return barrier_rows([b for _, b in found], study.tolerance, [name for name, _ in found])


def length_rows(paths: Sequence[PathStudy]) -> Table:
    """The length of each path beside the straight line between its ends."""
    columns = (
        Column("path", "name"), Column("arc length"), Column("straight line"), Column("length / straight"),
    )  # fmt: skip
    rows = [
        (
            Cell(path.name), Cell(significant(path.length, 4)),
            Cell(significant(path.endpoint_distance, 4)), Cell(ratio(path.length, path.endpoint_distance)),
        )
        for path in paths
    ]  # fmt: skip
    return Table("Lengths in weight space, batch-norm statistics not counted", columns, tuple(rows))


def axis_rows(matching: Matching) -> Table:
    """What was matched, one row a hidden axis."""
    columns = (
        Column("axis", "name"), Column("units"), Column("free"), Column("moved"),
        Column("carried by", "text"),
    )  # fmt: skip
    rows = [
        (
            Cell(axis.name), Cell(count(axis.size)), Cell(count(axis.free)), Cell(percent(axis.moved)),
            Cell(", ".join(axis.places)),
        )
        for axis in matching.axes
    ]  # fmt: skip
    return Table("Hidden axes", columns, tuple(rows))


def pinned_rows(matching: Matching) -> Table:
    """What may not move, and why."""
    rows = tuple((Cell(place), Cell(reason)) for place, reason in matching.pinned)
    return Table("Pinned", (Column("parameter and dimension", "name"), Column("why", "text")), rows)


class Sourced(Protocol):
    """A network that came from a file."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def source(self) -> str:
        """The file."""
        ...

    @property
    def sha256(self) -> str:
        """Its digest."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was unwrapped or filled in while reading it."""
        ...


def provenance_rows(networks: Sequence[Sourced], provenance: Mapping[str, str]) -> Table:
    """Files, hashes, versions, seeds and the command.

    Args:
        networks: the given ones.
        provenance: what else there is to tell, by name.
    """
    files: list[tuple[str, str]] = []
    for each in networks:
        files += [(f"{each.name}: source", each.source), (f"{each.name}: SHA-256", each.sha256)]
        if each.notes:
            files.append((f"{each.name}: while reading", "; ".join(each.notes)))
    rows = tuple((Cell(name), Cell(value)) for name, value in [*files, *provenance.items()])
    return Table(
        "Files, versions, seeds, settings and the command",
        (Column("what", "name"), Column("value", "text")),
        rows,
    )


def merge_rows(merges: Sequence[Merge]) -> Table:
    """The midpoints of the lines, as networks of their own."""
    return score_rows([(merge.name, merge.scores) for merge in merges], "Merged networks")


def setting_rows(name: str, fit: Fit) -> Table:
    """How a path was fitted."""
    settings = [*fit.settings.items(), ("steps", count(fit.steps))]
    rows = tuple((Cell(name), Cell(str(value))) for name, value in settings)
    return Table(f"Settings of the {name}", (Column("setting", "name"), Column("value")), rows)


def held_out_first(scores: tuple[Score, ...]) -> tuple[Score, ...]:
    """Held-out data before the fitted data."""
    return tuple(sorted(scores, key=lambda score: score.split != "test"))


def _score_row(name: str, score: Score) -> tuple[Cell, ...]:
    return (
        Cell(name), Cell(split_name(score.split)), Cell(count(score.examples)),
        Cell(plain_loss(score.loss), loss_interval(score.loss_low, score.loss_high)),
        Cell(percent(score.error), percent_interval(score.error_low, score.error_high)),
        Cell(percent(score.accuracy)),
    )  # fmt: skip


def _path_row(path: PathStudy, tolerance: float) -> tuple[Cell, ...]:
    return (
        Cell(path.name),
        _verdict_cell(path.barrier("error", "test").verdict(tolerance)),
        *(_barrier_cell(path.barrier(of, split)) for of in ("error", "loss") for split in ("test", "train")),
        Cell(ratio(path.length, path.endpoint_distance)),
    )


def _barrier_cell(barrier: Barrier) -> Cell:
    return Cell(quantity(barrier.of, barrier.height), interval(barrier.of, barrier.low, barrier.high))


def _verdict_cell(verdict: Verdict) -> Cell:
    return Cell(f"{VERDICT_SIGNS[verdict]} {VERDICT_WORDS[verdict]}", verdict=verdict)

"""`isthmus barrier`: how far the straight line between two checkpoints rises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli.options import (
    AsJson,
    BatchNorm,
    CheckpointA,
    CheckpointB,
    Data,
    Device,
    Force,
    Out,
    Points,
    Quiet,
    Recalibration,
    Seed,
    TaskName,
    Tolerance,
)
from isthmus.cli.session import bars, emit, guarded, limit, new_file, open_checkpoint, open_task
from isthmus.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from isthmus.precision import PreciseBarrier

_EXAMPLES = 2000
Examples = Annotated[
    int | None,
    typer.Option(
        help="Examples of each split; 0 uses all. (default: 2000; all with --precision)", show_default=False
    ),
]
Precision = Annotated[
    float | None,
    typer.Option(
        help="Stop when the interval of the barrier is narrower than this (a share of examples for the "
        "error, nats for the loss): a small part of the forward passes is enough.",
        show_default=False,
    ),
]
Of = Annotated[str, typer.Option("--of", help="With --precision: the barrier of error or loss.")]


@guarded
def barrier(
    a: CheckpointA,
    b: CheckpointB,
    task: TaskName,
    points: Points = 25,
    examples: Examples = None,
    precision: Precision = None,
    of: Of = "error",
    batchnorm: BatchNorm = "recalibrate",
    recalibration: Recalibration = 2048,
    tolerance: Tolerance = 0.02,
    data: Data = None,
    out: Out = None,
    force: Force = False,
    device: Device = "cpu",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure the barrier on the straight line between A and B, in loss and error, train and held-out.

    With --out FILE.json the whole profile is kept as a record. With --precision W the barrier is measured
    until its interval is narrower than W, above the ends' mean, at a fraction of the cost.
    """
    if not 0 < tolerance < 1:
        raise SettingError(f"the tolerance is a share of examples between 0 and 1, got {tolerance}")
    if of not in ("error", "loss"):
        raise SettingError(f"expected --of error or loss, got {of!r}")
    path = new_file(out, "", force) if out else None
    problem = open_task(task, data, device)
    one, two = open_checkpoint(a, problem), open_checkpoint(b, problem)
    from isthmus.experiments.measuring import study_path
    from isthmus.io.records import write_record
    from isthmus.landscape import Landscape
    from isthmus.path import Segment
    from isthmus.report.terminal import barrier_table

    if examples is None:
        examples = _EXAMPLES if precision is None else 0
    landscape = Landscape(problem, device, batchnorm, recalibration, limit=limit(examples))
    line, shown = Segment(one.weights, two.weights), bars(quiet, as_json)
    if precision is not None:
        from isthmus.precision import PreciseBarriers, barrier_to

        found = [
            barrier_to(
                line, landscape, precision, of="loss" if of == "loss" else "error", split=split,
                points=points, seed=seed, progress=shown,
            )
            for split in ("test", "train")
        ]  # fmt: skip
        precise = {
            "a": one.sha256,
            "b": two.sha256,
            "barriers": found,
            "verdict": found[0].verdict(tolerance),
        }
        if path:
            write_record(PreciseBarriers(tuple(found)), path)
        emit(precise, as_json, quiet, _precise_table(found, tolerance))
        return
    study = study_path("naive line", line, landscape, points=points, seed=seed, progress=shown)
    if path:
        write_record(study, path)
    verdict = study.barrier().verdict(tolerance)
    result = {"a": one.sha256, "b": two.sha256, "barriers": study.barriers, "verdict": verdict}
    emit(result, as_json, quiet, barrier_table(study.barriers, tolerance))


def _precise_table(found: Sequence[PreciseBarrier], tolerance: float) -> Table:
    """Each barrier with both intervals and what it cost."""
    from isthmus.report.formats import count, loss_interval, percent, percent_interval, quantity, split_name
    from isthmus.report.sentences import VERDICT_WORDS
    from isthmus.report.tables import Cell, Column, Table
    from isthmus.report.terminal import drawn

    of = found[0].barrier.of
    interval = percent_interval if of == "error" else loss_interval
    columns = (
        Column("data", "name"), Column("height", "measure"), Column("new examples"), Column("examples"),
        Column("forward passes"), *([Column("verdict", "verdict")] if of == "error" else []),
    )  # fmt: skip
    rows = []
    for one in found:
        told, verdict = one.barrier, one.verdict(tolerance)
        judged = [Cell(VERDICT_WORDS[verdict], verdict=verdict)] if of == "error" else []
        rows.append(
            (
                Cell(split_name(told.split)), Cell(quantity(of, told.height), interval(one.low, one.high)),
                Cell(interval(told.low, told.high)), Cell(count(told.examples), f"of {count(one.total)}"),
                Cell(count(one.forwards), f"{percent(one.share)} of {count(one.full)}"), *judged,
            )
        )  # fmt: skip
    shown = drawn(
        Table(f"{of.capitalize()} barrier above the ends' mean, to a precision", columns, tuple(rows))
    )
    short = [one for one in found if not one.reached]
    shown.caption = (
        "height: with the interval of what all positions and all examples would give; new examples: the "
        "interval for others of their kind." + (" All examples were used." if short else "")
    )
    return shown

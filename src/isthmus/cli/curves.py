"""`isthmus curves`: curves before and after alignment, over several pairs of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isthmus.cli.options import (
    AsJson,
    BatchNorm,
    Bends,
    CurveEpochs,
    CurveRate,
    Data,
    Device,
    Examples,
    Figures,
    Out,
    Points,
    Quiet,
    Recalibration,
    Restarts,
    Seed,
    TaskName,
)
from isthmus.cli.session import bars, command_line, guarded, limit, open_checkpoint, open_task
from isthmus.errors import SettingError


@guarded
def curves(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(metavar="CKPT…", help="Two checkpoints or more; of a pair the later one is aligned."),
    ],
    task: TaskName,
    align: Annotated[
        str,
        typer.Option(
            "--align",
            "--method",
            help="How units are matched: activation (as published), weight, ste, learned, sinkhorn or "
            "anneal.",
        ),
    ] = "activation",
    restarts: Restarts = 3,
    pairs: Annotated[
        str,
        typer.Option(
            help="all: every two checkpoints; disjoint: the first and second, third and fourth, and so on, "
            "which are independent of one another."
        ),
    ] = "all",
    curve: Annotated[str, typer.Option("--curve", "--kind", help="bezier or chain.")] = "bezier",
    bends: Bends = 1,
    curve_steps: Annotated[int, typer.Option(help="Gradient steps of each fit.")] = 1000,
    curve_epochs: CurveEpochs = None,
    curve_rate: CurveRate = None,
    points: Points = 25,
    examples: Examples = 2000,
    level: Annotated[
        float,
        typer.Option(
            help="Count steps until the curve's highest training loss is at most this many times that of the "
            "pair's higher end."
        ),
    ] = 20.0,
    looks: Annotated[
        int, typer.Option(help="How often each fit is looked at, in equal ratios of steps.")
    ] = 40,
    watch_points: Annotated[int, typer.Option(help="Positions on the curve at a look.")] = 13,
    watch_examples: Annotated[int, typer.Option(help="Training examples at a look.")] = 500,
    batchnorm: BatchNorm = "recalibrate",
    recalibration: Recalibration = 2048,
    figures: Figures = False,
    data: Data = None,
    out: Out = None,
    device: Device = "cpu",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Fit the curve between every two networks before and after alignment, and compare over the pairs.

    Length, maximum loss, minimum accuracy and steps to a level, with intervals over the pairs. Writes a run
    folder: report.html, the aligned networks, the curves' controls and the records. Give the same command
    again to resume.
    """
    from isthmus.experiments.alignedcurves import (
        AlignedCurveSettings,
        chosen_pairs,
        compare_curves,
        curves_identity,
        names_of,
    )

    settings = AlignedCurveSettings(
        method=align, restarts=restarts, pairs=pairs, curve=curve, bends=bends, curve_steps=curve_steps,
        curve_epochs=curve_epochs, curve_rate=curve_rate, points=points, examples=limit(examples),
        level=level, looks=looks, watch_points=watch_points, watch_examples=watch_examples,
        batchnorm=batchnorm, recalibration=recalibration, seed=seed, device=device,
    )  # fmt: skip
    if len(checkpoints) < 2:
        raise SettingError(f"expected two checkpoints or more, got {len(checkpoints)}")
    problem = open_task(task, data, device)
    read = [open_checkpoint(path, problem) for path in checkpoints]
    chosen_pairs([each.sha256 for each in read], names_of(read), pairs)
    from isthmus.cli.story import slug
    from isthmus.cli.study import study_in_run
    from isthmus.experiments.alignedrecords import CurveComparison
    from isthmus.identity import digest_of
    from isthmus.symmetry import discover

    symmetry = discover(problem.traceable, problem.example)  # before anything is written: it may refuse
    identity = curves_identity(problem, read, settings)
    folder = out or Path(f"isthmus-curves-{slug(problem.name)}-{digest_of(identity)[:8]}")
    study_in_run(
        folder,
        "curves",
        identity,
        CurveComparison,
        lambda run: compare_curves(
            read, problem, settings, run=run, command=command_line(), progress=bars(quiet, as_json),
            symmetry=symmetry,
        ),
        figures=figures,
        quiet=quiet,
        as_json=as_json,
    )  # fmt: skip

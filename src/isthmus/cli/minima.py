"""`isthmus minima`: many checkpoints joined to a tree of low passes, and how high its saddles lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli.options import (
    AsJson,
    BatchNorm,
    CurveEpochs,
    CurveRate,
    Data,
    Device,
    Figures,
    Out,
    Quiet,
    Recalibration,
    Seed,
    TaskName,
)
from isthmus.cli.session import bars, command_line, guarded, limit, names_of, open_checkpoint, open_task
from isthmus.cli.story import slug
from isthmus.cli.study import study_in_run
from isthmus.errors import SettingError

if TYPE_CHECKING:
    from isthmus.io.runs import Run


@guarded
def minima(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(metavar="CKPT…", help="Two checkpoints or more, each a minimum of its own."),
    ],
    task: TaskName,
    kind: Annotated[
        str,
        typer.Option(
            "--kind", "--curve", help="How a pair is joined: neb (elastic band), bezier, chain or string."
        ),
    ] = "neb",
    edges: Annotated[
        int | None,
        typer.Option(
            help="Pairs to test at most; 0 goes on while any pair can lower the tree. (default: twice as "
            "many as a tree needs)",
            show_default=False,
        ),
    ] = None,
    bends: Annotated[
        int | None,
        typer.Option(
            help="Inner control points of a curve, or pivots that a band begins with. (default: 1 or 3)",
            show_default=False,
        ),
    ] = None,
    curve_steps: Annotated[
        int | None,
        typer.Option(
            help="Gradient steps of a path's fit. (default: 1000 of a curve, the recipe's of a band)",
            show_default=False,
        ),
    ] = None,
    curve_epochs: CurveEpochs = None,
    curve_rate: CurveRate = None,
    examples: Annotated[
        int,
        typer.Option(help="Examples of each split that minima and saddles are measured on; 0 uses all."),
    ] = 2000,
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
    """Join many networks by low paths, and draw the tree of the lowest saddles between them.

    The best network is connected to every other; then the highest edge of the spanning tree is attacked
    with untested pairs. Writes a run folder: report.html with the disconnectivity graph, the controls of
    every path, and records. Give the same command again to resume, edge by edge.
    """
    budget = _budget(edges, len(checkpoints))
    names = names_of(checkpoints)
    problem = open_task(task, data, device)
    read = [open_checkpoint(path, problem) for path in checkpoints]
    from isthmus.experiments.minima import MinimaSettings, check_minima, minima_identity, study_minima
    from isthmus.experiments.minimarecords import MinimaStudy
    from isthmus.identity import digest_of

    settings = MinimaSettings(
        kind, budget, bends, curve_steps, curve_epochs, curve_rate, limit(examples), batchnorm,
        recalibration, seed, device,
    )  # fmt: skip
    check_minima(read, names, budget)
    identity = minima_identity(problem, read, names, settings)
    folder = out or Path(f"isthmus-minima-{slug(problem.name)}-{digest_of(identity)[:8]}")

    def compute(run: Run) -> MinimaStudy:
        return study_minima(
            problem, read, names, settings, run=run, command=command_line(), progress=bars(quiet, as_json)
        )

    study_in_run(
        folder, "minima", identity, MinimaStudy, compute, figures=figures, quiet=quiet, as_json=as_json
    )


def _budget(edges: int | None, count: int) -> int | None:
    """How many pairs to test at most; None for no limit."""
    if count < 2:
        raise SettingError(f"expected two checkpoints or more to connect, got {count}")
    if edges is not None and edges < 0:
        raise SettingError(f"the number of edges must be 0 (no limit) or more, got {edges}")
    if edges is None:
        return 2 * (count - 1)
    return edges or None

"""`isthmus levels`: at which levels of the loss two networks are connected, and how long the way is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli.options import (
    AsJson,
    BatchNorm,
    CheckpointA,
    CheckpointB,
    Data,
    Device,
    Figures,
    Out,
    Quiet,
    Recalibration,
    Seed,
    TaskName,
)
from isthmus.cli.session import bars, command_line, guarded, limit, open_checkpoint, open_task
from isthmus.errors import SettingError

if TYPE_CHECKING:
    from isthmus.barriers import Quantity

_Levels = Annotated[
    str,
    typer.Option(
        help="Levels with commas between them, such as 0.5,0.2,0.1 (errors as shares: 0.05 is 5 %). "
        "(default: six, from near the straight line's highest down to 1.1 times the worse end's)",
        show_default=False,
    ),
]


@guarded
def levels(
    a: CheckpointA,
    b: CheckpointB,
    task: TaskName,
    levels: _Levels = "",
    of: Annotated[str, typer.Option(help="What the levels are of, on the training split: loss or error.")] = (
        "loss"
    ),
    tolerance: Annotated[float, typer.Option(help="Share by which a tested position may exceed a level.")] = (
        0.02
    ),
    alpha: Annotated[float, typer.Option(help="Beads are trained to this share of a level.")] = 0.98,
    depth: Annotated[int, typer.Option(help="How many times a piece may be halved.")] = 10,
    positions: Annotated[int, typer.Option(help="Tested positions inside each straight piece.")] = 19,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            "--curve-steps",
            show_default=False,
            help="Gradient steps a bead may take. (default: as many as a training)",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            "--curve-rate",
            show_default=False,
            help="Peak rate of a bead. (default: 0.3 of the recipe's)",
        ),
    ] = None,
    examples: Annotated[
        int, typer.Option(help="Examples of each split used along paths; 0 uses all. Ends always use all.")
    ] = 0,
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
    """Search for a path from A to B below each of several levels of the training loss, and measure it.

    Dynamic string sampling (Freeman and Bruna 2017), one search a level. Writes a run folder: report.html,
    the chains' controls and every result as a record. Give the same command again to resume.
    """
    asked, quantity = _numbers(levels), _quantity(of)
    problem = open_task(task, data, device)
    one, two = open_checkpoint(a, problem), open_checkpoint(b, problem)
    from isthmus.cli.story import slug
    from isthmus.cli.study import study_in_run
    from isthmus.experiments.levels import (
        LevelSettings,
        LevelStudy,
        levels_identity,
        require_levels,
        study_levels,
    )
    from isthmus.identity import digest_of

    settings = LevelSettings(
        asked, of=quantity, tolerance=tolerance, alpha=alpha, depth=depth, positions=positions, steps=steps,
        rate=rate, examples=limit(examples), batchnorm=batchnorm, recalibration=recalibration, seed=seed,
        device=device,
    )  # fmt: skip
    identity = levels_identity(problem, one, two, settings)
    folder = out or Path(f"isthmus-levels-{slug(problem.name)}-{digest_of(identity)[:8]}")
    if not (folder / "records" / "line.json").exists():
        require_levels(problem, one, two, settings)
    shown, told = bars(quiet, as_json), command_line()
    study_in_run(
        folder,
        "levels",
        identity,
        LevelStudy,
        lambda run: study_levels(problem, one, two, settings, run=run, command=told, progress=shown),
        figures=figures,
        quiet=quiet,
        as_json=as_json,
    )


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise SettingError(
            f"--levels takes numbers with commas between them, such as 0.5,0.2,0.1; got {text!r}"
        ) from None


def _quantity(name: str) -> Quantity:
    if name == "loss":
        return "loss"
    if name == "error":
        return "error"
    raise SettingError(f"--of takes loss or error, got {name!r}")

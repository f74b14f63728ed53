"""`isthmus plane`: the plane through any three models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isthmus.cli.options import AsJson, BatchNorm, Data, Device, Figures, Out, Quiet, Seed, TaskName
from isthmus.cli.session import (
    bars,
    command_line,
    controls_in,
    guarded,
    limit,
    open_checkpoint,
    open_task,
)
from isthmus.errors import SettingError


@guarded
def plane(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B C [D…]",
            help="Three checkpoints that span the plane; further ones are projected on it.",
        ),
    ],
    task: TaskName,
    curve: Annotated[
        list[Path] | None,
        typer.Option(
            "--curve",
            "--path",
            metavar="FOLDER",
            show_default=False,
            help="A path to draw over it: a run folder of curve, or the folder of its controls. May be "
            "repeated.",
        ),
    ] = None,
    of: Annotated[str, typer.Option(help="loss or error: what is shown first, and refined.")] = "loss",
    resolution: Annotated[int, typer.Option(help="Nodes along the plane's longer side.")] = 21,
    margin: Annotated[float, typer.Option(help="Room around the models, as a share of the extent.")] = 0.2,
    precision: Annotated[
        float | None,
        typer.Option(
            help="Evaluate only as many nodes as it takes to know the others to this share of the colour "
            "scale (0.02, say), by intervals estimated from the nodes themselves, and interpolate the rest. "
            "(default: evaluate every node)",
            show_default=False,
        ),
    ] = None,
    examples: Annotated[int, typer.Option(help="Examples of each split at every node; 0 uses all.")] = 1000,
    batchnorm: BatchNorm = "recalibrate",
    recalibration: Annotated[
        int, typer.Option(help="Training examples for batch-norm statistics at every node.")
    ] = 1000,
    figures: Figures = False,
    data: Data = None,
    out: Out = None,
    device: Device = "cpu",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Draw the loss and the error over the plane through any three models; nothing is trained.

    Writes a run folder: report.html with maps and reliefs, on held-out data and on train, and every number as
    a record. Give the same command again to resume.
    """  # fmt: skip
    if len(checkpoints) < 3:
        raise SettingError(f"a plane needs three checkpoints or more, got {len(checkpoints)}")
    from isthmus.cli.story import slug
    from isthmus.cli.study import study_in_run
    from isthmus.experiments.planes import (
        PlaneSettings,
        PlaneStudy,
        plane_identity,
        plane_through,
        read_path,
        study_plane,
    )
    from isthmus.identity import digest_of

    settings = PlaneSettings(
        of, resolution, margin, precision, limit(examples), batchnorm, recalibration, device  # type: ignore[arg-type]
    )  # fmt: skip
    problem = open_task(task, data, device)
    given = [open_checkpoint(path, problem) for path in checkpoints]
    models = dict(zip(_letters(len(given)), given, strict=True))
    plane_through(models)
    folders = [controls_in(folder) for folder in curve or []]
    paths = {name: read_path(folder, problem) for name, folder in zip(_names(folders), folders, strict=True)}
    identity = plane_identity(problem, models, settings, paths)
    folder = out or Path(f"isthmus-plane-{slug(problem.name)}-{digest_of(identity)[:8]}")
    study_in_run(
        folder, "plane", identity, PlaneStudy,
        lambda run: study_plane(
            problem, models, settings, paths=paths, run=run, command=command_line(),
            progress=bars(quiet, as_json),
        ),
        figures=figures, quiet=quiet, as_json=as_json,
    )  # fmt: skip


def _letters(many: int) -> list[str]:
    """A, B, C and on; after Z the letters are numbered."""
    return [chr(ord("A") + i % 26) + (str(i // 26) if i >= 26 else "") for i in range(many)]


def _names(folders: list[Path]) -> list[str]:
    """What to call the paths: their folders' names, with the run's name before them where two are alike."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{folder.resolve().parent.name}/{folder.resolve().name}" for folder in folders]
    if len(set(names)) < len(names):
        raise SettingError("two of the folders given by --curve are the same")
    return names

"""`isthmus simplex`: a region of low loss around a checkpoint, or joining several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli.options import (
    AsJson,
    BatchNorm,
    Data,
    Device,
    Examples,
    Figures,
    Out,
    PlaneExamples,
    PlaneNodes,
    Points,
    Quiet,
    Recalibration,
    Seed,
    TaskName,
)
from isthmus.cli.session import bars, command_line, guarded, limit, open_checkpoint, open_task
from isthmus.errors import SettingError

if TYPE_CHECKING:
    from isthmus.io.checkpoints import Checkpoint


@guarded
def simplex(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(metavar="CKPT…", help="One checkpoint to grow around, or several to join."),
    ],
    task: TaskName,
    vertices: Annotated[
        int | None,
        typer.Option(
            help="Vertices of the simplex around a checkpoint, itself among them. (default: 4)",
            show_default=False,
        ),
    ] = None,
    connectors: Annotated[
        int | None,
        typer.Option(
            help="Vertices that the simplexes of several checkpoints share. (default: 2)", show_default=False
        ),
    ] = None,
    separate: Annotated[
        bool,
        typer.Option("--separate", help="A simplex around each of several checkpoints (ESPRO)."),
    ] = False,
    weight: Annotated[
        float | None,
        typer.Option(
            help="Coefficient of the log-volume: what e times the volume is worth in loss. (default: 0.01)",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Points drawn inside at each step. (default: 5)", show_default=False),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes over the training data for each new vertex. (default: 0.2 of the recipe's, all for "
            "a connector)",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Gradient steps for each new vertex, instead of epochs.", show_default=False),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Rate that a vertex begins with. (default: the recipe's)", show_default=False),
    ] = None,
    inside: Annotated[int, typer.Option(help="Points drawn inside to measure what lies there.")] = 50,
    members: Annotated[int, typer.Option(help="Points drawn inside for the ensemble; 0 makes none.")] = 25,
    points: Points = 25,
    plane: PlaneNodes = 21,
    plane_examples: PlaneExamples = 300,
    examples: Examples = 2000,
    tolerance: Annotated[
        float,
        typer.Option(help="Error above the given networks' up to which the region counts as low."),
    ] = 0.005,
    batchnorm: BatchNorm = "recalibrate",
    recalibration: Recalibration = 2048,
    data: Data = None,
    out: Out = None,
    device: Device = "cpu",
    seed: Seed = 0,
    figures: Figures = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Grow a simplex of low loss around a checkpoint, or join several by a complex, and measure the inside.

    Writes a run folder with every vertex as a checkpoint, the records and a report. Given again, the command
    goes on where it was stopped.
    """
    from isthmus.experiments.simplexes import study_region
    from isthmus.experiments.simplexrecords import SimplexStudy
    from isthmus.experiments.simplexsettings import RegionSettings, region_identity

    settings = RegionSettings(
        vertices, connectors, separate, weight, samples, epochs, steps, rate, inside, members, points, plane,
        plane_examples, limit(examples), tolerance, batchnorm, recalibration, seed, device,
    )  # fmt: skip
    settings.kind(len(checkpoints))
    problem = open_task(task, data, device)
    networks = [open_checkpoint(path, problem) for path in checkpoints]
    _require_different(checkpoints, networks)
    from isthmus.cli.story import slug
    from isthmus.cli.study import study_in_run
    from isthmus.identity import digest_of

    identity = region_identity(problem, networks, settings)
    folder = out or Path(f"isthmus-simplex-{slug(problem.name)}-{digest_of(identity)[:8]}")
    study_in_run(
        folder, "simplex", identity, SimplexStudy,
        lambda run: study_region(
            problem, networks, settings, run=run, command=command_line(), progress=bars(quiet, as_json)
        ),
        figures=figures, quiet=quiet, as_json=as_json,
    )  # fmt: skip


def _require_different(checkpoints: list[Path], networks: list[Checkpoint]) -> None:
    """Refuse a network given twice: a simplex over it has no volume."""
    for number, network in enumerate(networks):
        for other in range(number):
            if not network.weights.distance(networks[other].weights):
                raise SettingError(
                    f"{checkpoints[other]} and {checkpoints[number]} are the same network: a simplex over "
                    "them has no volume; give each network once"
                )

"""`isthmus ensemble`: average the predictions of several models, and say what that is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isthmus.cli.options import AsJson, Data, Device, Figures, Out, Quiet, Recalibration, Seed, TaskName
from isthmus.cli.session import (
    bars,
    command_line,
    controls_in,
    guarded,
    limit,
    open_checkpoint,
    open_task,
)
from isthmus.cli.story import slug
from isthmus.cli.study import study_in_run
from isthmus.errors import SettingError

if TYPE_CHECKING:
    from isthmus.experiments.ensembling import EnsembleStudy, Origin
    from isthmus.io.checkpoints import Checkpoint
    from isthmus.io.runs import Run
    from isthmus.landscape import Task
    from isthmus.path import AbstractPath


@guarded
def ensemble(
    task: TaskName,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[CKPT…]", help="The models; with --fge the one to train on from."),
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option(
            "--path",
            "--curve",
            help="Instead of models: a folder with the controls of a path, or a run folder of curve or "
            "connect that has one.",
            show_default=False,
        ),
    ] = None,
    points: Annotated[
        int | None,
        typer.Option(help="Points of a path, or drawn from a simplex. (default: 5)", show_default=False),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            help="Of points on a path: uniform (in t), or arc (in arc length). (default: uniform)",
            show_default=False,
        ),
    ] = None,
    fge: Annotated[
        bool, typer.Option("--fge", help="Train snapshots from one model under a cyclical learning rate.")
    ] = False,
    cycles: Annotated[
        int | None, typer.Option(help="Snapshots of --fge. (default: 6)", show_default=False)
    ] = None,
    period: Annotated[
        int | None,
        typer.Option(
            help="Steps between two snapshots of --fge, even. (default: two epochs)", show_default=False
        ),
    ] = None,
    high: Annotated[
        float | None,
        typer.Option(help="Highest rate of --fge. (default: half of the recipe's)", show_default=False),
    ] = None,
    low: Annotated[
        float | None,
        typer.Option(help="Lowest rate of --fge. (default: a tenth of the recipe's)", show_default=False),
    ] = None,
    average: Annotated[
        str | None,
        typer.Option(
            help="What is averaged: probabilities (outputs are class scores) or outputs (regression); needed "
            "where the task has a loss of its own.",
            show_default=False,
        ),
    ] = None,
    examples: Annotated[int, typer.Option(help="Examples of each split; 0 uses all.")] = 0,
    batchnorm: Annotated[
        str | None,
        typer.Option(
            help="Statistics of the members: recalibrate, interpolate or keep. (default: keep; on a path "
            "recalibrate)",
            show_default=False,
        ),
    ] = None,
    recalibration: Recalibration = 2048,
    figures: Figures = False,
    data: Data = None,
    out: Out = None,
    device: Device = "cpu",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Average the predictions of models, of points on a fitted path, or of snapshots (--fge).

    The ensemble is compared with its best and its mean member, and with the mean of the weights: error, loss
    and calibration error with intervals, train and held-out. Writes a run folder with a report.
    """
    given = list(checkpoints or [])
    _require_one_source(given, path, fge)
    _require_of_use(path is not None, "--path", {"--points": points, "--spacing": spacing})
    _require_of_use(fge, "--fge", {"--cycles": cycles, "--period": period, "--high": high, "--low": low})
    from isthmus.experiments.ensembling import CycleOptions, EnsembleSettings

    settings = EnsembleSettings(
        5 if points is None else points, spacing or "uniform", average, limit(examples), batchnorm,  # type: ignore[arg-type]
        recalibration, seed, device,
    )  # fmt: skip
    options = CycleOptions(6 if cycles is None else cycles, period, high, low) if fge else None
    problem = open_task(task, data, device)
    if average is None and problem.loss is not None:
        raise SettingError(
            f"the task {problem.name} has a loss of its own, so it is not known what its outputs mean: give "
            "--average probabilities if they are class scores (logits), or --average outputs (regression)"
        )
    shown = bars(quiet, as_json)
    line = command_line()
    from isthmus.experiments import ensembling

    common: dict[str, Any] = {"command": line, "progress": shown}
    if path is not None:
        curve, origins = _path(path, problem)

        def compute(run: Run) -> EnsembleStudy:
            return ensembling.study_path(problem, curve, origins, settings, run=run, **common)

    else:
        read = [open_checkpoint(each, problem) for each in given]
        names = ["start"] if fge else _names(given)
        _require_different(given, read)
        models: dict[str, Checkpoint] = dict(zip(names, read, strict=True))
        origins = ensembling.origins_of(models)

        def compute(run: Run) -> EnsembleStudy:
            if options is not None:
                return ensembling.study_snapshots(problem, read[0], options, settings, run=run, **common)
            return ensembling.study_models(problem, models, settings, run=run, **common)

    member = curve.controls[0] if path is not None else read[0].weights
    ensembling.require_averaging(problem, settings, options, member)
    identity = ensembling.ensemble_identity(problem, origins, settings, options)
    from isthmus.identity import digest_of

    folder = out or Path(f"isthmus-ensemble-{slug(problem.name)}-{digest_of(identity)[:8]}")
    study_in_run(
        folder, "ensemble", identity, ensembling.EnsembleStudy, compute,
        figures=figures, quiet=quiet, as_json=as_json,
    )  # fmt: skip


def _require_one_source(given: list[Path], path: Path | None, fge: bool) -> None:
    """Refuse what does not say for certain where the members come from."""
    if path is not None and (given or fge):
        raise SettingError(
            "give models, or --path for the points of a path, or one model and --fge; not both"
        )
    if fge and len(given) != 1:
        raise SettingError(f"--fge trains on from one model: expected one checkpoint, got {len(given)}")
    if path is None and not fge and len(given) < 2:
        raise SettingError(
            f"expected two checkpoints or more, got {len(given)}: an ensemble has several members. Give "
            "more, or --path FOLDER for points of a fitted path, or one checkpoint and --fge for snapshots"
        )


def _require_of_use(used: bool, needed: str, options: dict[str, object]) -> None:
    """Refuse options that would change nothing."""
    idle = [name for name, value in options.items() if value is not None]
    if idle and not used:
        raise SettingError(f"{' and '.join(idle)} would change nothing: for use with {needed}")


def _require_different(given: list[Path], read: list[Checkpoint]) -> None:
    """Refuse a network given twice: it would count double."""
    for number, one in enumerate(read):
        for other in range(number):
            if not one.weights.distance(read[other].weights):
                raise SettingError(
                    f"{given[other]} and {given[number]} are the same network; give each network once"
                )


def _names(given: list[Path]) -> list[str]:
    """What to call the models: their files' names, with numbers before them where two are alike."""
    stems = [path.resolve().stem for path in given]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{number}-{stem}" for number, stem in enumerate(stems, start=1)]


def _path(folder: Path, task: Task) -> tuple[AbstractPath, tuple[Origin, ...]]:
    """A fitted path, in the layout of the task, and the files of its controls."""
    from isthmus.connect.abstract import load_controls
    from isthmus.experiments.ensembling import Origin

    place = controls_in(folder)
    path = load_controls(place)
    task.network.require(path.controls[0])
    return path, tuple(
        Origin(f"control {k}", str(place / f"{k}.safetensors"), control.digest())
        for k, control in enumerate(path.controls)
    )

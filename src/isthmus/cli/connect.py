"""`isthmus connect`: the main job, from two checkpoints to the evidence and the merged model."""

from __future__ import annotations

from typing import Annotated

import typer

from isthmus.cli.options import (
    AsJson,
    BatchNorm,
    BendsOrPivots,
    CheckpointA,
    CheckpointB,
    CurveEpochs,
    CurveRate,
    CurveRestarts,
    CurveSteps,
    Data,
    Device,
    Examples,
    Figures,
    Kind,
    Level,
    Method,
    Out,
    PlaneExamples,
    PlaneNodes,
    Points,
    Quiet,
    Recalibration,
    Restarts,
    Sampling,
    Seed,
    TaskName,
    Tolerance,
)
from isthmus.cli.session import guarded
from isthmus.cli.story import tell


@guarded
def connect(
    a: CheckpointA,
    b: CheckpointB,
    task: TaskName,
    align: Annotated[bool, typer.Option(help="Align the hidden units of B to A.")] = True,
    method: Method = "weight",
    restarts: Restarts = 3,
    curve: Kind = "bezier",
    bends: BendsOrPivots = None,
    curve_steps: CurveSteps = None,
    curve_epochs: CurveEpochs = None,
    curve_rate: CurveRate = None,
    sampling: Sampling = "uniform",
    curve_restarts: CurveRestarts = 1,
    level: Level = None,
    points: Points = 25,
    examples: Examples = 2000,
    plane: PlaneNodes = 21,
    plane_examples: PlaneExamples = 300,
    batchnorm: BatchNorm = "recalibrate",
    recalibration: Recalibration = 2048,
    tolerance: Tolerance = 0.02,
    figures: Figures = False,
    data: Data = None,
    out: Out = None,
    device: Device = "cpu",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say whether two networks are connected: the line, the line after alignment, and fitted curves.

    Writes a run folder: report.html, the aligned B, the merged model (midpoint of the aligned line), the
    curves' controls, and every figure as a record. Give the same command again to resume.
    """
    tell(
        "connect", a, b, task, data, out, quiet=quiet, as_json=as_json, figures=figures,
        points=points, examples=examples, align=align, curve=curve, bends=bends, curve_steps=curve_steps,
        curve_epochs=curve_epochs, curve_rate=curve_rate, sampling=sampling, curve_restarts=curve_restarts,
        level=level, plane=plane,
        plane_examples=plane_examples, method=method, restarts=restarts, batchnorm=batchnorm,
        recalibration=recalibration, tolerance=tolerance, seed=seed, device=device,
    )  # fmt: skip

"""`isthmus curve`: a low-loss curve between two checkpoints."""

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
    Level,
    Out,
    Points,
    Quiet,
    Recalibration,
    Sampling,
    Seed,
    TaskName,
    Tolerance,
)
from isthmus.cli.session import guarded
from isthmus.cli.story import tell
from isthmus.errors import SettingError


@guarded
def curve(
    a: CheckpointA,
    b: CheckpointB,
    task: TaskName,
    kind: Annotated[
        str, typer.Option("--kind", "--curve", help="bezier, chain, neb (elastic band), or string.")
    ] = "bezier",
    bends: BendsOrPivots = None,
    curve_steps: CurveSteps = None,
    curve_epochs: CurveEpochs = None,
    curve_rate: CurveRate = None,
    sampling: Sampling = "uniform",
    curve_restarts: CurveRestarts = 1,
    level: Level = None,
    points: Points = 25,
    examples: Examples = 2000,
    batchnorm: BatchNorm = "recalibrate",
    recalibration: Recalibration = 2048,
    tolerance: Tolerance = 0.02,
    data: Data = None,
    out: Out = None,
    device: Device = "cpu",
    seed: Seed = 0,
    figures: Figures = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find a path of low loss from A to B, and measure it: a curve, an elastic band, or a string.

    bezier and chain are fitted at random points (Garipov et al.); neb is a band of pivots that settles at the
    saddle (Draxler et al.); string looks for a path below a level of the loss, and says whether it found one
    (Freeman and Bruna). Writes a run folder with the path's controls and a report. To fit after alignment,
    give the aligned B, or use `isthmus connect`.
    """
    if kind == "none":
        raise SettingError("the kind none finds no path; expected bezier, chain, neb or string")
    tell(
        "curve", a, b, task, data, out, quiet=quiet, as_json=as_json, figures=figures,
        points=points, examples=examples, align=False, curve=kind, bends=bends, curve_steps=curve_steps,
        curve_epochs=curve_epochs, curve_rate=curve_rate, sampling=sampling, curve_restarts=curve_restarts,
        level=level, plane=0, batchnorm=batchnorm,
        recalibration=recalibration, tolerance=tolerance, seed=seed, device=device,
    )  # fmt: skip

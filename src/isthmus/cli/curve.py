"""`isthmus curve`: a low-loss curve between two checkpoints."""

from __future__ import annotations

from isthmus.cli.options import (
    AsJson,
    BatchNorm,
    Bends,
    CheckpointA,
    CheckpointB,
    CurveEpochs,
    CurveRate,
    CurveSteps,
    Data,
    Device,
    Examples,
    Kind,
    Out,
    Points,
    Quiet,
    Recalibration,
    Seed,
    TaskName,
    Tolerance,
)
from isthmus.cli.session import guarded
from isthmus.cli.story import tell


@guarded
def curve(
    a: CheckpointA,
    b: CheckpointB,
    task: TaskName,
    curve: Kind = "bezier",
    bends: Bends = 1,
    curve_steps: CurveSteps = 1000,
    curve_epochs: CurveEpochs = None,
    curve_rate: CurveRate = None,
    points: Points = 25,
    examples: Examples = 2000,
    batchnorm: BatchNorm = "recalibrate",
    recalibration: Recalibration = 2048,
    tolerance: Tolerance = 0.02,
    data: Data = None,
    out: Out = None,
    device: Device = "cpu",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Fit a Bézier curve or a polygonal chain of low loss from A to B, and measure it.

    Writes a run folder with the curve's controls and a report. To fit after alignment, give the aligned B,
    or use `isthmus connect`.
    """
    tell(
        "curve", a, b, task, data, out, quiet=quiet, as_json=as_json, figures=False,
        points=points, examples=examples, align=False, curve=curve, bends=bends, curve_steps=curve_steps,
        curve_epochs=curve_epochs, curve_rate=curve_rate, plane=0, batchnorm=batchnorm,
        recalibration=recalibration, tolerance=tolerance, seed=seed, device=device,
    )  # fmt: skip

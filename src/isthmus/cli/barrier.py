"""`isthmus barrier`: how far the straight line between two checkpoints rises."""

from __future__ import annotations

from isthmus.cli.options import (
    AsJson,
    BatchNorm,
    CheckpointA,
    CheckpointB,
    Data,
    Device,
    Examples,
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


@guarded
def barrier(
    a: CheckpointA,
    b: CheckpointB,
    task: TaskName,
    points: Points = 25,
    examples: Examples = 2000,
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

    With --out FILE.json the whole profile is kept as a record.
    """
    if not 0 < tolerance < 1:
        raise SettingError(f"the tolerance is a share of examples between 0 and 1, got {tolerance}")
    path = new_file(out, "", force) if out else None
    problem = open_task(task, data, device)
    one, two = open_checkpoint(a, problem), open_checkpoint(b, problem)
    from isthmus.experiments.measuring import study_path
    from isthmus.io.records import write_record
    from isthmus.landscape import Landscape
    from isthmus.path import Segment
    from isthmus.report.terminal import barrier_table

    landscape = Landscape(problem, device, batchnorm, recalibration, limit=limit(examples))
    line, shown = Segment(one.weights, two.weights), bars(quiet, as_json)
    study = study_path("naive line", line, landscape, points=points, seed=seed, progress=shown)
    if path:
        write_record(study, path)
    verdict = study.barrier().verdict(tolerance)
    result = {"a": one.sha256, "b": two.sha256, "barriers": study.barriers, "verdict": verdict}
    emit(result, as_json, quiet, barrier_table(study.barriers, tolerance))

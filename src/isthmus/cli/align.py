"""`isthmus align`: reorder the hidden units of B to match A."""

from __future__ import annotations

from isthmus.cli.options import (
    AsJson,
    CheckpointA,
    CheckpointB,
    Data,
    Device,
    Force,
    Out,
    Quiet,
    Restarts,
    Seed,
    TaskName,
)
from isthmus.cli.session import emit, guarded, new_file, open_checkpoint, open_task


@guarded
def align(
    a: CheckpointA,
    b: CheckpointB,
    task: TaskName,
    restarts: Restarts = 3,
    data: Data = None,
    out: Out = None,
    force: Force = False,
    device: Device = "cpu",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Reorder the hidden units of B to match A (Git Re-Basin's weight matching), and write the result.

    The aligned checkpoint computes exactly what B does.
    """
    path = new_file(out, f"{b.stem}-aligned.safetensors", force)
    problem = open_task(task, data, device)
    one, two = open_checkpoint(a, problem), open_checkpoint(b, problem)
    from isthmus.experiments.measuring import matching_record
    from isthmus.io.checkpoints import save_weights
    from isthmus.match import match_weights
    from isthmus.report.terminal import matching_table
    from isthmus.symmetry import discover

    symmetry = discover(problem.traceable, problem.example)
    alignment = match_weights(one.weights, two.weights, symmetry, restarts=restarts, seed=seed)
    save_weights(alignment.apply(two.weights), path, {"aligned to": one.sha256, "aligned from": two.sha256})
    record = matching_record(one.weights, two.weights, symmetry, alignment)
    emit({"file": str(path), "matching": record}, as_json, quiet, matching_table(record), f"wrote {path}")

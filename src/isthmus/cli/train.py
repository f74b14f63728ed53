"""`isthmus train`: a model of a task, from a seed."""

from __future__ import annotations

from typing import Annotated

import typer

from isthmus.cli.options import AsJson, Data, Device, Force, Out, Quiet, Seed, TaskName
from isthmus.cli.session import bars, emit, guarded, new_file, open_task


@guarded
def train(
    task: TaskName,
    seed: Seed = 0,
    steps: Annotated[
        int | None, typer.Option(help="Gradient steps, instead of the recipe's epochs.", show_default=False)
    ] = None,
    data: Data = None,
    out: Out = None,
    force: Force = False,
    device: Device = "cpu",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a model of a task from a seed, and write it as a checkpoint.

    The same seed gives the same weights, however often the training is interrupted and resumed.
    """
    path = new_file(out, f"{task.rpartition('/')[2].replace(':', '-')}-seed{seed}.safetensors", force)
    problem = open_task(task, data, device)
    from isthmus.experiments.train import train as train_task
    from isthmus.io.checkpoints import save_weights
    from isthmus.io.state import FileStore
    from isthmus.landscape import Landscape
    from isthmus.report.terminal import score_table
    from isthmus.scores import scores

    store = FileStore(path.with_name(path.name + ".state"))
    shown = bars(quiet, as_json)
    weights = train_task(problem, seed, steps=steps, device=device, store=store, progress=shown)
    save_weights(weights, path, {"task": problem.name, "seed": str(seed)})
    store.clear()
    found = scores(weights, Landscape(problem, device, "keep"), shown)
    result = {"file": str(path), "task": problem.name, "seed": seed, "scores": found}
    emit(result, as_json, quiet, score_table([(str(path), found)]))

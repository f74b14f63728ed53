"""`isthmus fuse`: two networks, maybe of different widths, made into one by optimal transport."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli.options import AsJson, Data, Device, Force, Out, Quiet, Recalibration, TaskName
from isthmus.cli.session import bars, emit, escaped, guarded, new_file, open_checkpoint, open_task
from isthmus.errors import SettingError

if TYPE_CHECKING:
    from isthmus.experiments.fusing import FusionSettings, FusionStudy

_KINDS = {
    "plan": ("exact", "sinkhorn"),
    "cost": ("weights", "activations"),
    "marginals": ("uniform", "importance"),
}


@guarded
def fuse(
    a: Annotated[Path, typer.Argument(metavar="A", help="Checkpoint of the network that is carried to B.")],
    b: Annotated[
        Path, typer.Argument(metavar="B", help="Checkpoint of the other network, whose shape stays.")
    ],
    task: TaskName,
    task_a: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.py[:NAME]",
            help="The task of A, if its network is another one than --task's: of another width, say.",
            show_default=False,
        ),
    ] = None,
    share: Annotated[float, typer.Option(help="B's share of the result, from 0 to 1.")] = 0.5,
    plan: Annotated[str, typer.Option(help="Transport plans: exact or sinkhorn (entropic).")] = "exact",
    regularisation: Annotated[
        float, typer.Option(help="Of sinkhorn: the entropy's weight as a share of the mean cost.")
    ] = 0.01,
    cost: Annotated[
        str, typer.Option(help="What units are compared by: weights or activations.")
    ] = "weights",
    marginals: Annotated[
        str, typer.Option(help="What each unit counts: uniform, or by importance.")
    ] = "uniform",
    sweeps: Annotated[int, typer.Option(help="How often every axis is solved again, by weights.")] = 0,
    examples: Annotated[int, typer.Option(help="Training examples of the activations.")] = 200,
    recalibration: Recalibration = 2048,
    data: Data = None,
    out: Out = None,
    force: Force = False,
    device: Device = "cpu",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Carry A to B's hidden units by optimal transport, average the two, and write the result.

    The result has B's shape; A may have other widths, or numbers of heads. Everything is scored on the data
    of --task, which is B's. Batch-norm statistics of the result are measured anew.
    """
    for name, value in (("plan", plan), ("cost", cost), ("marginals", marginals)):
        if value not in _KINDS[name]:
            raise SettingError(f"--{name} must be {' or '.join(_KINDS[name])}, got {value!r}")
    path = new_file(out, f"{b.stem}-fused.safetensors", force, (a, b))
    two = open_task(task, data, device)
    one = open_task(task_a, data, device) if task_a else two
    start, goal = open_checkpoint(a, one), open_checkpoint(b, two)
    from isthmus.experiments.fusing import FusionSettings, study_fusion
    from isthmus.io.checkpoints import save_weights
    from isthmus.report.terminal import score_table

    settings = FusionSettings(
        share=share, plan=plan, regularisation=regularisation, cost=cost, marginals=marginals,  # type: ignore[arg-type]
        sweeps=sweeps, examples=examples, recalibration=recalibration, device=device,
    )  # fmt: skip
    fused, study = study_fusion(one, start.weights, two, goal.weights, settings, bars(quiet, as_json))
    save_weights(fused, path, {"fused from": f"{start.sha256} {goal.sha256}", "share of B": str(share)})
    record = {"a": start.sha256, "b": goal.sha256, "out": str(path), "study": study}
    table = score_table(study.scored, "On the data of B's task, batch norm as saved")
    emit(record, as_json, quiet, table, *map(escaped, _told(study, settings, path)))


def _told(study: FusionStudy, settings: FusionSettings, path: Path) -> list[str]:
    """What was done, in sentences."""
    axes = study.axes
    widths = [f"{axis.axis} {axis.units_a} → {axis.units_b}" for axis in axes if axis.units_a != axis.units_b]
    whole = sum(axis.kept * axis.units_a for axis in axes) / max(sum(axis.units_a for axis in axes), 1)
    told = [
        f"hidden axes carried: {len(axes)} ({settings.cost}, {settings.plan} plans); "
        f"{whole:.0%} of A's units went to one unit of B as a whole",
        *([f"carried to other widths: {', '.join(widths)}"] if widths else []),
        *([f"read both ways, and mixed: {', '.join(study.tied)}"] if study.tied else []),
    ]
    return [*told, f"written: {path}"]

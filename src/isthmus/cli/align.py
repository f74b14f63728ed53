"""`isthmus align`: reorder the hidden units of B to match A."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
)
from isthmus.cli.session import emit, escaped, guarded, new_file, open_checkpoint, open_task
from isthmus.errors import SettingError

if TYPE_CHECKING:
    from isthmus.experiments.alignfolders import FolderAlignment


@guarded
def align(
    a: CheckpointA,
    b: CheckpointB,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            metavar="NAME|FILE.py[:NAME]",
            help="The task of two checkpoint files; Hugging Face folders need none.",
            show_default=False,
        ),
    ] = None,
    restarts: Restarts = 3,
    verify: Annotated[
        bool, typer.Option(help="Prove the symmetry of two folders in float64 before it is used.")
    ] = True,
    data: Data = None,
    out: Out = None,
    force: Force = False,
    device: Device = "cpu",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Reorder the hidden units of B to match A (Git Re-Basin's weight matching), and write the result.

    The aligned model computes exactly what B does. A and B are two checkpoint files of one --task, or two
    Hugging Face folders, which say themselves what they are: then --out is a folder too, with all that is in
    B beside its weights, and it is read back and run before it appears.
    """
    if _are_folders(a, b, task):
        _align_folders(a, b, out, restarts, verify, force, seed, quiet, as_json)
        return
    path = new_file(out, f"{b.stem}-aligned.safetensors", force)
    problem = open_task(str(task), data, device)
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


def _are_folders(a: Path, b: Path, task: str | None) -> bool:
    """Whether two model folders are given; a mixture, or what does not go with them, is refused."""
    from isthmus.io.huggingface import is_model_folder

    models = [path for path in (a, b) if is_model_folder(path)]
    if task is not None:
        if len(models) == 2:
            raise SettingError(
                f"{a} and {b} are Hugging Face folders, which say themselves what they are: leave --task "
                "out. (To align them as checkpoints of the task's model, give the weights' files in them.)"
            )
        return False
    for path in (a, b):
        if not path.exists():
            raise SettingError(f"{path} does not exist: expected a checkpoint file or a Hugging Face folder")
    if len(models) == 1:
        (model,) = models
        other = b if model == a else a
        kind = "a folder without config.json" if other.is_dir() else "a file"
        raise SettingError(
            f"{model} is a Hugging Face folder and {other} is {kind}: expected two folders, or two "
            "checkpoint files with --task"
        )
    if not models:
        kind = "folders without config.json" if a.is_dir() and b.is_dir() else "checkpoint files"
        raise SettingError(
            f"{a} and {b} are {kind}, which do not say what model they belong to: name it with --task (only "
            "Hugging Face folders with a config.json need none)"
        )
    return True


def _align_folders(
    a: Path,
    b: Path,
    out: Path | None,
    restarts: int,
    verify: bool,
    force: bool,
    seed: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Align two Hugging Face folders into a third."""
    from isthmus.io.modelfolder import require_folder

    path = out or Path(f"{b.resolve().name}-aligned")
    require_folder(path, force, a, b)
    from isthmus.experiments.alignfolders import align_folders
    from isthmus.report.terminal import matching_table

    made = align_folders(a, b, path, restarts=restarts, seed=seed, verify=verify)
    told = [escaped(f"{name}: {note}.") for name, notes in made.notes.items() for note in notes]
    shown = (matching_table(made.matching), *told, escaped(_checked(made)), escaped(f"wrote {path}"))
    emit({"folder": str(path)} | _plain(made), as_json, quiet, *shown)


def _checked(made: FolderAlignment) -> str:
    """What the comparison of the written folder with B found, in a sentence."""
    return (
        f"Read back and run in float64, its outputs ({', '.join(made.outputs)}) differ from B's by "
        f"{made.error:.1e} at most, relative to the largest (allowed: {made.tolerance:.0e})."
    )


def _plain(made: FolderAlignment) -> dict[str, Any]:
    return {
        "architecture": made.architecture,
        "a": made.a,
        "b": made.b,
        "notes": made.notes,
        "check": {"outputs": made.outputs, "error": made.error, "tolerance": made.tolerance},
        "matching": made.matching,
    }

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
    Examples,
    Force,
    Method,
    Out,
    Quiet,
    Recalibration,
    Restarts,
    Seed,
)
from isthmus.cli.session import (
    bars,
    command_line,
    emit,
    escaped,
    guarded,
    limit,
    new_file,
    open_checkpoint,
    open_task,
)
from isthmus.errors import SettingError

if TYPE_CHECKING:
    from isthmus.experiments.alignfolders import FolderAlignment
    from isthmus.experiments.comparison import ComparisonSettings


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
    method: Method = "weight",
    restarts: Restarts = 3,
    repair: Annotated[
        str | None,
        typer.Option(
            help="Also measure the line between A and the aligned B, its points repaired: none, reset (batch "
            "norm measured anew) or repair (every preactivation's mean and spread set). With --compare: try "
            "this one only.",
            show_default=False,
        ),
    ] = None,
    merged: Annotated[
        Path | None,
        typer.Option(
            help="Also write the midpoint of that line, repaired by reset unless --repair says otherwise.",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Try every method and repair, and print one table of them.")
    ] = False,
    points: Annotated[int, typer.Option(help="Positions on a measured line, an odd number.")] = 11,
    examples: Examples = 2000,
    recalibration: Recalibration = 2048,
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
    """Reorder the hidden units of B to match A, and write the result.

    The aligned model computes exactly what B does; it goes to --out, by default B's name with -aligned in the
    present folder. A and B are two checkpoint files of one --task, or two Hugging Face folders, which say
    themselves what they are: then --out is a folder too, with all that is in B beside its weights, and it is
    read back and run before it appears. With --compare, --out is a folder that keeps the results, so that the
    same command resumes.
    """
    if _are_folders(a, b, task):
        if method != "weight" or repair or merged or compare:
            raise SettingError(
                "Hugging Face folders come without data: they are aligned by --method weight alone, and "
                "--repair, --merged and --compare need a --task"
            )
        _align_folders(a, b, out, restarts, verify, force, seed, quiet, as_json)
        return
    from isthmus.experiments.comparison import REPAIRS, ComparisonSettings

    wanted = "reset" if merged and repair is None else repair
    settings = ComparisonSettings(
        repairs=tuple(REPAIRS) if wanted is None else (wanted,),
        points=points, examples=limit(examples), recalibration=recalibration, restarts=restarts, seed=seed,
        device=device,
    )  # fmt: skip
    if compare:
        if merged:
            raise SettingError("--compare measures every method and merges none: leave --merged out")
        if method != "weight":
            raise SettingError("--compare tries every method: leave --method out")
        _compare(a, b, str(task), settings, data, out, quiet, as_json)
        return
    require_method(method)
    path = new_file(out, f"{b.stem}-aligned.safetensors", force, (a, b))
    middle = new_file(merged, "", force, (a, b)) if merged else None
    if middle and middle.resolve() == path.resolve():
        raise SettingError(f"--out and --merged are both {path}: give the merged model a file of its own")
    problem = open_task(str(task), data, device)
    one, two = open_checkpoint(a, problem), open_checkpoint(b, problem)
    from isthmus.experiments.comparison import measure_line
    from isthmus.experiments.measuring import matching_record
    from isthmus.io.checkpoints import save_weights
    from isthmus.match.methods import Question, match_by
    from isthmus.report.terminal import compared_table, matching_table
    from isthmus.symmetry import discover

    symmetry, landscape = discover(problem.traceable, problem.example), settings.landscape(problem)
    progress = bars(quiet, as_json)
    question = Question(one.weights, two.weights, symmetry, landscape, restarts, seed, progress)
    aligned = (alignment := match_by(method, question)).apply(two.weights)
    origin = {"aligned to": one.sha256, "aligned from": two.sha256, "method": method}
    record = matching_record(one.weights, two.weights, symmetry, alignment, method)
    told: list[object] = [matching_table(record), escaped(f"wrote {path}")]
    result: dict[str, object] = {"file": str(path), "matching": record}
    if wanted is not None:
        line, midpoint = measure_line(
            (one.weights, aligned), landscape, method, wanted, settings, symmetry, progress
        )
        result["line"] = without_examples(line)
        told.insert(1, compared_table([line]))
        if middle:
            parts = {"midpoint of": one.sha256, "and": two.sha256, "method": method, "repair": wanted}
            save_weights(midpoint, middle, parts)
            told.append(escaped(f"wrote {middle}"))
            result["merged"] = str(middle)
    save_weights(aligned, path, origin)
    emit(result, as_json, quiet, *told)


def require_method(method: str) -> None:
    """Refuse a method that is not known, before anything is read."""
    from isthmus.match.methods import METHODS

    if method not in METHODS:
        raise SettingError(f"expected a method of matching ({', '.join(METHODS)}), got {method!r}")


def _compare(
    a: Path,
    b: Path,
    task: str,
    settings: ComparisonSettings,
    data: Path | None,
    out: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Every method and repair on one pair, in one table."""
    problem = open_task(task, data, settings.device)
    one, two = open_checkpoint(a, problem), open_checkpoint(b, problem)
    from isthmus.experiments.comparison import compare_matchings, comparison_identity
    from isthmus.io.runs import Run
    from isthmus.report.terminal import comparison_tables

    identity = comparison_identity(problem, one, two, settings)
    run = Run.open(out, "compare", identity) if out else None
    try:
        found = compare_matchings(
            problem, one, two, settings, run=run, command=command_line(), progress=bars(quiet, as_json)
        )
    finally:
        if run:
            run.close()
    emit(without_examples(found), as_json, quiet, *comparison_tables(found))


def without_examples(record: object) -> Any:
    """A record as plain data without the losses of single examples, which only the records on disk keep."""
    from isthmus.io.records import plain

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(item) for key, item in value.items() if key != "profiles"}
        return [cut(item) for item in value] if isinstance(value, list) else value

    return cut(plain(record))


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

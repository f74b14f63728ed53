"""`isthmus align-many`: bring many models to one order of their hidden units, and merge them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from isthmus.cli.options import AsJson, Data, Device, Force, Quiet, Restarts, Seed, TaskName
from isthmus.cli.session import bars, emit, escaped, guarded, names_of, open_checkpoint, open_task
from isthmus.errors import SettingError

if TYPE_CHECKING:
    from isthmus.match.many import Method
    from isthmus.weights import Weights


@guarded
def align_many(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(metavar="CKPT…", help="Two checkpoints or more; the first one's order stays."),
    ],
    task: TaskName,
    method: Annotated[
        str,
        typer.Option(
            help="By weights: universe, frank-wolfe, merge-many, or star (all to the first); by training "
            "data: activation."
        ),
    ] = "universe",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the aligned checkpoints.")] = Path(
        "aligned"
    ),
    merged: Annotated[
        Path | None,
        typer.Option(help="File for their mean. (default: merged.safetensors in --out)", show_default=False),
    ] = None,
    restarts: Restarts = 1,
    data: Data = None,
    force: Force = False,
    device: Device = "cpu",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Align many models with one another, write each, and merge them to their mean.

    An aligned model computes exactly what it did before. All files appear, or none.
    """
    files = _targets(checkpoints, out, merged, force)
    chosen = _method(method)
    problem = open_task(task, data, device)
    read = [open_checkpoint(path, problem) for path in checkpoints]
    from isthmus.experiments.manymodels import align_models
    from isthmus.report.manymodels import models_table, pairs_table

    made = align_models(
        read, names_of(checkpoints), problem, method=chosen, restarts=restarts, seed=seed, device=device,
        progress=bars(quiet, as_json),
    )  # fmt: skip
    texts = [{"aligned to": read[0].sha256, "aligned from": each.sha256} for each in read]
    texts.append({"merged from": ", ".join(each.sha256 for each in read)})
    _write_all([*made.aligned, made.merged], files, texts)
    told = [escaped(f"wrote {path}") for path in files]
    record = {"files": [str(path) for path in files[:-1]], "merged": str(files[-1]), "study": made.study}
    emit(record, as_json, quiet, pairs_table(made.study), models_table(made.study), *told)


def _method(name: str) -> Method | Literal["activation"]:
    from isthmus.match.many import Method

    methods = (*get_args(Method), "activation")
    for known in methods:
        if name == known:
            return known  # type: ignore[no-any-return]
    raise SettingError(f"there is no method {name!r}: expected one of {', '.join(methods)}")


def _targets(checkpoints: list[Path], out: Path, merged: Path | None, force: bool) -> list[Path]:
    """The files to write, the merged one last, after making sure that nothing is lost by it."""
    if len(checkpoints) < 2:
        raise SettingError(f"expected two checkpoints or more to align, got {len(checkpoints)}")
    if out.exists() and not out.is_dir():
        raise SettingError(f"{out} is a file: the aligned checkpoints go to a folder; give another --out")
    files = [out / f"{name}-aligned.safetensors" for name in names_of(checkpoints)]
    files.append(merged or out / "merged.safetensors")
    places = [path.resolve() for path in files]
    if len(set(places)) < len(places):
        raise SettingError(f"--merged {files[-1]} is the name of an aligned checkpoint; give another one")
    read = {path.resolve() for path in checkpoints}
    if taken := [path for path, place in zip(files, places, strict=True) if place in read]:
        raise SettingError(
            f"{taken[0]} is one of the given checkpoints, which are only read; give another --out"
        )
    if (exist := [path for path in files if path.exists()]) and not force:
        more = f" and {len(exist) - 1} more" if len(exist) > 1 else ""
        raise SettingError(
            f"{exist[0]}{more} exist{'s' * (len(exist) == 1)} already; give another --out or --merged, or "
            "--force to replace what is there"
        )
    return files


def _write_all(models: list[Weights], files: list[Path], texts: list[dict[str, str]]) -> None:
    """Write every file beside its final name first, so that none appears unless all can be written."""
    from isthmus.atomic import atomic_path
    from isthmus.io.checkpoints import save_weights

    with ExitStack() as stack:
        for model, path, text in zip(models, files, texts, strict=True):
            temporary = stack.enter_context(atomic_path(path))
            # The writer tells the format by the ending of a name, which a temporary one does not have.
            named = temporary.with_name(temporary.name + path.suffix)
            stack.callback(named.unlink, missing_ok=True)
            save_weights(model, named, text).replace(temporary)

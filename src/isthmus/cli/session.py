"""What every command does alike: guard against errors, read inputs, print results."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import typer

from isthmus.errors import IsthmusError, SettingError

if TYPE_CHECKING:
    from isthmus.io.checkpoints import Checkpoint
    from isthmus.landscape import Task
    from isthmus.progress import Progress

P = ParamSpec("P")
R = TypeVar("R")

_INTERRUPTED = 130


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose expected errors become a sentence and exit code 2, and Ctrl-C a word on resuming."""

    @functools.wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return command(*arguments, **options)
        except IsthmusError as error:
            say(f"[bold red]error:[/] {escaped(str(error))}", error=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            say(
                "\nInterrupted. What was finished is kept, and a training or a fit keeps its state every few "
                f"seconds.\nTo go on from there, give the same command again:\n  {escaped(command_line())}",
                error=True,
            )
            raise typer.Exit(_INTERRUPTED) from None

    return run


def command_line() -> str:
    """The command as it was given."""
    return shlex.join(["isthmus", *sys.argv[1:]])


def say(text: object, error: bool = False) -> None:
    """Print Rich markup or a table, on standard output or standard error."""
    from rich.console import Console

    Console(stderr=error, soft_wrap=isinstance(text, str), highlight=False).print(text)


def escaped(text: str) -> str:
    """Text in which Rich finds no markup."""
    from rich.markup import escape

    return escape(text)


def emit(record: object, as_json: bool, quiet: bool, *shown: object) -> None:
    """Print a result: as JSON, or as tables and sentences, or not at all."""
    if as_json:
        from isthmus.io.records import plain

        sys.stdout.write(json.dumps(plain(record), ensure_ascii=False) + "\n")
    elif not quiet:
        for part in shown:
            say(part)


def open_task(name: str, data: Path | None, device: str) -> Task:
    """The task of this name, and a check that the device is there."""
    import torch

    from isthmus.tasks.userfile import load_task

    try:
        kind = torch.device(device).type
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise SettingError(f"the device {device!r} cannot be used here: {first}") from error
    if kind == "meta":
        raise SettingError("the device 'meta' holds no numbers; choose cpu or cuda")
    return load_task(name, data)


def open_checkpoint(path: Path, task: Task) -> Checkpoint:
    """A checkpoint in the layout of the task's network."""
    from isthmus.io.checkpoints import read_checkpoint

    return read_checkpoint(path, like=task.network)


def controls_in(folder: Path) -> Path:
    """The folder of a path's controls: itself, or the one within a run folder that has them."""
    first = "0.safetensors"
    if not folder.is_dir():
        raise SettingError(f"{folder} is not a folder: expected a path's controls, or a run folder with them")
    if (folder / first).exists():
        return folder
    found = sorted(each for each in folder.iterdir() if (each / first).exists())
    if len(found) == 1:
        return found[0]
    if found:
        raise SettingError(f"{folder} holds {len(found)} paths: give {' or '.join(map(str, found))}")
    raise SettingError(
        f"{folder} holds no controls of a path: expected {first}, 1.safetensors, … in it, or in a folder "
        "within"
    )


def names_of(checkpoints: Sequence[Path]) -> list[str]:
    """What to call several models: their files' names, with numbers before them where two are alike."""
    stems = [path.resolve().stem for path in checkpoints]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{number}-{stem}" for number, stem in enumerate(stems, start=1)]


def bars(quiet: bool, as_json: bool) -> Progress:
    """Progress on a terminal, unless silence is asked for."""
    from isthmus.progress import default_progress

    return default_progress(quiet or as_json)


def new_file(out: Path | None, default: str, force: bool, inputs: Sequence[Path] = ()) -> Path:
    """Where to write a file; an existing one is replaced only by force, and one of the inputs never."""
    path = out or Path(default)
    try:
        taken = path.exists()
        same = any(taken and given.exists() and path.samefile(given) for given in inputs)
    except OSError as error:
        raise SettingError(f"cannot write to {path}: {error.strerror or error}") from error
    if same or any(path.resolve() == given.resolve() for given in inputs):
        raise SettingError(f"{path} is one of the given checkpoints, which are only read; give another --out")
    if taken and not force:
        raise SettingError(f"{path} exists already; give another --out, or --force to replace it")
    return path


def limit(examples: int) -> int | None:
    """A number of examples; 0 means all."""
    if examples < 0:
        raise SettingError(f"the number of examples must be 0 (all) or more, got {examples}")
    return examples or None

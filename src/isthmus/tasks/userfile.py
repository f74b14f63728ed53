"""Tasks and models from a user's Python file."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from isthmus.errors import IsthmusError, TaskError
from isthmus.landscape import Task
from isthmus.tasks.table import task_named


def load_task(text: str, data: str | Path | None = None) -> Task:
    """The task that `--task` means: a built-in name, or FILE.py[:NAME] (NAME is `task` by default).

    Args:
        text: as given by the user.
        data: folder with the data sets of built-in tasks.

    Raises:
        TaskError: there is no such task or file, the file does not import, or the name is no task.
        DataError: a built-in task's data are missing.
    """
    file, name = _split(text, "task")
    if file is None:
        return task_named(text, data)
    found = _value(file, name)
    if callable(found) and not isinstance(found, Task):
        found = _called(found, file, name)
    if not isinstance(found, Task):
        raise TaskError(
            f"{name} in {file} must be an isthmus.Task (or a function that returns one), "
            f"got {type(found).__name__}"
        )
    return found


def load_model(text: str) -> nn.Module:
    """The module that FILE.py:NAME means: a module, or what a function or class of that name builds.

    Raises:
        TaskError: the file does not import, or the name gives no module.
    """
    file, name = _split(text, "build")
    if file is None:
        raise TaskError(f"expected a model as FILE.py:NAME, got {text!r}")
    found = _value(file, name)
    if callable(found) and not isinstance(found, nn.Module):
        found = _called(found, file, name)
    if not isinstance(found, nn.Module):
        raise TaskError(f"{name} in {file} must give a torch.nn.Module, got {type(found).__name__}")
    return found


def _split(text: str, default: str) -> tuple[Path | None, str]:
    """A file and a name in it; no file if the text does not look like one."""
    file, _, name = text.rpartition(":") if not text.endswith(".py") else (text, "", "")
    if not file.endswith(".py"):
        return None, text
    return Path(file), name or default


def _value(file: Path, name: str) -> Any:
    module = _imported(file)
    if not hasattr(module, name):
        public = ", ".join(sorted(n for n in vars(module) if not n.startswith("_"))[:10])
        raise TaskError(f"{file} defines no {name!r}; it defines {public or 'nothing'}")
    return getattr(module, name)


def _imported(file: Path) -> ModuleType:
    """The file as a module; its own folder is importable from then on, as for a script."""
    if not file.is_file():
        raise TaskError(f"there is no file {file}; --task and --model take a Python file or a built-in name")
    spec = importlib.util.spec_from_file_location(f"isthmus_user_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    folder = str(file.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except IsthmusError:
        raise
    except (Exception, SystemExit) as error:
        raise TaskError(f"{file} does not import: {_told(error, file)}") from error
    return module


def _called(function: Any, file: Path, name: str) -> Any:
    try:
        return function()
    except IsthmusError:
        raise
    except (Exception, SystemExit) as error:
        raise TaskError(f"{name}() in {file} failed: {_told(error, file)}") from error


def _told(error: BaseException, file: Path) -> str:
    """The error in a line, with the last line of the user's file that it passed through."""
    lines = [
        f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == file.resolve()
    ]
    lines += [error.lineno] if isinstance(error, SyntaxError) else []
    place = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{place}"

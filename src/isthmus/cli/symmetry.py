"""`isthmus symmetry`: which hidden units of a model may be reordered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli.options import AsJson, Data, Device, Force, Out, Quiet, Seed
from isthmus.cli.session import emit, guarded, new_file, open_task
from isthmus.errors import SettingError

if TYPE_CHECKING:
    from torch import Tensor


@guarded
def symmetry(
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", metavar="NAME|FILE.py[:NAME]", help="A task.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:NAME", help="A function that builds a module.", show_default=False),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option("--input", metavar="1,3,32,32", help="Shape of the model's input.", show_default=False),
    ] = None,
    data: Data = None,
    out: Out = None,
    force: Force = False,
    device: Device = "cpu",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find the hidden axes of a model, the group that acts on them, and what is pinned and why.

    Give --task, or --model with --input. The result is verified numerically; --out FILE keeps it.
    """
    path = new_file(out, "", force) if out else None
    import torch

    from isthmus.report.terminal import symmetry_table
    from isthmus.symmetry import discover
    from isthmus.tasks.userfile import load_model

    if (task is None) == (model is None):
        raise SettingError("expected either --task, or --model with --input; see isthmus symmetry --help")
    if task is not None:
        problem = open_task(task, data, device)
        module, example = problem.traceable, problem.example
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = load_model(str(model))
            example = (_noise(_shape(inputs)),)
    found = discover(module, example)
    if path:
        found.save(path)
    emit(found.summary(), as_json, quiet, symmetry_table(found))


def _noise(shape: tuple[int, ...]) -> Tensor:
    """An example input of this shape."""
    import torch

    try:
        return torch.randn(shape)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise SettingError(f"--input {','.join(map(str, shape))} is too large: {first}") from error


def _shape(text: str | None) -> tuple[int, ...]:
    """A shape written as 1,3,32,32."""
    try:
        shape = tuple(int(part) for part in (text or "").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise SettingError(f"--input must be a shape such as 1,3,32,32, got {text!r}")
    return shape

"""`isthmus symmetry`: which hidden units of a model may be reordered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isthmus.cli.options import AsJson, Data, Device, Force, Quiet, Seed
from isthmus.cli.session import emit, escaped, guarded, open_task
from isthmus.errors import SettingError, SymmetryError

if TYPE_CHECKING:
    from torch import nn

    from isthmus.symmetry import Symmetry

# Of more parameters than this (2 GB in float32) a folder's model is built without numbers, unless a proof is
# asked for, which needs about six times as much.
_LARGE = 500_000_000


@dataclass(frozen=True)
class _Subject:
    """What is examined: a module, inputs for it, the outputs that matter, and whether to prove the result."""

    module: nn.Module
    example: Any
    outputs: list[str | int] | None
    verify: bool
    notes: tuple[str, ...] = ()


@guarded
def symmetry(
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", metavar="NAME|FILE.py[:NAME]", help="A task.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|FILE.py:NAME",
            help="A Hugging Face folder (its config.json is enough), or a function that builds a module.",
            show_default=False,
        ),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="1,3,32,32",
            help="Shape of the model's input; a folder's config suggests its own.",
            show_default=False,
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Outputs that must stay, by name or number; repeated or with commas. By default all; of a "
            "folder's model its logits, or else last_hidden_state.",
            show_default=False,
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:AXIS]", help="A parameter that may not move; repeated.", show_default=False
        ),
    ] = None,
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Prove the result in float64 and print the proof in full, or do without. By default it is "
            "proved, and told in a sentence, up to 500 million parameters.",
            show_default=False,
        ),
    ] = None,
    data: Data = None,
    save: Annotated[Path | None, typer.Option(help="Write the symmetry as JSON.", show_default=False)] = None,
    force: Force = False,
    device: Device = "cpu",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find the hidden axes of a model, the group that acts on them, and what is pinned and why.

    Give --task, or --model with a Hugging Face folder, or --model FILE.py:NAME with --input. No weights are
    read: a folder's model gets random ones, and code that comes with a folder is never run.
    """
    if save and save.exists() and not force:
        raise SettingError(f"{save} exists already; give another --save, or --force to replace it")
    if (task is None) == (model is None):
        raise SettingError(
            "expected either --task, or --model with a folder, or --model FILE.py:NAME with --input; see "
            "isthmus symmetry --help"
        )
    if task is not None and inputs is not None:
        raise SettingError("--input goes with --model: a task brings its own example")
    chosen = _outputs(outputs)
    if task is not None:
        problem = open_task(task, data, device)
        subject = _Subject(problem.traceable, problem.example, chosen, verify is not False)
    elif Path(str(model)).is_dir():
        subject = _of_folder(Path(str(model)), inputs, chosen, verify, seed)
    else:
        subject = _of_file(str(model), inputs, chosen, verify is not False, seed)
    frozen = _frozen(freeze or (), subject.module)
    from isthmus.symmetry import discover

    try:
        found = discover(subject.module, subject.example, subject.outputs, frozen, verify=subject.verify)
    except NotImplementedError as error:  # what torch says where an operation needs numbers, and has none
        if not any(parameter.is_meta for parameter in subject.module.parameters()):
            raise
        first = str(error).splitlines()[0].rstrip(".;")
        raise SymmetryError(
            f"the model is too large to be built by default, and cannot be examined without numbers "
            f"({first}): --verify builds it with random weights"
        ) from error
    if save:
        found.save(save)
    record = _record(found, subject, frozen)
    emit(record, as_json, quiet, *_shown(found, subject, verify is True))


def _of_folder(
    folder: Path, inputs: str | None, outputs: list[str | int] | None, verify: bool | None, seed: int
) -> _Subject:
    """The model that a folder's config describes."""
    from isthmus.io.huggingface import build, read_architecture

    architecture = read_architecture(folder)
    bare = build(architecture, device="meta")
    size = sum(parameter.numel() for parameter in bare.parameters())
    notes = [architecture.note] if architecture.note else []
    if verify is None and size > _LARGE:
        notes.append(
            f"the model has {size:,} parameters, so it was not proved: --verify does so nevertheless, and "
            f"needs about {24 * size / 2**30:,.0f} GiB of memory"
        )
    proved = size <= _LARGE if verify is None else verify
    module = build(architecture, seed) if proved or size <= _LARGE else bare
    return _of_transformer(module, _shape(inputs) if inputs else None, outputs, proved, seed, tuple(notes))


def _of_transformer(
    module: nn.Module,
    shape: tuple[int, ...] | None,
    outputs: list[str | int] | None,
    verify: bool,
    seed: int,
    notes: tuple[str, ...] = (),
) -> _Subject:
    """A model of the transformers library, with inputs and outputs that its config suggests."""
    from isthmus.io.modelinputs import example_inputs, output_names, telling_outputs

    device = next(module.parameters()).device
    example = {name: value.to(device) for name, value in example_inputs(module, shape, seed).items()}
    if outputs is None:
        names = output_names(module, example)
        outputs = list(telling_outputs(names)) or [name for name in names if name == "last_hidden_state"]
    return _Subject(module, example, outputs or None, verify, notes)


def _of_file(
    text: str, inputs: str | None, outputs: list[str | int] | None, verify: bool, seed: int
) -> _Subject:
    """The model that a Python file builds."""
    import torch

    from isthmus.tasks.userfile import load_model

    if not text.endswith(".py") and not text.rpartition(":")[0].endswith(".py"):
        is_file = Path(text).exists()
        told = (
            "is a file of another kind (of a model folder, give the folder)" if is_file else "does not exist"
        )
        raise SettingError(f"--model takes a Hugging Face folder or FILE.py:NAME, and {text} {told}")
    if inputs is None:
        raise SettingError(f"--model {text} needs --input, the shape of the model's input, such as 1,3,32,32")
    shape = _shape(inputs)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = load_model(text)
        if hasattr(module, "main_input_name") and hasattr(module, "config"):  # of the transformers library
            config: Any = module.config
            config.use_cache = False
            return _of_transformer(module.eval(), shape, outputs, verify, seed)
        return _Subject(module, (_noise(shape, module),), outputs, verify)


def _noise(shape: tuple[int, ...], module: nn.Module) -> Any:
    """An example input of this shape: noise, or numbers of tokens where noise cannot be looked up."""
    import torch

    try:
        example = torch.randn(shape)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise SettingError(f"--input {','.join(map(str, shape))} is too large: {first}") from error
    tables = [part.num_embeddings for part in module.modules() if isinstance(part, torch.nn.Embedding)]
    if not tables:
        return example
    try:
        with torch.no_grad():
            module(example)
    except Exception as error:  # of the user's own code; what is wrong otherwise is told by the trace
        if "indices" in str(error) or "Long" in str(error):
            return torch.randint(min(tables), shape)
    return example


def _shape(text: str | None) -> tuple[int, ...]:
    """A shape written as 1,3,32,32."""
    try:
        shape = tuple(int(part) for part in (text or "").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise SettingError(f"--input must be a shape such as 1,3,32,32, got {text!r}")
    return shape


def _outputs(given: Sequence[str] | None) -> list[str | int] | None:
    """Outputs by name or number, commas taken apart."""
    names = [name.strip() for text in given or () for name in text.split(",") if name.strip()]
    if given and not names:
        raise SettingError("--outputs names no output: expected names or numbers, such as logits")
    return [int(name) if name.lstrip("-").isdigit() else name for name in names] or None


def _frozen(given: Sequence[str], module: nn.Module) -> list[str | tuple[str, int]]:
    """Parameters, or (parameter, axis) pairs, written as NAME[:AXIS]."""
    own = dict(module.named_parameters(remove_duplicate=False))
    frozen: list[str | tuple[str, int]] = []
    for text in given:
        name, colon, axis = text.rpartition(":")
        name = name if colon else text
        if name not in own:
            near = [other for other in own if name and name in other][:3] or list(own)[:3]
            raise SettingError(f"--freeze {text}: the model has no parameter {name!r}; try {', '.join(near)}")
        if not colon:
            frozen.append(name)
            continue
        count = own[name].ndim
        if not axis.lstrip("-").isdigit() or not -count <= int(axis) < count:
            raise SettingError(
                f"--freeze {text}: expected an axis of {name} from 0 to {count - 1} after the colon, got "
                f"{axis!r}"
            )
        frozen.append((name, int(axis) % count))
    return frozen


def _record(found: Symmetry, subject: _Subject, frozen: Sequence[str | tuple[str, int]]) -> dict[str, Any]:
    """Everything that was found, as data."""
    from isthmus.report.grouping import pinned_lines

    proof = found.verification
    axes = [
        {
            "name": axis.name,
            "units": axis.size,
            "free": axis.free,
            "fixed": axis.fixed,
            "parents": [name for name, _ in axis.parents],
            "carried by": [f"{place.parameter}[{place.dim}]" for place in axis.places],
        }
        for axis in found.axes
    ]
    checked = None if proof is None else asdict(proof)
    if checked is not None and proof is not None:
        checked |= {"passed": proof.passed, "powerless": proof.powerless}
    example = subject.example
    shapes = (
        {name: list(tensor.shape) for name, tensor in example.items()}
        if isinstance(example, Mapping)
        else None
    )
    return found.summary() | {
        "log10_order": found.log2_order * math.log10(2),
        "parameters": found.layout.numel,
        "axes": axes,
        "pinned by reason": [asdict(line) for line in pinned_lines(found)],
        "verification": checked,
        "outputs": subject.outputs,
        "inputs": shapes,
        "frozen": [name if isinstance(name, str) else f"{name[0]}[{name[1]}]" for name in frozen],
        "notes": subject.notes,
    }


def _shown(found: Symmetry, subject: _Subject, full: bool) -> list[object]:
    """Tables and sentences for the terminal."""
    from isthmus.report.sentences import proof_sentence
    from isthmus.report.terminal import control_table, pinned_table, symmetry_table

    parts: list[object] = [symmetry_table(found), ""]
    if found.pinned:
        parts += [pinned_table(found), ""]
    proof = found.verification
    if proof is None:
        parts.append("Not proved numerically.")
    else:
        if full and proof.controls:
            parts += [control_table(proof), ""]
        parts.append(escaped(proof_sentence(proof)))
    return [*parts, *(escaped(note[:1].upper() + note[1:] + ".") for note in subject.notes)]

"""Two Hugging Face folders: the hidden units of the one brought into the order of the other's.

The result is a folder of its own, which is read back and run beside B before it appears.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.errors import SettingError, SymmetryError
from isthmus.experiments.measuring import matching_record
from isthmus.experiments.records import Matching
from isthmus.io.huggingface import Pretrained, differences, load, read_architecture, reload, write_weights
from isthmus.io.modelfolder import RECORD, companions, copy_companions, folder_in_place, shard_size
from isthmus.io.modelinputs import example_inputs, output_names, telling_outputs
from isthmus.io.records import plain
from isthmus.match import match_weights
from isthmus.symmetry import Symmetry, discover
from isthmus.weights import Weights

# A reordering changes sums by rounding alone: by 1e-15 in float64, and by 1e-7 where a model computes its
# norms or its softmax in float32 whatever it is given.
_TOLERANCE = 1e-5
_NAMED = 3


@dataclass(frozen=True)
class FolderAlignment:
    """What became of two folders.

    Attributes:
        architecture: transformers' class of both.
        a: the digest of the weights that stayed.
        b: the digest of the weights that were brought to them.
        outputs: the outputs that were kept, and compared.
        error: the largest change of these outputs, relative to the largest of them, when the written folder
            was read back.
        tolerance: what was allowed.
        matching: what the matching found.
        notes: for A, B and C, the result: a sentence for each thing that was left out or converted.
    """

    architecture: str
    a: str
    b: str
    outputs: tuple[str, ...]
    error: float
    tolerance: float
    matching: Matching
    notes: Mapping[str, tuple[str, ...]]


def align_folders(
    a: Path, b: Path, out: Path, *, restarts: int = 3, seed: int = 0, verify: bool = True
) -> FolderAlignment:
    """Write a folder with the model of `b`, its hidden units in the order of `a`'s, and all else as in `b`.

    Outputs that stay: the logits, or every output of a model that has none.

    Args:
        a: a Hugging Face folder: config.json, and weights in safetensors or torch files, sharded or not.
        b: a folder of the same architecture; its dtype is kept.
        out: the new folder; what is there is replaced (see `io.modelfolder.require_folder`).
        restarts: starts of the matching.
        seed: of the matching and of the example inputs.
        verify: whether the symmetry is proved in float64 first.

    Raises:
        CheckpointError: a folder cannot be read for certain, or is of an architecture that needs code.
        SettingError: the two configs describe different architectures, or the file system refuses.
        LayoutError: the weights are not those of the architecture.
        SymmetryError: the model cannot be traced, or what was written does not compute what B does.
        MissingDependencyError: transformers is not installed.

    Cost: memory for A, B and their vectors in float32, and for a copy of B in float64.
    """
    one, two = read_architecture(a), read_architecture(b)
    if found := differences(one, two):
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise SettingError(
            f"{a} and {b} are not of one architecture: they differ in {', '.join(found[:_NAMED])}{more}"
        )
    fixed, moving = load(one), load(two)
    start = Weights.from_module(fixed.module).conform(Weights.from_module(moving.module), str(b))
    example = example_inputs(moving.module, seed=seed)
    names = output_names(moving.module, example)
    outputs = tuple(telling_outputs(names) or names)
    symmetry = _symmetry(moving, example, outputs, verify)
    weights = Weights.from_module(moving.module)
    alignment = match_weights(start, weights, symmetry, restarts=restarts, seed=seed)
    before = _outputs(moving.module, example, outputs)
    matching = matching_record(start, weights, symmetry, alignment)
    alignment.apply(weights).to_module(moving.module)
    with folder_in_place(out) as folder:
        write_weights(moving.module, folder, shard_size(b))
        copy_companions(b, folder)
        again = reload(two, folder, moving.module)
        error = _change(before, _outputs(again, example, outputs))
        _require_same(error, Weights.from_module(again), Weights.from_module(moving.module))
        notes = {"A": fixed.notes, "B": moving.notes, "C": _left(b)}
        made = FolderAlignment(
            two.name, fixed.sha256, moving.sha256, outputs, error, _TOLERANCE, matching,
            {name: told for name, told in notes.items() if told},
        )  # fmt: skip
        (folder / RECORD).write_text(_record(made), encoding="utf-8")
    return made


def _symmetry(
    model: Pretrained, example: Mapping[str, Tensor], outputs: Sequence[str], verify: bool
) -> Symmetry:
    symmetry = discover(model.module, example, list(outputs) or None, verify=verify)
    if not symmetry.axes:
        raise SymmetryError(
            f"no hidden unit of {model.architecture.name} may be reordered, as far as isthmus knows: "
            f"isthmus symmetry --model {model.architecture.folder} says why"
        )
    return symmetry


def _outputs(module: nn.Module, example: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """The named outputs of a copy of a model in float64."""
    twin = copy.deepcopy(module).double()
    wide = {name: t.double() if t.is_floating_point() else t for name, t in example.items()}
    with torch.no_grad():
        found: Any = twin(**wide)
    return {
        f"{name}.{number}": tensor for name in names for number, tensor in enumerate(_tensors(found[name]))
    }


def _tensors(value: Any) -> list[Tensor]:
    """All tensors within a value."""
    if isinstance(value, Tensor):
        return [value]
    items = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    )
    return [tensor for item in items for tensor in _tensors(item)]


def _change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """The largest change of an output, relative to the largest value of it; infinite if a NaN comes up."""
    error = 0.0
    for name, old in before.items():
        change = (after[name].double() - old.double()).abs().max() / old.double().abs().max().clamp_min(
            1e-300
        )
        error = max(error, float(change.nan_to_num(nan=math.inf)))
    return error


def _require_same(error: float, written: Weights, meant: Weights) -> None:
    """Refuse a result that is not, to the last bit, what was meant, or does not compute what B does."""
    if written.equal(meant) and error <= _TOLERANCE:
        return
    told = "its weights are not those that were to be written" if not written.equal(meant) else "its outputs"
    raise SymmetryError(
        f"the aligned model, when read back, is not what it should be: {told} (the outputs differ from "
        f"B's by {error:.1e}; allowed: {_TOLERANCE:.0e}). Nothing was kept; please report it "
        "as a defect of isthmus"
    )


def _left(folder: Path) -> tuple[str, ...]:
    """Which files of weights of B have no counterpart in the result."""
    main = ("model", "pytorch_model")
    other = [
        str(path) for path in companions(folder)[1] if path.parent != Path() or not path.name.startswith(main)
    ]
    if not other:
        return ()
    more = f" and {len(other) - _NAMED} more" if len(other) > _NAMED else ""
    return (f"not copied, as they belong to B's own order of units: {', '.join(other[:_NAMED])}{more}",)


def _record(made: FolderAlignment) -> str:
    """The record that lies in the folder."""
    body = {
        "isthmus": version("isthmus"),
        "what": "the model 'aligned from' with its hidden units in the order of the model 'aligned to'",
        "architecture": made.architecture,
        "aligned to": made.a,
        "aligned from": made.b,
        "check": {"outputs": made.outputs, "error": made.error, "tolerance": made.tolerance},
        "notes": made.notes,
        "matching": asdict(made.matching),
    }
    return json.dumps(plain(body), indent=1, ensure_ascii=False) + "\n"

"""Rescalings and scalings on disk: safetensors with JSON in the header, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from isthmus.atomic import write_bytes_atomic
from isthmus.errors import SymmetryError
from isthmus.layout import Layout
from isthmus.symmetry.rescale.factors import Exponents, Factor
from isthmus.symmetry.verify import Control, Verification

if TYPE_CHECKING:
    from isthmus.symmetry.rescale.group import Rescaling

_FORMAT = 1


def described(rescaling: Rescaling) -> dict[str, Any]:
    """All of a rescaling but its tensors, as plain JSON data."""
    layout, proof = rescaling.layout, rescaling.verification
    return {
        "format": _FORMAT,
        "kind": rescaling.kind,
        "layout": {
            "names": list(layout.names),
            "shapes": [list(shape) for shape in layout.shapes],
            "dtypes": [str(dtype).removeprefix("torch.") for dtype in layout.dtypes],
            "aliases": [list(pair) for pair in layout.aliases],
        },
        "buffers": {name: list(shape) for name, shape in rescaling.buffers.items()},
        "factors": [factor.parameter for factor in rescaling.factors],
        "shape": [rescaling.exponents.size, rescaling.exponents.count],
        "pinned": [[name, axis, reason] for (name, axis), reason in rescaling.pinned.items()],
        "verification": None if proof is None else json.loads(json.dumps(asdict(proof))),
    }


def tensors_of(rescaling: Rescaling) -> dict[str, Tensor]:
    """The tensors of a rescaling by name."""
    found = rescaling.exponents
    rows = {f"factor.{number}": factor.rows for number, factor in enumerate(rescaling.factors)}
    return rows | {"units": found.units, "coordinates": found.coordinates, "powers": found.powers}


def fields_of(record: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """The fields of a rescaling from what was read."""
    try:
        data = record["rescaling"]
        layout, proof = data["layout"], data["verification"]
        size, count = data["shape"]
        return {
            "kind": data["kind"],
            "layout": Layout(
                tuple(layout["names"]),
                tuple(tuple(shape) for shape in layout["shapes"]),
                tuple(getattr(torch, name) for name in layout["dtypes"]),
                tuple((other, name) for other, name in layout["aliases"]),
            ),
            "buffers": {name: tuple(shape) for name, shape in data["buffers"].items()},
            "factors": tuple(
                Factor(name, tensors[f"factor.{number}"]) for number, name in enumerate(data["factors"])
            ),
            "exponents": Exponents(count, size, tensors["units"], tensors["coordinates"], tensors["powers"]),
            "pinned": {(name, axis): reason for name, axis, reason in data["pinned"]},
            "verification": None if proof is None else _verification(proof),
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SymmetryError(f"{path} holds no rescaling that isthmus wrote: {error} is not there") from error


def _verification(record: dict[str, Any]) -> Verification:
    controls = tuple(Control(**control) for control in record["controls"])
    tuples = {name: tuple(record[name]) for name in ("failed", "outputs", "unmoved")}
    return Verification(**(record | tuples | {"controls": controls}))


def write(record: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors with a JSON record in the header of one safetensors file, atomically."""
    named = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    write_bytes_atomic(path, save(named, {"isthmus": json.dumps(record)}))


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `write` wrote.

    Raises:
        SymmetryError: the file cannot be read or was not written by isthmus.
    """
    try:
        with safe_open(str(path), "pt") as file:
            record: dict[str, Any] = json.loads((file.metadata() or {})["isthmus"])
            return record, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise SymmetryError(f"{path} cannot be read as a rescaling: {error}") from error

"""Symmetries and alignments on disk: JSON and safetensors, written atomically."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from isthmus.symmetry.action import Axis, Place
from isthmus.symmetry.verify import Control, Verification

if TYPE_CHECKING:
    from isthmus.symmetry.group import Symmetry

_FORMAT = 1


def to_record(symmetry: Symmetry) -> dict[str, Any]:
    """A symmetry as plain JSON data."""
    layout = symmetry.layout
    return {
        "format": _FORMAT,
        "layout": {
            "names": list(layout.names),
            "shapes": [list(shape) for shape in layout.shapes],
            "dtypes": [str(dtype).removeprefix("torch.") for dtype in layout.dtypes],
            "aliases": [list(pair) for pair in layout.aliases],
        },
        "buffers": {name: list(shape) for name, shape in symmetry.buffers.items()},
        "axes": [_axis_record(axis) for axis in symmetry.axes],
        "pinned": [[name, axis, reason] for (name, axis), reason in symmetry.pinned.items()],
        "verification": None if symmetry.verification is None else asdict(symmetry.verification),
        "unread": list(symmetry.unread),
    }


def from_record(record: dict[str, Any]) -> dict[str, Any]:
    """The fields of a symmetry from its JSON data."""
    try:
        layout = record["layout"]
        verification = record["verification"]
        return {
            "layout": Layout(
                tuple(layout["names"]),
                tuple(tuple(shape) for shape in layout["shapes"]),
                tuple(getattr(torch, name) for name in layout["dtypes"]),
                tuple((other, name) for other, name in layout["aliases"]),
            ),
            "buffers": {name: tuple(shape) for name, shape in record["buffers"].items()},
            "axes": tuple(_axis(item) for item in record["axes"]),
            "pinned": {(name, axis): reason for name, axis, reason in record["pinned"]},
            "verification": None if verification is None else _verification(verification),
            "unread": tuple(record["unread"]),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise SymmetryError(
            f"this file holds no symmetry that isthmus wrote: {error} is not there"
        ) from error


def _axis_record(axis: Axis) -> dict[str, Any]:
    return {
        "name": axis.name,
        "size": axis.size,
        "places": [[p.parameter, p.dim, p.index.tolist(), p.blocks] for p in axis.places],
        "parents": [[name, index.tolist()] for name, index in axis.parents],
        "cells": axis.cells.tolist(),
        "fixed": axis.fixed,
    }


def _axis(record: dict[str, Any]) -> Axis:
    return Axis(
        record["name"],
        record["size"],
        tuple(Place(name, dim, torch.tensor(index), blocks) for name, dim, index, blocks in record["places"]),
        tuple((name, torch.tensor(index)) for name, index in record["parents"]),
        torch.tensor(record["cells"]),
        record["fixed"],
    )


def _verification(record: dict[str, Any]) -> Verification:
    controls = tuple(Control(**control) for control in record["controls"])
    tuples = {name: tuple(record[name]) for name in ("failed", "outputs", "unmoved")}
    return Verification(**(record | tuples | {"controls": controls}))


def write_json(record: dict[str, Any], path: Path) -> None:
    """Write JSON atomically."""
    write_bytes_atomic(path, json.dumps(record).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SymmetryError: the file cannot be read or is no JSON object.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SymmetryError(f"{path} cannot be read as a symmetry: {error}") from error
    if not isinstance(record, dict):
        raise SymmetryError(f"{path} holds no symmetry: expected a JSON object")
    return record


def write_tensors(record: dict[str, Any], tensors: Sequence[Tensor], path: Path) -> None:
    """Write numbered tensors with a JSON record in the header of one safetensors file, atomically."""
    named = {str(number): tensor.contiguous() for number, tensor in enumerate(tensors)}
    write_bytes_atomic(path, save(named, {"isthmus": json.dumps(record)}))


def read_tensors(path: Path) -> tuple[dict[str, Any], list[Tensor]]:
    """Read what `write_tensors` wrote.

    Raises:
        SymmetryError: the file cannot be read or was not written by isthmus.
    """
    try:
        with safe_open(str(path), "pt") as file:
            record = json.loads((file.metadata() or {})["isthmus"])
            return record, [file.get_tensor(str(number)) for number in range(len(record["axes"]))]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise SymmetryError(f"{path} cannot be read as an alignment: {error}") from error

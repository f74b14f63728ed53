"""Operations that data steer: look-ups, gathers, scatters, and rankings whose numbers point at units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from isthmus.symmetry.labels import (
    Label,
    along,
    combine,
    grid,
    in_order,
    pin,
    pointwise,
    varying,
)
from isthmus.symmetry.rules.arithmetic import over
from isthmus.symmetry.rules.call import Call, Result, moved, picked, settled, unknown


def embedding(call: Call) -> Result:
    """Rows of a table, looked up by data: which row is meant may not change."""
    table, indices = call["weight"], call["indices"]
    columns = _looked_up(call, table, [0], "rows are looked up by data")
    columns = moved(columns, lambda t: t.reshape([1] * len(indices.shape) + [t.shape[1]]))
    read = moved(indices, lambda t: t.unsqueeze(-1))
    return pointwise(call.units, [columns, read], call.where)


def embedding_bag(call: Call) -> Result:
    """Rows of a table, looked up and summed bag by bag; of the results only the first has a rule."""
    if call.used - {0}:
        return unknown(call)
    for label in call.labels[1:]:
        pin(call.units, label, f"{call.where}: it says which rows are looked up")
    columns = _looked_up(call, call["weight"], [0], "rows are looked up by data")
    shape = call.shapes[0]
    slots = tuple(slot.expand(shape) for slot in columns.slots)
    position = combine([columns.position.expand(shape), grid(shape, [0])])
    return (Label(slots, position, "the rows that are looked up"), *[None] * (len(call.shapes) - 1))


def index(call: Call) -> Result:
    """Indexing by constants is data movement; indexing by data reads the indexed axes in order."""
    source = call["self"]
    indices = [None if item is None else item.value for item in call["indices"]]
    if all(item is None or value is not None for item, value in zip(call["indices"], indices, strict=True)):
        return picked(call.units, source, lambda t: call.run(t, indices), call.where)
    axes = [axis for axis, item in enumerate(call["indices"]) if item is not None]
    pointers = [item for item in call["indices"] if item is not None]
    if axes != list(range(axes[0], axes[0] + len(axes))):
        return unknown(call)
    rows = _looked_up(call, source, axes, "it is indexed by data")
    shape, behind = call.shapes[0], len(source.shape) - axes[-1] - 1
    wide = len(shape) - axes[0] - behind
    rows = moved(rows, lambda t: t.reshape([*t.shape[: axes[0]], *[1] * wide, *t.shape[axes[-1] + 1 :]]))
    laid = [moved(pointer, lambda t: t.reshape(*t.shape, *[1] * behind)) for pointer in pointers]
    return pointwise(call.units, [rows, *laid], call.where)


def index_select(call: Call) -> Result:
    """As `index`, along one axis."""
    dim = call["dim"] % len(call["self"].shape)
    indices = [None] * dim + [call["index"]]
    run = torch.ops.aten.index.Tensor
    return index(replace(call, arguments={"self": call["self"], "indices": indices}, run=run))


def gather(call: Call) -> Result:
    """Along one axis every element is looked up by an index of its own."""
    source, pointer = call["self"], call["index"]
    dim = call["dim"] % len(source.shape)
    same = all(
        a == dim or one == two for a, (one, two) in enumerate(zip(source.shape, pointer.shape, strict=True))
    )
    if not same:
        return unknown(call)
    if pointer.points is not None:
        source, pointer = _met(call, source, pointer, dim)
        found = over(call.units, source, [dim], call.where)
    else:
        found = _looked_up(call, source, [dim], "it is gathered by data")
    return pointwise(call.units, [found, pointer], call.where)


def scatter(call: Call) -> Result:
    """Along one axis elements are written where an index says; the numbers of units move with the units."""
    base, pointer = call["self"], call["index"]
    dim = call["dim"] % len(base.shape)
    source = call.get("src")
    source = source if isinstance(source, Label) else call.get("value")
    sources = [source] if isinstance(source, Label) else []
    if any(
        label.shape[axis] != base.shape[axis]
        for label in [pointer, *sources]
        for axis in range(len(base.shape))
        if axis != dim
    ):
        return unknown(call)
    if pointer.points is not None and pointer.points.numel() == base.shape[dim]:
        base, pointer = _met(call, base, pointer, dim)
        listed = [in_order(call.units, label, [dim], call.where) for label in [pointer, *sources]]
        return pointwise(call.units, [base, *listed], call.where)
    listed = [
        _looked_up(call, replace(label, points=None), [dim], "it is scattered by data")
        for label in [base, pointer, *sources]
    ]
    if pointer.points is not None:
        pin(call.units, pointer, f"{call.where}: it says where to write")
    places = Label((), grid(base.shape, [dim]), "their places")
    return pointwise(call.units, [*listed, places], call.where)


def one_hot(call: Call) -> Result:
    """A new last axis on which an index is marked; for the number of a unit, units lie along it."""
    pointer, shape = call["self"], call.shapes[0]
    laid = moved(replace(pointer, points=None), lambda t: t.unsqueeze(-1))
    last = len(shape) - 1
    if pointer.points is not None and pointer.points.numel() == shape[last]:
        there = Label((along(pointer.points, shape, last),), grid(shape, []))
    else:
        pin(call.units, pointer, f"{call.where}: it is a number")
        there = Label((), grid(shape, [last]), "their places")
    return pointwise(call.units, [laid, there], call.where)


def ranking(call: Call) -> Result:
    """Sorting and top-k: values by rank are a symmetric function, indices are the numbers of units."""
    label = call["self"]
    dim = call.get("dim")
    if dim is None or not label.shape:
        return unknown(call)
    dim %= len(label.shape)
    label = settled(call.units, label)
    lying = [slot for slot in label.slots if dim in varying(slot)]
    if any(varying(slot) != {dim} for slot in lying):
        return unknown(call)
    points = lying[0].movedim(dim, 0).reshape(label.shape[dim], -1)[:, 0] if lying else None
    small = over(call.units, label, [dim], call.where)
    shape = _kept(call, dim)
    ranked = pointwise(call.units, [small, Label((), grid(shape, [dim]), "their ranks")], call.where)
    ranked = moved(ranked, lambda t: t.reshape(call.shapes[0]))
    numbers = replace(ranked, points=points, content=object())
    if not call.several:
        return ranked if "value" in call.name else numbers
    return (ranked, numbers)


def _kept(call: Call, dim: int) -> tuple[int, ...]:
    """The shape of a ranking's result with the ranked axis kept."""
    shape = call.shapes[0]
    if len(shape) == len(call["self"].shape):
        return shape
    return (*shape[:dim], 1, *shape[dim:])


def cast(call: Call) -> Result:
    """Another type, device or memory layout: the numbers of units stay what they are."""
    label: Label = call["self"]
    return replace(label, value=None, content=object())


def equality(call: Call) -> Result:
    """Pointwise; a number of a unit compared with all numbers in turn marks the unit, as `one_hot` does."""
    first, second = call.labels if len(call.labels) == 2 else (call.labels[0], None)
    for pointer, numbers in ((first, second), (second, first)):
        if pointer is None or numbers is None or pointer.points is None or numbers.value is None:
            continue
        counted = _counted(numbers.value, len(call.shapes[0]))
        if counted is not None and numbers.value.numel() == pointer.points.numel():
            there = Label((along(pointer.points, call.shapes[0], counted),), grid(call.shapes[0], []))
            return pointwise(call.units, [replace(pointer, points=None), there], call.where)
    for label in call.labels:
        if label.points is not None:
            pin(call.units, label, f"{call.where}: the number of a unit is read there")
    return pointwise(call.units, [replace(label, points=None) for label in call.labels], call.where)


def _counted(numbers: Tensor, rank: int) -> int | None:
    """The axis of the result along which a constant counts 0, 1, 2, …; None if it does not."""
    axes = [axis for axis, size in enumerate(numbers.shape) if size > 1]
    if len(axes) != 1 or not torch.equal(numbers.reshape(-1).long(), torch.arange(numbers.numel())):
        return None
    return axes[0] + rank - numbers.dim()


def _looked_up(call: Call, label: Label, axes: Sequence[int], how: str) -> Label:
    """A label with size 1 along axes at which data say which element is meant: their units are pinned."""
    return in_order(call.units, label, axes, f"{call.where}: {how}")


def _met(call: Call, label: Label, pointer: Label, dim: int) -> tuple[Label, Label]:
    """Bring the units along an axis together with those whose numbers point at it."""
    points = pointer.points
    if points is None or points.numel() != label.shape[dim]:
        raise ValueError("the axis is not the one that the numbers point at")
    there = Label((along(points, label.shape, dim),), grid(label.shape, []))
    return pointwise(call.units, [label, there], call.where), replace(pointer, points=None)

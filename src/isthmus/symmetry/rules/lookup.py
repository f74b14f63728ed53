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
    compress,
    core,
    grid,
    in_order,
    pin,
    pointwise,
    varying,
)
from isthmus.symmetry.partitions import count_distinct
from isthmus.symmetry.rules.arithmetic import over
from isthmus.symmetry.rules.call import Call, Result, moved, picked, unknown

_WIDE = (None, torch.int64, torch.int32, torch.float64, torch.float32)


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
        return _mark(call, [base, *listed])
    listed = [
        _looked_up(call, replace(label, points=None), [dim], "it is scattered by data")
        for label in [base, pointer, *sources]
    ]
    if pointer.points is not None:
        pin(call.units, pointer, f"{call.where}: it says where to write")
    places = Label((), grid(base.shape, [dim]), "their places")
    return _mark(call, [*listed, places])


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
    return _mark(call, [laid, there])


def ranking(call: Call) -> Result:
    """Sorting and top-k: values by rank are a symmetric function, indices are the numbers of units.

    Where elements may tie (after a ReLU, say), or ranks are in any order, the result depends on the places
    of the units; where a unit lies at several places, its number does not say which: then they are pinned.
    """
    label = call["self"]
    dim = call.get("dim")
    if dim is None or not label.shape:
        return unknown(call)
    dim %= len(label.shape)
    lying = [slot for slot in map(compress, label.slots) if dim in varying(slot)]
    if any(varying(slot) != {dim} for slot in lying):
        return unknown(call)
    numbered = 1 in call.used if call.several else "value" not in call.name
    points = lying[0].movedim(dim, 0).reshape(label.shape[dim], -1)[:, 0] if lying else None
    unclear = numbered and (len(lying) > 1 or not label.distinct)
    repeated = points is not None and numbered and count_distinct(points) < points.numel()
    if points is not None and (unclear or repeated or call.get("sorted") is False):
        for slot in lying:
            call.units.pin(core(slot), f"{call.where}: elements that are equal are ranked by their places")
        points = None
    shape = _kept(call, dim)
    small = over(call.units, label, [dim], call.where)
    if points is None and lying:
        small = in_order(call.units, label, [dim], call.where)
    ranked = pointwise(call.units, [small, Label((), grid(shape, [dim]), "their ranks")], call.where)
    ranked = moved(replace(ranked, distinct=label.distinct), lambda t: t.reshape(call.shapes[0]))
    numbers = replace(ranked, points=points, distinct=False, content=object())
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
    """Another type, device or memory layout; a wide enough type leaves the numbers of units as they are."""
    label: Label = call["self"]
    dtype = call.get("dtype")
    like = len(call.labels) > 1
    if label.points is not None and (like or dtype not in _WIDE):
        pin(call.units, replace(label, slots=()), f"{call.where}: the numbers of its units may be rounded")
        label = replace(label, points=None)
    floating = not like and (dtype is None or dtype.is_floating_point)
    return replace(label, value=None, distinct=label.distinct and floating, content=object())


def equality(call: Call) -> Result:
    """Pointwise; a number of a unit compared with all numbers in turn marks the unit, as `one_hot` does."""
    first, second = call.labels if len(call.labels) == 2 else (call.labels[0], None)
    for pointer, numbers in ((first, second), (second, first)):
        if pointer is None or numbers is None or pointer.points is None or numbers.value is None:
            continue
        counted = _counted(numbers.value, len(call.shapes[0]))
        if counted is not None and numbers.value.numel() == pointer.points.numel():
            there = Label((along(pointer.points, call.shapes[0], counted),), grid(call.shapes[0], []))
            return _mark(call, [replace(pointer, points=None), there])
    for label in call.labels:
        if label.points is not None:
            pin(call.units, label, f"{call.where}: the number of a unit is read there")
    return _mark(call, [replace(label, points=None) for label in call.labels])


def _mark(call: Call, labels: Sequence[Label]) -> Label:
    """Elements that meet and of which many may come out equal."""
    return replace(pointwise(call.units, labels, call.where), distinct=False)


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

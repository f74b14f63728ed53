"""Operations that move elements without reading them, and those that put tensors together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.symmetry.labels import (
    Label,
    combine,
    compress,
    constant,
    core,
    disjoint,
    fold,
    grid,
    mix,
    of_constant,
    origin_of,
    pointwise,
    same_slots,
    varying,
)
from isthmus.symmetry.partitions import count_distinct, distinct
from isthmus.symmetry.rules.call import Call, Result, moved, picked, reshaped, settled, unknown
from isthmus.symmetry.units import Units

_PADDING = 0x15A7


def move(call: Call) -> Result:
    """Views, permutations and copies: the operation itself runs on the labels.

    A movement that depends on data (a second tensor) has no rule.
    """
    name, *_ = call.arguments
    rest = {key: value for key, value in call.arguments.items() if key != name}
    if len(call.labels) > 1:
        return unknown(call)
    if not call.several:
        return picked(call.units, call[name], partial(call.run, **rest), call.where)

    def piece(number: int, tensor: Tensor) -> Tensor:
        pieces: Sequence[Tensor] = call.run(tensor, **rest)
        return pieces[number]

    numbers = range(len(call.shapes))
    return tuple(picked(call.units, call[name], partial(piece, n), call.where) for n in numbers)


def reshape(call: Call) -> Result:
    """Views of another shape: labels of stride 0 cannot always be viewed, so they are reshaped."""
    if call.get("dtype") is not None:
        return unknown(call)
    return reshaped(call.labels[0], call.shapes[0])


def concatenate(call: Call) -> Result:
    """Tensors end to end along an axis."""
    parts = [part for part in call["tensors"] if part.shape != (0,)]
    return join_parts(call, parts, call.get("dim", 0) % len(parts[0].shape), call.shapes[0])


def stack(call: Call) -> Result:
    """Tensors side by side along a new axis."""
    dim = call.get("dim", 0) % len(call.shapes[0])
    parts = [moved(part, lambda t: t.unsqueeze(dim)) for part in call["tensors"]]
    return join_parts(call, parts, dim, call.shapes[0])


def join_parts(call: Call, parts: Sequence[Label], dim: int, shape: Sequence[int]) -> Label:
    """The label of tensors laid end to end.

    Units along the axis are laid end to end, too. A part without any gets one unit that stands for all of it
    (its positions tell the elements apart). Units along other axes meet those of the other parts.

    Pieces of one tensor are still its content as long as every element keeps its ids, that is, if the units
    along the other axes are the same ones in every part: where other units meet, those of one part stand for
    those of all. Then, and where units of one origin may hold x in one part and f(x) in another, the part
    becomes a position.
    """
    units = call.units
    parts = [settled(units, part) for part in parts]
    numbers = [next((n for n, s in enumerate(part.slots) if dim in varying(s)), None) for part in parts]
    lying = [None if n is None else part.slots[n] for part, n in zip(parts, numbers, strict=True)]
    section = [1 if axis == dim else size for axis, size in enumerate(shape)]
    across = [[core(s).expand(section) for s in part.slots if dim not in varying(s)] for part in parts]
    # The slots must correspond in order, too: f(u_i, v_j) and its transpose are pieces of one tensor.
    one = (
        all(part.content is parts[0].content for part in parts)
        and len({number for number in numbers if number is not None}) < 2
        and all(same_slots(slots, across[0]) for slots in across)
    )
    slots = [slot.expand(shape) for slot in disjoint(units, [slot for slots in across for slot in slots])]
    if any(slot is not None for slot in lying):
        whole = [
            slot if slot is not None else constant(part.shape, int(units.fresh(1)))
            for part, slot in zip(parts, lying, strict=True)
        ]
        place = next(number for number in numbers if number is not None) if one else len(slots)
        slots.insert(place, _end_to_end(whole, dim, shape))
    positions = [part.position for part in parts]
    if not one and not _strangers(units, lying):
        positions = [combine([p, constant(p.shape, number)]) for number, p in enumerate(positions)]
    label = Label(tuple(slots), _end_to_end(positions, dim, shape), origin_of(parts))
    label = replace(label, distinct=all(part.distinct for part in parts))
    return replace(label, content=parts[0].content) if one else label


def _end_to_end(tensors: Sequence[Tensor], dim: int, shape: Sequence[int]) -> Tensor:
    """Label tensors laid end to end, with stride 0 where none of them varies."""
    axes = frozenset({dim}).union(*(varying(tensor) for tensor in tensors))
    pieces = [
        core(tensor).expand([size if axis in axes else 1 for axis, size in enumerate(tensor.shape)])
        for tensor in tensors
    ]
    return compress(torch.cat(pieces, dim).expand(tuple(shape)))


def _strangers(units: Units, slots: Sequence[Tensor | None]) -> bool:
    """Whether every part has units along the axis, and those of no two parts were made together.

    Units made together may be exchanged with one another, so they do not tell the parts apart.
    """
    known = [distinct(units.batch_of(distinct(core(slot)))) for slot in slots if slot is not None]
    if len(known) < len(slots):
        return False
    return count_distinct(torch.cat(known)) == sum(batches.numel() for batches in known)


def pad(call: Call) -> Result:
    """Padding with a constant; other modes copy elements."""
    if call.get("mode", "constant") != "constant":
        return pad_by_copies(call)
    value = call.get("value")
    cut = picked(call.units, call["self"], partial(F.pad, pad=[min(w, 0) for w in call["pad"]]), call.where)
    widths = [max(width, 0) for width in call["pad"]]
    return padded(call, cut, widths, call.shapes[0], 0.0 if value is None else float(value))


def windows(call: Call) -> Result:
    """Sliding blocks as columns (im2col): padding, then a copy of elements."""
    label, sides = call["self"], [side for pad in reversed(call["padding"]) for side in (pad, pad)]
    shape = [*label.shape[:-2], *(s + 2 * p for s, p in zip(label.shape[-2:], call["padding"], strict=True))]
    label = padded(call, label, sides, shape, 0.0)
    unpadded = replace(call, arguments=dict(call.arguments) | {"padding": [0, 0]})
    return picked(call.units, label, partial(_move_by_index, unpadded), call.where)


def pad_by_copies(call: Call) -> Result:
    """Padding with the tensor's own elements (reflected, replicated, circular) is data movement."""
    return picked(call.units, call["self"], partial(_move_by_index, call), call.where)


def padded(call: Call, label: Label, widths: Sequence[int], shape: Sequence[int], value: float) -> Label:
    """A label with a constant around it.

    Where units lie along a padded axis, one new unit stands for the whole of the padding: all of it is the
    same content, so whatever meets it may be reordered. Where none do, the padding is a position of its own.
    """
    units = call.units
    label = settled(units, label)
    rank = len(shape)
    axes = {rank - 1 - i for i in range(len(widths) // 2) if any(widths[2 * i : 2 * i + 2])}
    slots = []
    marked: set[int] = set()
    for slot in label.slots:
        marked |= varying(slot) & axes
        fill = int(units.fresh(1)) if varying(slot) & axes else 0
        slots.append(_pad(slot, varying(slot) & axes, widths, shape, fill))
    # Of its own for every padding: f(0) in one that a function was applied to is not the 0 beside it.
    hashed = int(mix(units.fresh(1) + _PADDING))
    own = axes if axes - marked or varying(label.position) & axes else set()
    return Label(
        tuple(slots), _pad(label.position, own, widths, shape, hashed), label.origin or "the padding"
    )


def _pad(
    tensor: Tensor, axes: set[int] | frozenset[int], widths: Sequence[int], shape: Sequence[int], fill: int
) -> Tensor:
    """Pad a label tensor along some of the axes; along the others it is the same everywhere."""
    rank = len(shape)
    small = core(tensor)
    small = small.expand([tensor.shape[a] if a in axes else small.shape[a] for a in range(rank)])
    chosen = [w if rank - 1 - i // 2 in axes else 0 for i, w in enumerate(widths)]
    return (
        compress(F.pad(small, chosen, value=fill).expand(tuple(shape)))
        if axes
        else small.expand(tuple(shape))
    )


def slice_scatter(call: Call) -> Result:
    """A copy of one tensor with a slice of it overwritten: the source meets what it overwrites."""
    return _overwrite(call, call["src"], call["dim"], call.get("start"), call.get("end"), call.get("step", 1))


def select_scatter(call: Call) -> Result:
    """As `slice_scatter`, for a single index."""
    dim = call["dim"] % len(call["self"].shape)
    start = call["index"] % call["self"].shape[dim]
    return _overwrite(call, moved(call["src"], lambda t: t.unsqueeze(dim)), dim, start, start + 1, 1)


def _overwrite(call: Call, source: Label, dim: int, start: int | None, end: int | None, step: int) -> Result:
    """`where(inside, source, self)` with the source padded to full size."""
    shape = call["self"].shape
    dim %= len(shape)
    if step != 1:
        return unknown(call)
    first, last, _ = slice(start, end).indices(shape[dim])
    widths = [0, 0] * (len(shape) - 1 - dim) + [first, shape[dim] - max(last, first)]
    inside = torch.zeros(shape[dim], dtype=torch.bool)
    inside[first:last] = True
    mask = of_constant(inside.view([-1] + [1] * (len(shape) - 1 - dim)), "where the slice was written")
    placed = padded(call, source, widths, shape, 0.0)
    return pointwise(call.units, [call["self"], placed, mask], call.where)


def expand_as(call: Call) -> Result:
    """The first tensor, spread over the shape of the second one."""
    return moved(call["self"], lambda t: t.expand(call.shapes[0]))


def copied(call: Call) -> Result:
    """A tensor written over by another one."""
    return moved(replace(call["src"], content=object()), lambda t: t.expand(call.shapes[0]))


def index_put(call: Call) -> Result:
    """A copy with elements overwritten at constant places by numbers that belong to no units."""
    indices = [None if item is None else item.value for item in call["indices"]]
    known = all(v is not None for v, item in zip(indices, call["indices"], strict=True) if item is not None)
    if not known or call["values"].slots:
        return unknown(call)
    shape = call["self"].shape
    there = torch.zeros(shape, dtype=torch.bool)
    there[tuple(slice(None) if index is None else index for index in indices)] = True
    mask = of_constant(there, "where it was written")
    values = combine(
        [fold(call["values"].position, range(len(call["values"].shape))).reshape([1] * len(shape))]
    )
    places = grid(shape, range(len(shape))) if call["values"].position.numel() > 1 else constant(shape)
    written = Label((), combine([values.expand(shape), places]), call["values"].origin)
    return pointwise(call.units, [call["self"], written, mask], call.where)


def like(call: Call) -> Result:
    """A constant tensor shaped like another one."""
    rest = {key: value for key, value in call.arguments.items() if not isinstance(value, Label)}
    rest = {key: value for key, value in rest.items() if value is not None and key != "device"}
    if call.name == "aten::zero":
        return of_constant(torch.zeros(call.shapes[0]))
    return of_constant(call.run(torch.empty(call["self"].shape), **rest))


def blank(call: Call) -> Result:
    """Memory that will be written over before it is read: it counts as zeros."""
    return of_constant(torch.zeros(call.shapes[0]))


def _move_by_index(call: Call, tensor: Tensor) -> Tensor:
    """Run a data movement that is defined for floating point only on the elements' numbers."""
    rest: dict[str, Any] = {key: value for key, value in call.arguments.items() if key != "self"}
    numbers = torch.arange(tensor.numel(), dtype=torch.float64).view(tensor.shape)
    return tensor.reshape(-1)[call.run(numbers, **rest).long()]

"""Operations that only move elements: the operation itself runs on the variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.symmetry.labels import compress, constant, core, varying
from isthmus.symmetry.rescale.call import Call, Result, broadcasted, operand, unknown
from isthmus.symmetry.rescale.charges import NOTHING, Charge, moved, narrowed, reshaped, squashed

_LOOKED_UP = "its elements are looked up by data"
_BLANKS = 1 << 18


def move(call: Call) -> Result:
    """Views, permutations and copies. A movement that depends on data has no rule."""
    name, *_ = call.arguments
    rest = {key: value for key, value in call.arguments.items() if key != name}
    if len(call.charges) > 1:
        return unknown(call)
    if not call.several:
        return moved(call[name], partial(call.run, **rest), call.shapes[0])

    def piece(number: int, tensor: Tensor) -> Tensor:
        pieces: Sequence[Tensor] = call.run(tensor, **rest)
        return pieces[number]

    return tuple(moved(call[name], partial(piece, n), shape) for n, shape in enumerate(call.shapes))


def reshape(call: Call) -> Result:
    """Views of another shape: variables of stride 0 cannot always be viewed, so they are reshaped."""
    if call.get("dtype") is not None:
        return unknown(call)
    return reshaped(call.one, call.shapes[0])


def triangle(call: Call) -> Result:
    """What is cut off is 0, and meets any charge."""
    return Charge(call.shapes[0], call.one.terms, call.one.zero)


def index(call: Call) -> Result:
    """Indexing; by data only along axes on which the charge does not depend."""
    charge, indices = call["self"], call["indices"]
    if any(isinstance(item, Charge) and item.value is None for item in indices):
        if any(isinstance(item, Charge) and len(item.shape) > 1 for item in indices) or None in indices[1:]:
            return unknown(call)
        charge = call.along(charge, [n for n, item in enumerate(indices) if item is not None], _LOOKED_UP)
        chosen = [None if item is None else torch.zeros(item.shape, dtype=torch.int64) for item in indices]
    else:
        chosen = [None if item is None else item.value for item in indices]
    return moved(charge, lambda t: call.run(t, chosen), call.shapes[0])


def index_select(call: Call) -> Result:
    """As `index`, along one axis."""
    charge, chosen = call["self"], call["index"].value
    if chosen is None:
        charge = call.along(charge, [call["dim"]], _LOOKED_UP)
        chosen = torch.zeros(call["index"].shape, dtype=torch.int64)
    return moved(charge, lambda t: call.run(t, call["dim"], chosen), call.shapes[0])


def gather(call: Call) -> Result:
    """Elements along one axis, looked up by data."""
    charge = call.along(call["self"], [call["dim"]], _LOOKED_UP)
    zeros = torch.zeros(call.shapes[0], dtype=torch.int64)
    return moved(charge, lambda t: t.gather(call["dim"], zeros), call.shapes[0])


def concatenate(call: Call) -> Result:
    """Tensors end to end along an axis."""
    parts = [part for part in call["tensors"] if part.shape != (0,)]
    return _end_to_end(call, parts, call.get("dim", 0) % len(parts[0].shape))


def stack(call: Call) -> Result:
    """Tensors side by side along a new axis."""
    dim = call.get("dim", 0) % len(call.shapes[0])
    parts = [reshaped(p, [*p.shape[:dim], 1, *p.shape[dim:]]) for p in call["tensors"]]
    return _end_to_end(call, parts, dim)


def _end_to_end(call: Call, parts: Sequence[Charge], dim: int) -> Charge:
    """Charges laid end to end."""
    if all(part.zero for part in parts):
        return Charge(call.shapes[0], zero=True)
    return _together(call, parts, dim, lambda tensors: torch.cat(tensors, dim))


def _together(
    call: Call, parts: Sequence[Charge], dim: int | None, run: Callable[[list[Tensor]], Tensor]
) -> Charge:
    """The charge of a tensor put together of others: their terms of one coefficient side by side.

    A part that is 0 gets variables of its own, since its factors are anybody's choice.
    """
    axes = {dim} if dim is not None else set()
    axes = axes.union(*(varying(ids) for part in parts for _, ids in part.terms))
    parts = [_blank(call, part, axes) if part.zero else part for part in parts]
    shape = call.shapes[0]
    terms: list[tuple[int, Tensor]] = []
    for coefficient in dict.fromkeys(c for part in parts for c, _ in part.terms):
        mine = [[ids for c, ids in part.terms if c == coefficient] for part in parts]
        for number in range(max(len(layers) for layers in mine)):
            layer = [
                layers[number] if number < len(layers) else constant(part.shape, NOTHING)
                for layers, part in zip(mine, parts, strict=True)
            ]
            terms.append((coefficient, _laid(layer, axes, shape, run, dim)))
    return Charge(shape, call.equations.tidy(terms))


def _laid(
    layer: Sequence[Tensor],
    axes: set[int],
    shape: tuple[int, ...],
    run: Callable[[list[Tensor]], Tensor],
    dim: int | None,
) -> Tensor:
    """Variables put together; along axes on which no part depends they stay of size 1."""
    if dim is None:
        return compress(run([ids.contiguous() for ids in layer]))
    pieces = [
        core(ids).expand([size if axis in axes else 1 for axis, size in enumerate(ids.shape)])
        for ids in layer
    ]
    return compress(run(pieces).expand(shape))


def _blank(call: Call, charge: Charge, axes: set[int]) -> Charge:
    """A part that is 0, with new variables along these axes."""
    sizes = [size if axis in axes else 1 for axis, size in enumerate(charge.shape)]
    if math.prod(sizes) > _BLANKS:
        return Charge(charge.shape)
    return Charge(charge.shape, ((1, call.equations.fresh(sizes).expand(charge.shape)),))


def pad(call: Call) -> Result:
    """Padding with a constant; other modes copy elements. Zeros meet any charge."""
    if call.get("mode", "constant") != "constant":
        return pad_by_copies(call)
    charge: Charge = call["self"]
    widths: list[int] = call["pad"]
    if any(width < 0 for width in widths):
        return (
            moved(charge, lambda t: F.pad(t, widths), call.shapes[0]) if max(widths) <= 0 else unknown(call)
        )
    filling = operand(0 if call.get("value") is None else call["value"])
    rank = len(charge.shape)
    for axis in range(rank):
        number = 2 * (rank - 1 - axis)
        if any(widths[number : number + 2]):
            charge = _padded(call, charge, axis, widths[number], widths[number + 1], filling.zero)
    return charge


def _padded(call: Call, charge: Charge, axis: int, before: int, after: int, zero: bool) -> Charge:
    """The charge with a constant before and after it along one axis."""
    shape = list(charge.shape)
    shape[axis] += before + after
    if charge.zero and zero:
        return Charge(tuple(shape), zero=True)
    if zero and not any(axis in varying(ids) for _, ids in charge.terms):
        return moved(charge, lambda t: t.narrow(axis, 0, 1).expand(shape), shape)
    parts = []
    for width in (before, after):
        size = [width if number == axis else n for number, n in enumerate(charge.shape)]
        parts.append(Charge(tuple(size), zero=zero))
    whole = [part for part in (parts[0], charge, parts[1]) if part.shape[axis]]
    return _together(_shaped(call, shape), whole, axis, lambda tensors: torch.cat(tensors, axis))


def _shaped(call: Call, shape: Sequence[int]) -> Call:
    """The call, as if its result had this shape."""
    return replace(call, shapes=(tuple(shape), *call.shapes[1:]))


def pad_by_copies(call: Call) -> Result:
    """Padding with the tensor's own elements (reflected, replicated, circular)."""
    rest: dict[str, Any] = {key: value for key, value in call.arguments.items() if key != "self"}

    def by_number(tensor: Tensor) -> Tensor:
        """Padding is defined for floating point only: run it on the elements' numbers."""
        numbers = torch.arange(tensor.numel(), dtype=torch.float64).view(tensor.shape)
        return tensor.reshape(-1)[call.run(numbers, **rest).long()]

    return moved(call["self"], by_number, call.shapes[0])


def overwrite(call: Call) -> Result:
    """A copy of one tensor with a part of it overwritten by another one: both keep their factors."""
    rest = {key: value for key, value in call.arguments.items() if key not in ("self", "src")}
    if len(call.charges) > 2:
        return unknown(call)
    return _together(call, [call["self"], call["src"]], None, lambda pair: call.run(*pair, **rest))


def blank(call: Call) -> Result:
    """Memory that will be written over before it is read, and zeros."""
    return Charge(call.shapes[0], zero=True)


def view_as_complex(call: Call) -> Result:
    """The two parts of a number have one factor."""
    charge = call.along(call.one, [-1])
    return reshaped(narrowed(charge, len(charge.shape) - 1, 0, 1), call.shapes[0])


def view_as_real(call: Call) -> Result:
    """The two parts of a number have its factor."""
    whole = reshaped(call.one, [*call.one.shape, 1])
    return moved(whole, lambda t: t.expand(call.shapes[0]), call.shapes[0])


def windows(call: Call) -> Result:
    """The places of every window beside one another, channel by channel (im2col)."""
    charge = call.along(call["self"], [-2, -1], "a window reads many places")
    times = math.prod(call["kernel_size"])
    channels = reshaped(squashed(charge, [-2, -1]), [*charge.shape[:-2], 1])
    shape = [*channels.shape[:-2], channels.shape[-2] * times, 1]
    return broadcasted(moved(channels, lambda t: t.repeat_interleave(times, -2), shape), call.shapes[0])


def windows_added(call: Call) -> Result:
    """Windows put back to their places, where they are added (col2im)."""
    times = math.prod(call["kernel_size"])
    *rest, rows, columns = call["self"].shape
    charge = reshaped(call["self"], [*rest, rows // times, times, columns])
    charge = squashed(call.along(charge, [-2, -1], "windows are added"), [-2, -1])
    return broadcasted(charge, call.shapes[0])

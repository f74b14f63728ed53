"""Pointwise functions, reductions, normalisations, and operations that read their input in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from isthmus.symmetry.labels import (
    Label,
    combine,
    grid,
    in_order,
    join,
    of_constant,
    pointwise,
    reduce,
)
from isthmus.symmetry.rules.call import Call, Result, axes_of, moved, picked, reshaped, unknown
from isthmus.symmetry.units import Units

# Functions that send different elements to different ones, but by chance. A masked element counts as one that
# is not meant to be chosen: so routers mask groups of experts.
_ONE_TO_ONE = frozenset(
    f"aten::{name}"
    for name in (
        *("neg", "exp", "log", "sigmoid", "tanh", "softplus", "silu", "gelu", "mish", "sin", "cos", "erf"),
        *("add", "sub", "mul", "div", "true_divide", "divide", "multiply", "subtract", "rsub", "pow", "sqrt"),
        *("rsqrt", "square", "expm1", "log1p", "reciprocal", "leaky_relu", "elu", "selu", "masked_fill"),
    )
)


def elementwise(call: Call) -> Result:
    """The same function of every element: the tensors meet index by index."""
    result = pointwise(call.units, call.labels, call.where)
    return replace(result, distinct=call.name in _ONE_TO_ONE and _stays_distinct(call))


def _stays_distinct(call: Call) -> bool:
    """Whether elements of the result are equal by chance only: no factor is 0, and nothing cancels."""
    labels, kind = call.labels, call.name.removeprefix("aten::")
    if any(not isinstance(x, bool) and x == 0 for x in (call.get("other", 1), call.get("exponent", 1))):
        return False
    if kind in ("mul", "multiply"):
        return all(x.distinct or (x.value is not None and bool((x.value != 0).all())) for x in labels)
    if "div" in kind:
        return labels[0].distinct and call.get("rounding_mode") is None
    if kind in ("sub", "subtract", "rsub"):
        return sum(label.distinct for label in labels) == 1
    return any(label.distinct for label in labels)


def prelu(call: Call) -> Result:
    """One slope for all, or one a channel; channels are axis 1."""
    label, slope = call.labels
    trailing = max(len(label.shape) - 2, 0)
    slope = moved(slope, lambda t: t.reshape(-1, *[1] * trailing) if t.numel() > 1 else t.reshape(()))
    return pointwise(call.units, [label, slope], call.where)


def triangle(call: Call) -> Result:
    """Elements on one side of the diagonal are kept: rows and columns are told apart by a mask."""
    label = call["self"]
    mask = call.run(torch.ones(label.shape[-2:]), diagonal=call["diagonal"])
    return pointwise(call.units, [label, of_constant(mask, "a triangular mask")], call.where)


def gated(call: Call) -> Result:
    """The one half along an axis times the sigmoid of the other (GLU)."""
    dim = call["dim"]
    half = call["self"].shape[dim] // 2

    def piece(start: int) -> Label:
        return picked(call.units, call["self"], lambda t: t.narrow(dim, start, half), call.where)

    return pointwise(call.units, [piece(0), piece(half)], call.where)


def dropout(call: Call) -> Result:
    """The identity at evaluation; with training=True its masks are random and cannot be followed."""
    if call.get("train", call.get("training", False)):
        return unknown(call)
    return call["input"] if call.get("input") is not None else call.labels[0]


def over(units: Units, label: Label, axes: Sequence[int], where: str) -> Label:
    """A symmetric function (sum, maximum, variance) of the elements along these axes, kept with size 1."""
    slots, positions = join(units, [label], where)
    return reduce(units, slots, positions, axes, where, label.origin)


_KEEP_DISTINCT = {f"aten::{name}" for name in ("sum", "mean", "amax", "amin", "max", "min", "logsumexp")}


def reduction(call: Call) -> Result:
    """Sums, means, extrema, norms: only the multiset of what is reduced matters."""
    label = call.labels[0]
    axes = axes_of(call.get("dim"), len(label.shape))
    small = over(call.units, label, axes, call.where) if label.shape else pointwise(call.units, [label], "")
    small = replace(small, distinct=label.distinct and call.name in _KEEP_DISTINCT)
    results = [reshaped(small, shape) for shape in call.shapes]
    return tuple(results) if call.several else results[0]


def extremum(call: Call) -> Result:
    """The values of max and min over an axis; their indices read the order. Of two tensors: pointwise."""
    if "other" in call.arguments:
        return elementwise(call)
    if call.several and 1 in call.used:
        return unknown(call)
    return reduction(call)


def normalised(units: Units, label: Label, axes: Sequence[int], where: str) -> Label:
    """Every element meets a symmetric function of the elements along these axes."""
    return pointwise(units, [label, over(units, label, axes, where)], where)


def softmax(call: Call) -> Result:
    """Exponentials over their sum along one axis."""
    return normalised(call.units, call["self"], axes_of(call["dim"], len(call["self"].shape)), call.where)


def layer_norm(call: Call) -> Result:
    """Statistics over the last axes, then scale and shift (also RMS norm)."""
    label = call["input"]
    rank, last = len(label.shape), len(call["normalized_shape"])
    result = normalised(call.units, label, range(rank - last, rank), call.where)
    return _affine(call, result, [call.get("weight"), call.get("bias")], 0)


def batch_norm(call: Call) -> Result:
    """Channels are axis 1; pointwise with stored statistics, otherwise those of the batch meet it."""
    label = call["input"]
    trailing = len(label.shape) - 2
    stored = [call.get("running_mean"), call.get("running_var")]
    if call.get("training", "no_training" not in call.name) or stored[0] is None:
        stored = []
        label = normalised(call.units, label, [0, *range(2, trailing + 2)], call.where)
    result = _affine(call, label, [call["weight"], call["bias"], *stored], trailing)
    return (result, *[None] * (len(call.shapes) - 1)) if call.several else result


def group_norm(call: Call) -> Result:
    """Statistics over each group of channels and all places."""
    label, groups = call["input"], call["num_groups"]
    batch, channels, *places = label.shape
    split = moved(label, lambda t: t.reshape(batch, groups, channels // groups, *places))
    result = normalised(call.units, split, range(2, len(places) + 3), call.where)
    result = moved(result, lambda t: t.reshape(label.shape))
    return _affine(call, result, [call.get("weight"), call.get("bias")], len(places))


def instance_norm(call: Call) -> Result:
    """Statistics over the places of each channel, or stored ones."""
    label = call["input"]
    trailing = len(label.shape) - 2
    stored = [call["running_mean"], call["running_var"]]
    if call["use_input_stats"]:
        stored = []
        label = normalised(call.units, label, range(2, trailing + 2), call.where)
    return _affine(call, label, [call["weight"], call["bias"], *stored], trailing)


def _affine(call: Call, label: Label, vectors: Sequence[Label | None], trailing: int) -> Label:
    """Vectors meet the axis that has `trailing` axes behind it."""
    present = [
        moved(vector, lambda t: t.reshape(*t.shape, *[1] * trailing))
        for vector in vectors
        if vector is not None
    ]
    return pointwise(call.units, [label, *present], call.where) if present else label


def ordered(call: Call, label: Label, axes: Sequence[int], shape: Sequence[int]) -> Label:
    """A function that reads these axes in order; along them every result has a place of its own."""
    small = in_order(call.units, label, axes, call.where)
    slots = tuple(slot.expand(tuple(shape)) for slot in small.slots)
    places = grid(shape, axes)
    position = combine([small.position.expand(tuple(shape)), places])
    return replace(small, slots=slots, position=position, origin=small.origin or "their places")


def pooling(call: Call) -> Result:
    """Pooling over the trailing axes: windows read places in order; a global average does not."""
    label, shape = call.labels[0], call.shapes[0]
    if call.several and 1 in call.used:
        return unknown(call)
    axes = [axis for axis in range(len(shape)) if axis >= len(shape) - _pooled(call)]
    result = ordered(call, label, axes, shape)
    return (result, *[None] * (len(call.shapes) - 1)) if call.several else result


def global_pooling(call: Call) -> Result:
    """Adaptive pooling to one place is a reduction, to more it reads places in order."""
    label, shape = call.labels[0], call.shapes[0]
    axes = range(len(shape) - _pooled(call), len(shape))
    if any(shape[axis] != 1 for axis in axes) or call.several:
        return pooling(call)
    return over(call.units, label, axes, call.where)


def _pooled(call: Call) -> int:
    """The number of axes that a pooling operation spans, from its name."""
    return next(n for n in (1, 2, 3) if f"{n}d" in call.name)


def scan(call: Call) -> Result:
    """Cumulative functions read one axis in order."""
    label = call["self"]
    result = ordered(call, label, axes_of(call["dim"], len(label.shape)), call.shapes[0])
    return (result, *[None] * (len(call.shapes) - 1)) if call.several else result


def fourier(call: Call) -> Result:
    """Fourier transforms read their axes in order."""
    label = call["self"]
    return ordered(call, label, axes_of(call["dim"], len(label.shape)), call.shapes[0])


def overlapped(call: Call) -> Result:
    """Sliding blocks added up (col2im): the places inside the kernel and of the blocks tell units apart."""
    shape = call.shapes[0]
    kernel = math.prod(call["kernel_size"])
    *front, rows, columns = call["self"].shape
    label = moved(call["self"], lambda t: t.reshape(*front, rows // kernel, kernel, columns))
    small = in_order(call.units, label, [len(front) + 1, len(front) + 2], call.where)
    position = combine([small.position.expand(shape), grid(shape, [len(shape) - 2, len(shape) - 1])])
    return replace(small, slots=tuple(slot.expand(shape) for slot in small.slots), position=position)


def as_pairs(call: Call) -> Result:
    """Complex numbers as pairs along a new last axis."""
    shape = call.shapes[0]
    pairs = moved(call["self"], lambda t: t.unsqueeze(-1))
    return pointwise(
        call.units, [pairs, Label((), grid(shape, [len(shape) - 1]), "their places")], call.where
    )


def from_pairs(call: Call) -> Result:
    """Pairs along the last axis as complex numbers."""
    label = call["self"]
    small = in_order(call.units, label, [len(label.shape) - 1], call.where)
    return moved(small, lambda t: t.squeeze(-1))


def weight_norm(call: Call) -> Result:
    """V divided by its norm over all axes but one, times g."""
    label, dim = call["v"], call["dim"]
    rank = len(label.shape)
    others = [axis for axis in range(rank) if dim == -1 or axis != dim % rank]
    return pointwise(call.units, [normalised(call.units, label, others, call.where), call["g"]], call.where)


def distances(call: Call) -> Result:
    """The distance of every row of one tensor from every row of another."""
    first = moved(call["x1"], lambda t: t.unsqueeze(-2))
    second = moved(call["x2"], lambda t: t.unsqueeze(-3))
    difference = pointwise(call.units, [first, second], call.where)
    return moved(
        over(call.units, difference, [len(difference.shape) - 1], call.where), lambda t: t.squeeze(-1)
    )

"""Reductions, norms, pooling, and what reads its input in order."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from isthmus.symmetry.rescale.call import Call, Result, axes_of, summed, unknown
from isthmus.symmetry.rescale.charges import Charge, moved, reshaped
from isthmus.symmetry.rescale.functions import NOT_ODD

_EPSILON = "the small number which it adds to a variance keeps its input from being scaled"


def linear_along(call: Call) -> Result:
    """Linear functions of the elements along axes: sums and means, or scans and Fourier transforms."""
    axes = axes_of(call.get("dim"), len(call.one.shape))
    if call.shapes[0] == call.one.shape or "fft" in call.name:
        return _restored(call.along(call.one, axes), call.shapes[0])
    return summed(call, call.one, axes, call.shapes[0])


def _restored(charge: Charge, shape: Sequence[int]) -> Charge:
    """The charge, constant along all axes whose size changed, in another shape."""

    def stretch(ids: Tensor) -> Tensor:
        for axis, size in enumerate(shape):
            if ids.shape[axis] != size:
                ids = ids.narrow(axis, 0, 1)
        return ids.expand(tuple(shape))

    return moved(charge, stretch, shape)


def norm(call: Call) -> Result:
    """Norms: signs vanish, scales pass."""
    if call.signs:
        return call.all_neutral()
    if call.get("ord", call.get("p", 2)) == 0:
        return call.all_neutral()
    axes = axes_of(call.get("dim"), len(call.one.shape))
    return summed(call, call.one, axes, call.shapes[0])


def spread_of(call: Call) -> Result:
    """Variances (degree 2) and standard deviations (degree 1), with the mean beside them or not."""
    axes = axes_of(call.get("dim"), len(call.one.shape))
    mean = summed(call, call.one, axes, call.shapes[0])
    spread = call.power(mean, 2) if "var" in call.name or call.signs else mean
    return (spread, mean) if call.several else spread


def product_along(call: Call) -> Result:
    """The product of n elements of one factor."""
    axes = axes_of(call.get("dim"), len(call.one.shape))
    count = 1
    for axis in axes:
        count *= call.one.shape[axis]
    return call.power(summed(call, call.one, axes, call.shapes[0]), count)


def extremum(call: Call) -> Result:
    """The largest or smallest along axes, with its index or not; the elements have one positive factor."""
    if "other" in call.arguments:
        return call.pinned(NOT_ODD) if call.signs else call.spread(call.meet(call.charges))
    if call.signs:
        return call.pinned(NOT_ODD)
    axes = axes_of(call.get("dim"), len(call.one.shape))
    value = summed(call, call.one, axes, call.shapes[0])
    return (value, *(call.neutral(n) for n in range(1, len(call.shapes)))) if call.several else value


def place_of_extremum(call: Call) -> Result:
    """Where the largest or smallest is."""
    if call.signs:
        return call.pinned(NOT_ODD)
    call.along(call.one, axes_of(call.get("dim"), len(call.one.shape)))
    return call.all_neutral()


def ordered(call: Call) -> Result:
    """Sorting, and the largest few, along an axis."""
    if call.signs:
        return call.pinned(NOT_ODD)
    dim = call.get("dim", -1)
    values = _restored(call.along(call.one, axes_of(dim, len(call.one.shape))), call.shapes[0])
    return values, call.neutral(1)


def softmax(call: Call) -> Result:
    """Exponentials over their sum: a shift in logarithms is no scaling."""
    return call.pinned("no factor passes an exponential")


def layer_norm(call: Call) -> Result:
    """Statistics over the last axes; RMS norm does not take away a mean, so every element keeps its sign."""
    charge = call["input"]
    rank, last = len(charge.shape), len(call["normalized_shape"])
    axes = list(range(rank - last, rank))
    centred = "layer_norm" in call.name
    result = charge if call.signs and not centred else call.along(charge, axes)
    return _affine(call, _normalised(call, result), 0)


def group_norm(call: Call) -> Result:
    """Statistics over each group of channels and all places."""
    charge, groups = call["input"], call["num_groups"]
    batch, channels, *places = charge.shape
    split = reshaped(charge, [batch, groups, channels // groups, *places])
    result = _normalised(call, call.along(split, range(2, len(places) + 3)))
    return _affine(call, reshaped(result, charge.shape), len(places))


def batch_norm(call: Call) -> Result:
    """Channels are axis 1; statistics are stored, or those of the batch."""
    charge = call["input"]
    trailing = len(charge.shape) - 2
    mean, variance = call.get("running_mean"), call.get("running_var")
    if call.get("training", "no_training" not in call.name) or mean is None:
        result = _normalised(call, call.along(charge, [0, *range(2, trailing + 2)]))
    else:
        result = _standardised(call, charge, mean, variance, trailing)
    result = _affine(call, result, trailing)
    return (result, *[None] * (len(call.shapes) - 1)) if call.several else result


def instance_norm(call: Call) -> Result:
    """Statistics over the places of each channel, or stored ones."""
    charge = call["input"]
    trailing = len(charge.shape) - 2
    if call["use_input_stats"]:
        result = _normalised(call, call.along(charge, range(2, trailing + 2)))
    else:
        result = _standardised(call, charge, call["running_mean"], call["running_var"], trailing)
    return _affine(call, result, trailing)


def _normalised(call: Call, charge: Charge) -> Charge:
    """X / sqrt(mean x² + ε): a sign stays; a scale vanishes, and ε forbids it."""
    if call.signs:
        return charge
    if call.get("eps", 1.0) != 0:
        call.still(charge, _EPSILON)
    return Charge(charge.shape)


def _standardised(call: Call, charge: Charge, mean: Charge, variance: Charge, trailing: int) -> Charge:
    """(x - mean) / sqrt(variance + ε): the mean follows the input, and the variance its square."""
    mean, variance = (_laid(vector, trailing) for vector in (mean, variance))
    centred = call.meet([charge, mean])
    if call.get("eps", 1.0) != 0:
        call.still(variance, _EPSILON)
        return _normalised(call, centred)
    return call.product([centred, call.power(variance, -1, 2)])


def _affine(call: Call, charge: Charge, trailing: int) -> Charge:
    """Scale and shift of the axis that has `trailing` axes behind it."""
    weight, bias = call.get("weight"), call.get("bias")
    if weight is not None:
        charge = call.product([charge, _laid(weight, trailing)])
    return charge if bias is None else call.meet([charge, _laid(bias, trailing)])


def _laid(vector: Charge, trailing: int) -> Charge:
    return reshaped(vector, [*vector.shape, *[1] * trailing])


def pooling(call: Call) -> Result:
    """Pooling and interpolation over the trailing axes, along which the charge is constant."""
    if call.signs and "max" in call.name:
        return call.pinned(NOT_ODD)
    shape = call.shapes[0]
    rank = next(n for n in (1, 2, 3) if f"{n}d" in call.name)
    axes = range(len(shape) - rank, len(shape))
    value = _restored(call.along(call.one, axes), shape)
    return (value, *(call.neutral(n) for n in range(1, len(call.shapes)))) if call.several else value


def prelu(call: Call) -> Result:
    """One slope for all, or one a channel."""
    charge, slope = call.charges
    if call.signs:
        return call.pinned(NOT_ODD)
    call.still(slope, "a slope may not change")
    return charge


def weight_norm(call: Call) -> Result:
    """G v / |v|, the norm over all axes but one: v may be scaled freely, its signs pass."""
    direction, length = call["v"], call["g"]
    dim = call["dim"]
    axes = [axis for axis in range(len(direction.shape)) if axis != dim]
    if call.signs:
        return call.product([direction, length])
    if dim < 0:
        return unknown(call)
    call.along(direction, axes)
    return call.spread(length)

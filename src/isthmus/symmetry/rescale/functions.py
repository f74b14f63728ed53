"""Functions of single elements: which factors they let through."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from isthmus.symmetry.rescale.call import Call, Result, operand, unknown
from isthmus.symmetry.rescale.charges import Charge, narrowed

NOT_ODD = "it is not odd, so no sign passes it"
NOT_HOMOGENEOUS = "it is not positively homogeneous, so no scale passes it"


def passing(call: Call) -> Result:
    """f(a x) = a f(x) for all a: copies, negation, parts of complex numbers."""
    return call.spread(call.one)


def odd(call: Call) -> Result:
    """f(-x) = -f(x)."""
    return call.spread(call.one) if call.signs else call.pinned(NOT_HOMOGENEOUS)


def even(call: Call) -> Result:
    """f(-x) = f(x)."""
    return call.all_neutral() if call.signs else call.pinned(NOT_HOMOGENEOUS)


def homogeneous(call: Call) -> Result:
    """f(a x) = a f(x) for a > 0; further arguments, slopes say, may not change."""
    if call.signs:
        return call.pinned(NOT_ODD)
    for other in call.charges[1:]:
        call.still(other, "a slope may not change")
    return call.spread(call.one)


def magnitude(call: Call) -> Result:
    """f(a x) = |a| f(x)."""
    return call.all_neutral() if call.signs else call.spread(call.one)


def sign(call: Call) -> Result:
    """f(a x) = f(x) for a > 0, and f(-x) = -f(x)."""
    return call.spread(call.one) if call.signs else call.all_neutral()


def invariant(call: Call) -> Result:
    """What depends only on whether its arguments are 0, or finite."""
    return call.all_neutral()


def neither(call: Call) -> Result:
    """No factor passes it."""
    return call.pinned(NOT_ODD if call.signs else NOT_HOMOGENEOUS)


def sum_of_two(call: Call) -> Result:
    """Sums and differences: both sides have one factor."""
    return call.spread(call.meet([operand(call["self"]), operand(call["other"])]))


def product_of_two(call: Call) -> Result:
    """Products multiply factors."""
    return call.product([operand(call["self"]), operand(call["other"])])


def quotient(call: Call) -> Result:
    """Quotients divide factors; one that rounds, or divides by 0, has none."""
    if call.get("rounding_mode") is not None or operand(call["other"]).zero:
        return call.pinned("it rounds, or divides by zero")
    return call.product([operand(call["self"]), operand(call["other"])], [1, -1])


def power(call: Call) -> Result:
    """X to a number that is known."""
    exponent = call.get("exponent")
    if isinstance(call["self"], Charge) and isinstance(exponent, Charge) and exponent.value is not None:
        exponent = exponent.value.item() if exponent.value.numel() == 1 else exponent
    if not isinstance(call["self"], Charge) or not isinstance(exponent, (int, float)):
        return call.pinned("no factor passes an exponential")
    return _raised(call, call["self"], exponent)


def raised(exponent: float) -> Any:
    """The rule of a fixed power."""
    return lambda call: _raised(call, call.one, exponent)


def _raised(call: Call, charge: Charge, exponent: float) -> Charge:
    fraction = Fraction(exponent).limit_denominator(12)
    if fraction != Fraction(exponent):
        call.still(charge, "no simple power")
        return call.neutral()
    return call.power(charge, fraction.numerator, fraction.denominator)


def product_added(call: Call) -> Result:
    """Self + value * first * second, or first / second."""
    powers = [1, -1 if "div" in call.name else 1]
    if powers[1] < 0 and call["tensor2"].zero:
        return call.pinned("it divides by zero")
    added = call.product([call["tensor1"], call["tensor2"]], powers)
    return call.spread(call.meet([call["self"], added]))


def interpolated(call: Call) -> Result:
    """Self + weight * (end - self)."""
    if isinstance(call["weight"], Charge):
        call.still(call["weight"], "a weight of interpolation may not change")
    return call.spread(call.meet([call["self"], call["end"]]))


def extremum_of_two(call: Call) -> Result:
    """The larger or smaller of two: both have one positive factor."""
    if call.signs:
        return call.pinned(NOT_ODD)
    return call.spread(call.meet([operand(call["self"]), operand(call["other"])]))


def hypotenuse(call: Call) -> Result:
    """The root of the sum of two squares."""
    return call.all_neutral() if call.signs else call.spread(call.meet(call.charges))


def clamped(call: Call) -> Result:
    """Bounds of 0 (or none) let scales pass, bounds ±b signs."""
    low = call.get("min", call.get("min_val"))
    high = call.get("max", call.get("max_val"))
    if isinstance(low, Charge) or isinstance(high, Charge):
        return unknown(call)
    if not call.signs:
        return homogeneous(call) if low in (None, 0) and high in (None, 0) else neither(call)
    symmetric = low is not None and high is not None and low == -high
    return odd(call) if symmetric or (low is None and high is None) else neither(call)


def compared(call: Call) -> Result:
    """Comparisons stay if both sides have one factor, which is positive unless they ask for equality."""
    if call.signs and not call.name.endswith(("::eq", "::ne")):
        return call.pinned(NOT_ODD)
    call.meet([operand(call["self"]), operand(call["other"])])
    return call.all_neutral()


def chosen(call: Call) -> Result:
    """`where`: what is chosen from has one factor."""
    call.still(call["condition"], "a condition may not change")
    return call.spread(call.meet([operand(call["self"]), operand(call["other"])]))


def masked(call: Call) -> Result:
    """Elements overwritten by one value."""
    call.still(call["mask"], "a mask may not change")
    return call.spread(call.meet([call["self"], operand(call["value"])]))


def filled(call: Call) -> Result:
    """All elements are one value."""
    return call.spread(operand(call["value"]))


def copied(call: Call) -> Result:
    """Elements overwritten by those of another tensor."""
    return call.spread(call["src"])


def cast(call: Call) -> Result:
    """To another dtype: floating point and complex keep factors, whether an element is 0 needs none."""
    dtype = call.dtypes[0]
    if dtype.is_floating_point or dtype.is_complex:
        return passing(call)
    return call.all_neutral() if dtype.itemsize == 1 and "bool" in str(dtype) else call.pinned("it rounds")


def dropout(call: Call) -> Result:
    """The identity at evaluation."""
    if call.get("train", call.get("training", False)):
        return unknown(call)
    return passing(call)


def gated(call: Call) -> Result:
    """The first half along an axis times the sigmoid of the second (GLU)."""
    charge, dim = call["self"], call["dim"] % len(call["self"].shape)
    half = charge.shape[dim] // 2
    call.still(narrowed(charge, dim, half, half), "no factor passes a sigmoid")
    return narrowed(charge, dim, 0, half)


def polar(call: Call) -> Result:
    """A complex number of an absolute value and an angle."""
    call.still(call["angle"], "no factor passes an angle")
    return call.spread(call["abs"])


def complex_parts(call: Call) -> Result:
    """A complex number of its parts, which have one factor."""
    return call.spread(call.meet([call["real"], call["imag"]]))


def argument(call: Call) -> Result:
    """The angle of a complex number keeps under positive factors."""
    return call.pinned(NOT_ODD) if call.signs else call.all_neutral()


def x_log_y(call: Call) -> Result:
    """X log y."""
    if not isinstance(call["self"], Charge) or not isinstance(call["other"], Charge):
        return unknown(call)
    call.still(call["other"], "no factor passes a logarithm")
    return call.spread(call["self"])

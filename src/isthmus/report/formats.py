"""Numbers as people read them: one function for each kind of number."""

from __future__ import annotations

import math

_NOT_A_NUMBER = "not a number"
_MINUS = "−"
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def percent(share: float) -> str:
    """A share of examples, in per cent with two decimals.

    Example:
        >>> percent(0.0827)
        '8.27 %'
    """
    return _special(share) or f"{_fixed(100 * share, 2)} %"


def percent_interval(low: float, high: float) -> str:
    """An interval of a share, in per cent; the sign stands with the value beside it.

    Example:
        >>> percent_interval(-0.001, 0.0189)
        '[−0.10, 1.89]'
    """
    return f"[{_special(low) or _fixed(100 * low, 2)}, {_special(high) or _fixed(100 * high, 2)}]"


def plain_loss(value: float) -> str:
    """A loss, with four decimals where it is of ordinary size.

    Example:
        >>> plain_loss(1.32874), plain_loss(12.34567), plain_loss(3.2e-7)
        ('1.3287', '12.35', '3.2 × 10⁻⁷')
    """
    size = abs(value)
    if _special(value) or value == 0:
        return _special(value) or "0"
    if size < 1e-4 or size >= 1e5:
        return significant(value, 2)
    return _fixed(value, 4 if size < 10 else 2)


def loss_interval(low: float, high: float) -> str:
    """An interval of a loss; a low end that is nothing beside the high one is written with its decimals.

    Example:
        >>> loss_interval(0.0077, 0.0421), loss_interval(6e-5, 0.0388)
        ('[0.0077, 0.0421]', '[0.0001, 0.0388]')
    """
    small = 0 < abs(low) < 1e-4 <= abs(high) < 10
    return f"[{_fixed(low, 4) if small else plain_loss(low)}, {plain_loss(high)}]"


def quantity(of: str, value: float) -> str:
    """A loss or an error, as its kind is written."""
    return percent(value) if of == "error" else plain_loss(value)


def interval(of: str, low: float, high: float) -> str:
    """An interval of a loss or an error."""
    return percent_interval(low, high) if of == "error" else loss_interval(low, high)


def significant(value: float, digits: int) -> str:
    """A number with this many significant digits, as a power of ten only where it is very small or large.

    Example:
        >>> significant(14.7, 4), significant(1234567.0, 3), significant(-0.5, 2)
        ('14.70', '1.23 × 10⁶', '−0.50')
    """
    special = _special(value)
    if special or value == 0:
        return special or "0"
    exponent = math.floor(math.log10(abs(value)))
    if -5 < exponent < 5:
        return _fixed(value, max(0, digits - 1 - exponent))
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa} × 10{str(int(power)).translate(_SUPERSCRIPTS)}".replace("-", _MINUS)


def tick(value: float) -> str:
    """A round number on an axis.

    Example:
        >>> tick(0.05), tick(20), tick(-5), tick(2e-7)
        ('0.05', '20', '−5', '2 × 10⁻⁷')
    """
    if value and not 1e-4 <= abs(value) < 1e5:
        return significant(value, 1)
    return f"{value:g}".replace("-", _MINUS)


def count(number: int) -> str:
    """A whole number, with a comma between the thousands.

    Example:
        >>> count(10000)
        '10,000'
    """
    return f"{number:,}"


def position(t: float) -> str:
    """A position on a path, in [0, 1]."""
    return f"{t:.3f}"


def ratio(one: float, other: float) -> str:
    """How many times `other` goes into `one`, with three decimals.

    Example:
        >>> ratio(22.3, 22.1), ratio(1.0, 0.0)
        ('1.009', '—')
    """
    return _special(one / other) or f"{one / other:.3f}" if other else "—"


def group_size(log2_order: float) -> str:
    """The size of a finite group, as a power of ten.

    Example:
        >>> group_size(0.0), group_size(10.0), group_size(592.0)
        ('1', '1,024', '10¹⁷⁸')
    """
    if log2_order < 20:
        return count(round(2**log2_order))
    return f"10{str(round(log2_order * math.log10(2))).translate(_SUPERSCRIPTS)}"


def tolerance(share: float) -> str:
    """A tolerance, in per cent without needless zeros.

    Example:
        >>> tolerance(0.02), tolerance(0.005)
        ('2 %', '0.5 %')
    """
    return f"{100 * share:.4g} %"


def coverage(level: float) -> str:
    """The coverage of an interval, or another share told roughly.

    Example:
        >>> coverage(0.95)
        '95 %'
    """
    return f"{100 * level:.3g} %"


def split_name(split: str) -> str:
    """What a data split is called in prose."""
    return {"train": "train", "test": "held-out"}.get(split, split)


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return (text[1:] if float(text) == 0 and text[0] == "-" else text).replace("-", _MINUS)


def _special(value: float) -> str:
    if math.isnan(value):
        return _NOT_A_NUMBER
    return "" if math.isfinite(value) else ("∞" if value > 0 else f"{_MINUS}∞")

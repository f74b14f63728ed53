"""The scale on which a surface is read: logarithmic, with contours that close around low regions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.errors import SettingError

LEVELS = 14
"""Contours between the lowest and the highest value drawn."""
DECADES = 4.0
"""The scale spans at most this many powers of ten."""
_WIDE = 10.0
"""Positive values whose highest is this many times the lowest are drawn by their own logarithm."""
_STEP = 0.01
"""Elsewhere the logarithm is of the height above the lowest value, plus this share of the range."""


@dataclass(frozen=True)
class Scale:
    """From values to heights on a map: log10(value − shift), or the value itself.

    Attributes:
        shift: what is taken off before the logarithm: 0 where the values are positive and span a power of
            ten, else a little less than the lowest value.
        low: the lowest height drawn.
        high: the highest height drawn.
        log: whether the scale is logarithmic.
    """

    shift: float
    low: float
    high: float
    log: bool

    def place(self, values: Tensor) -> Tensor:
        """Values as heights, clamped to the scale; what is not a number stands at the top."""
        placed = values.double().nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
        placed = (placed - self.shift).clamp_min(1e-300).log10() if self.log else placed
        return placed.clamp(self.low, self.high)

    def value(self, heights: Tensor) -> Tensor:
        """The values at these heights."""
        return 10.0 ** heights.double() + self.shift if self.log else heights.double()

    @property
    def range(self) -> float:
        """The highest height less the lowest."""
        return self.high - self.low

    @property
    def step(self) -> float:
        """The height between two contours."""
        return self.range / LEVELS

    @property
    def levels(self) -> Tensor:
        """The heights of the contours, shape (LEVELS,)."""
        return self.low + self.step * (torch.arange(LEVELS, dtype=torch.float64) + 0.5)


def scale_of(values: Tensor, log: bool = True) -> Scale:
    """The scale that suits these values.

    Positive values that span a power of ten are drawn by their logarithm (at most four powers of ten below
    the highest). Others, and those that reach zero or below, are drawn by the logarithm of their height above
    the lowest, to which a hundredth of the range is added. So contours are dense where the surface is low,
    and close around each basin.

    Args:
        values: of any shape; some must be finite.
        log: whether a logarithmic scale is wanted at all.

    Raises:
        SettingError: no value is finite.

    Example:
        >>> scale = scale_of(torch.tensor([0.01, 1.0, 10.0]))
        >>> [round(height, 6) for height in scale.place(torch.tensor([0.1, 1.0])).tolist()]
        [-1.0, 0.0]
        >>> round(scale_of(torch.tensor([-2.0, 3.0])).shift, 6)  # 0.05 below the lowest
        -2.05

    Source: Garipov et al. 2018, arXiv 1802.10026, figure 1 (levels on a logarithmic scale of the height above
    the lowest value).
    """
    fine = values[values.isfinite()].double()
    if not len(fine):
        raise SettingError("no value of this surface is finite: there is nothing to draw")
    low, high = float(fine.min()), float(fine.max())
    if not log:
        return _spread(0.0, low, high, log=False)
    wide = low > 0 and (high >= _WIDE * low or high == low)
    if not wide and high > low:
        shift = low - _STEP * (high - low)
    else:
        shift, log = 0.0, low > 0
    bottom = max(low - shift, (high - shift) / 10**DECADES)
    if not log:  # one value everywhere, and not positive
        return _spread(0.0, low, high, log=False)
    return _spread(shift, math.log10(bottom), math.log10(high - shift), log=True)


def _spread(shift: float, low: float, high: float, log: bool) -> Scale:
    """A scale that is never empty."""
    return Scale(shift, low, max(high, low + 1e-9 * max(1.0, abs(low))), log)

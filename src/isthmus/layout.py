"""Where each parameter of a network lies in its weight vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

NAMED_DIFFERENCES = 3
"""How many names an error gives of each kind before it only counts them."""


def is_coordinate(tensor: Tensor) -> bool:
    """Whether a parameter of this dtype is a coordinate: real or complex floating point."""
    return tensor.is_floating_point() or tensor.is_complex()


@dataclass(frozen=True)
class Layout:
    """Where each parameter of a network lies in its weight vector.

    Attributes:
        names: the parameters' names, in the module's own order; a tied parameter once.
        shapes: their shapes.
        dtypes: the dtypes that the owner keeps them in; the vector itself has the dtype `storage`.
        aliases: for a tied parameter, its other names: pairs (other name, name).
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    aliases: tuple[tuple[str, str], ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # no caches

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], aliases: Mapping[str, str] | None = None) -> Layout:
        """The layout of these named tensors in this order."""
        return cls(
            tuple(tensors),
            tuple(tuple(tensor.shape) for tensor in tensors.values()),
            tuple(tensor.dtype for tensor in tensors.values()),
            tuple((aliases or {}).items()),
        )

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Real coordinates of each parameter; a complex number counts two."""
        return tuple(
            math.prod(shape) * (2 if dtype.is_complex else 1)
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        )

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The place in the vector at which each parameter begins."""
        return tuple(accumulate(self.sizes, initial=0))[:-1]

    @cached_property
    def numel(self) -> int:
        """The length P of the vector."""
        return sum(self.sizes)

    @cached_property
    def storage(self) -> torch.dtype:
        """The dtype of the vector: the smallest of float32 and float64 that holds every parameter exactly."""
        wide = (torch.float64, torch.complex128)
        return torch.float64 if any(dtype in wide for dtype in self.dtypes) else torch.float32

    @cached_property
    def uniform(self) -> bool:
        """Whether every parameter has the vector's own dtype, so that a view is the parameter."""
        return all(dtype == self.storage for dtype in self.dtypes)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Position of each name; other names of tied parameters are included."""
        place = {name: position for position, name in enumerate(self.names)}
        return MappingProxyType(place | {other: place[name] for other, name in self.aliases})

    def view(self, vector: Tensor, position: int) -> Tensor:
        """The view of `vector` (shape (P,)) that is parameter number `position`."""
        start = self.offsets[position]
        flat = vector[start : start + self.sizes[position]]
        if self.dtypes[position].is_complex:
            return torch.view_as_complex(flat.view(*self.shapes[position], 2))
        return flat.view(self.shapes[position])

    def difference(self, other: Layout) -> str | None:
        """The first differences in names and shapes as a sentence, or None if there are none."""
        mine = dict(zip(self.names, self.shapes, strict=True))
        theirs = dict(zip(other.names, other.shapes, strict=True))
        return describe_difference(mine, theirs)


def describe_difference(
    expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]
) -> str | None:
    """The first missing names, unexpected names and differing shapes, as a sentence; None if equal."""
    missing = [name for name in expected if name not in got]
    extra = [name for name in got if name not in expected]
    reshaped = [
        f"{name} (expected {list(expected[name])}, got {list(got[name])})"
        for name in expected
        if name in got and tuple(expected[name]) != tuple(got[name])
    ]
    parts = [
        f"{label}: {', '.join(items[:NAMED_DIFFERENCES])}"
        + (f" and {len(items) - NAMED_DIFFERENCES} more" if len(items) > NAMED_DIFFERENCES else "")
        for label, items in (("missing", missing), ("unexpected", extra), ("other shape", reshaped))
        if items
    ]
    return "; ".join(parts) or None

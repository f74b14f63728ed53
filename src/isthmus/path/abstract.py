"""A path: control points, and coefficients that blend them.

Every path of the library is θ(t) = Σ_k c_k(t) w_k. A kind of path writes `coefficients`; the point, the
tangent, the length and the gradient of every control (c_k(t) times the gradient at the point) follow.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, overload

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.weights import Weights, combine

_LENGTH_POINTS = 1001


@dataclass(frozen=True, eq=False, repr=False)
class AbstractPath(abc.ABC):
    """Weights as a function of a position.

    Attributes:
        controls: the control points w_0 … w_n, of one layout.
    """

    controls: tuple[Weights, ...]
    kind: ClassVar[str]
    """The name of this kind of path in records."""
    fewest_controls: ClassVar[int] = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "controls", tuple(self.controls))
        if len(self.controls) < self.fewest_controls:
            raise SettingError(
                f"a {self.kind} needs at least {self.fewest_controls} control points, "
                f"got {len(self.controls)}"
            )
        for control in self.controls:
            if not isinstance(control, Weights):
                raise SettingError(
                    f"the controls of a {self.kind} are Weights, got {type(control).__name__}; make them "
                    "with Weights.from_module or load_weights"
                )
            self.controls[0]._match(control)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.controls)} controls of {self.controls[0].layout.numel:,})"

    @abc.abstractmethod
    def coefficients(self, t: Tensor) -> Tensor:
        """The coefficients c_k(t).

        Args:
            t: positions, shape (n,), in [0, 1], float64 (for a surface (n, dimensions)).

        Returns:
            Shape (n, controls), float64. Rows sum to one.
        """

    @property
    def ends(self) -> tuple[Weights, Weights]:
        """The first and the last control point."""
        return self.controls[0], self.controls[-1]

    def __call__(self, *position: float) -> Weights:
        """The weights at a position: t on a path, x and y on a surface.

        Where one coefficient is 1 and the others 0 (the ends, above all) the control itself comes back,
        its buffers included: the same to the last bit.
        """
        where = torch.tensor(position if len(position) == 1 else [position], dtype=torch.float64)
        return self._blend(self.coefficients(where)[0].tolist())

    def at(self, t: Tensor) -> PathPoints:
        """The points at these positions (shape (n,)), each computed when it is asked for."""
        return PathPoints(self, torch.as_tensor(t, dtype=torch.float64))

    def _blend(self, row: Sequence[float]) -> Weights:
        whole = [k for k, c in enumerate(row) if c == 1]
        if len(whole) == 1 and sum(c != 0 for c in row) == 1:
            return self.controls[whole[0]]
        return combine(row, self.controls)

    def derivative(self, t: Tensor) -> Tensor:
        """dc/dt at these positions, shape (n, controls)."""
        t = t.detach().double().requires_grad_()
        columns = self.coefficients(t).sum(dim=0)
        slopes = [torch.autograd.grad(column, t, retain_graph=True)[0] for column in columns]
        return torch.stack(slopes, dim=1)

    def tangent(self, t: float) -> Weights:
        """dθ/dt at position t."""
        row = self.derivative(torch.tensor([float(t)], dtype=torch.float64))[0].tolist()
        return combine(row, self.controls)

    @cached_property
    def gram(self) -> Tensor:
        """⟨w_j − w_0, w_k − w_0⟩, shape (controls, controls), float64: every distance on the path.

        Differences from the first control are taken before the products, so that near points keep their
        digits. Cost: one pass over the controls' coordinates for each pair, and the memory of all controls
        but one, until it is there.
        """
        apart = [w - self.controls[0] for w in self.controls[1:]]
        size = len(self.controls)
        table = torch.zeros(size, size, dtype=torch.float64)
        for j, one in enumerate(apart, start=1):
            for k, two in enumerate(apart[:j], start=1):
                table[j, k] = table[k, j] = one.dot(two)
        return table

    def distances(self, t: Tensor) -> Tensor:
        """The arc length from the first position to each, shape (n,), along the polyline through them."""
        steps = self.coefficients(t.double()).diff(dim=0)
        squares = torch.einsum("nj,jk,nk->n", steps, self.gram, steps)
        return torch.cat([torch.zeros(1, dtype=torch.float64), squares.clamp_min(0).sqrt().cumsum(0)])

    @cached_property
    def length(self) -> float:
        """The arc length, by a polyline of 1,001 points."""
        grid = torch.linspace(0, 1, _LENGTH_POINTS, dtype=torch.float64)
        return float(self.distances(grid)[-1])

    @cached_property
    def endpoint_distance(self) -> float:
        """The Euclidean distance between the ends: what the length is to be compared with."""
        first, last = self.ends
        return first.distance(last)


@dataclass(frozen=True, eq=False)
class PathPoints(Sequence[Weights]):
    """Points of a path, computed on demand, so that many cost the memory of one.

    Attributes:
        path: the path.
        t: the positions, shape (n,) or, on a surface, (n, dimensions).
    """

    path: AbstractPath
    t: Tensor

    def __len__(self) -> int:
        return len(self.t)

    @overload
    def __getitem__(self, index: int) -> Weights: ...
    @overload
    def __getitem__(self, index: slice) -> PathPoints: ...
    def __getitem__(self, index: int | slice) -> Weights | PathPoints:
        if isinstance(index, slice):
            return PathPoints(self.path, self.t[index])
        return self.path._blend(self.coefficients[index].tolist())

    def __iter__(self) -> Iterator[Weights]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def coefficients(self) -> Tensor:
        """The coefficients of every point, shape (n, controls)."""
        return self.path.coefficients(self.t)

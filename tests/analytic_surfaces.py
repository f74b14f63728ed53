"""Surfaces of two coordinates whose minima and passes are known, for tests of paths and searches.

The double well and the egg carton have theirs in closed form; those of the Mueller-Brown potential are
solved here by Newton's method on the gradient, from the published positions. Nothing here uses isthmus'
own procedures, so that what a procedure finds can be compared with it.

Source: K. Mueller and L. D. Brown 1979, Theoretica Chimica Acta 53, 75, table 1 (the potential).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus import AnalyticLandscape, Weights

Position = tuple[float, float]


@dataclass(frozen=True)
class Surface:
    """A function of (x, y) with two minima and the lowest pass between them.

    Attributes:
        name: what it is called in test ids.
        function: from a vector of shape (2,) to a scalar.
        a: the minimum where paths begin.
        b: the minimum where they end.
        saddle: the highest point of the lowest path from a to b (one of them, where several are as high).
        pass_energy: the function there.
        saddles: all saddles on that path.
        minima: all minima on that path, the ends included.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    a: Position
    b: Position
    saddle: Position
    pass_energy: float
    saddles: tuple[Position, ...]
    minima: tuple[Position, ...]

    @property
    def landscape(self) -> AnalyticLandscape:
        """The function as a landscape."""
        return AnalyticLandscape(self.function)

    @property
    def ends(self) -> tuple[Weights, Weights]:
        """The two minima as weights of one float64 tensor "x"."""
        return weights_at(self.a), weights_at(self.b)

    def energy(self, position: Position) -> float:
        """The function at a position."""
        return float(self.function(torch.tensor(position, dtype=torch.float64)))


def weights_at(position: Position) -> Weights:
    """A point of the plane as weights of one float64 tensor "x"."""
    return Weights.from_state_dict({"x": torch.tensor(position, dtype=torch.float64)})


def stationary_point(function: Callable[[Tensor], Tensor], start: Position) -> Position:
    """Where the gradient vanishes near a start: Newton's method on the gradient, to machine precision."""
    x = torch.tensor(start, dtype=torch.float64)
    for _ in range(50):
        gradient = slope(function, x)
        x = x - torch.linalg.solve(curvature(function, x), gradient)
    scale = float(torch.linalg.matrix_norm(curvature(function, x), 2))
    residual = float(slope(function, x).norm())
    assert residual <= 1e-11 * max(scale, 1.0), f"Newton's method did not converge from {start}: {residual}"
    return float(x[0]), float(x[1])


def slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient at a point, shape (2,)."""
    found = torch.autograd.functional.jacobian(function, x)
    assert isinstance(found, Tensor)
    return found


def curvature(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The Hessian at a point, shape (2, 2)."""
    found = torch.autograd.functional.hessian(function, x)
    assert isinstance(found, Tensor)
    return found


def descending_directions(function: Callable[[Tensor], Tensor], position: Position) -> int:
    """The number of negative eigenvalues of the Hessian: 0 at a minimum, 1 at a saddle."""
    hessian = curvature(function, torch.tensor(position, dtype=torch.float64))
    return int((torch.linalg.eigvalsh(hessian) < 0).sum())


def double_well(x: Tensor) -> Tensor:
    """(x² − 1)² + 4 (y − (1 − x²))²: zero at (±1, 0), a pass of height 1 at (0, 1), 5 on the line."""
    hill = x[0] ** 2 - 1
    return hill**2 + 4 * (x[1] + hill) ** 2


def mueller_brown(x: Tensor) -> Tensor:
    """The Mueller-Brown potential divided by 100: three minima and two passes along a bent valley."""
    height = torch.tensor([-2.0, -1.0, -1.7, 0.15], dtype=x.dtype)
    a = torch.tensor([-1.0, -1.0, -6.5, 0.7], dtype=x.dtype)
    b = torch.tensor([0.0, 0.0, 11.0, 0.6], dtype=x.dtype)
    c = torch.tensor([-10.0, -10.0, -6.5, 0.7], dtype=x.dtype)
    u = x[0] - torch.tensor([1.0, 0.0, -0.5, -1.0], dtype=x.dtype)
    v = x[1] - torch.tensor([0.0, 0.5, 1.5, 1.0], dtype=x.dtype)
    return (height * torch.exp(a * u**2 + b * u * v + c * v**2)).sum()


def egg_carton(x: Tensor) -> Tensor:
    """2 − cos x − cos y: zero at multiples of 2π, passes of height 2 between neighbours, hills of 4."""
    return 2 - torch.cos(x[0]) - torch.cos(x[1])


DOUBLE_WELL = Surface(
    "double well",
    double_well,
    (-1.0, 0.0),
    (1.0, 0.0),
    (0.0, 1.0),
    1.0,
    ((0.0, 1.0),),
    ((-1.0, 0.0), (1.0, 0.0)),
)
"""Two wells joined by a parabola; the straight line crosses a hill of 5, five times the pass."""


def _mueller_brown_surface() -> Surface:
    minima = [stationary_point(mueller_brown, p) for p in ((-0.558, 1.442), (-0.050, 0.467), (0.623, 0.028))]
    saddles = [stationary_point(mueller_brown, p) for p in ((-0.822, 0.624), (0.212, 0.293))]
    energy = float(mueller_brown(torch.tensor(saddles[0], dtype=torch.float64)))
    return Surface(
        "Mueller-Brown",
        mueller_brown,
        minima[0],
        minima[2],
        saddles[0],
        energy,
        tuple(saddles),
        tuple(minima),
    )


MUELLER_BROWN = _mueller_brown_surface()
"""From the deepest minimum to the second; of two passes the higher is at about (−0.822, 0.624): −0.40665."""

_PI = math.pi

EGG_CARTON = Surface(
    "egg carton",
    egg_carton,
    (0.0, 0.0),
    (4 * _PI, 2 * _PI),
    (_PI, 0.0),
    2.0,
    ((_PI, 0.0), (2 * _PI, _PI), (3 * _PI, 2 * _PI)),
    ((0.0, 0.0), (2 * _PI, 0.0), (2 * _PI, 2 * _PI), (4 * _PI, 2 * _PI)),
)
"""From one hollow to another two columns and one row away: three passes of one height; 3.125 on the line."""

SURFACES = (DOUBLE_WELL, MUELLER_BROWN, EGG_CARTON)

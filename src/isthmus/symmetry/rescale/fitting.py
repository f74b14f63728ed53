"""The rescaling that brings one network closest to another one, or that makes its norm least.

|A - g B|² is minimised one coordinate at a time. With u = exp(z_j), elements whose factor holds u to the
power k contribute Q_k u^2k - 2 P_k u^k, where P_k = Σ A g B and Q_k = Σ (g B)²: a step goes to the best
positive root of the derivative. Since coordinates of neighbouring layers pull at one another, every sweep
over them is followed by Newton steps on all at once. For signs |A - g B|² falls by 4 times the sum of A g B
over the elements that a flip touches, if that is negative. A step of any kind is taken only if the objective
falls.

Source: for the least norm (A = 0) the step of one unit is the closed form u⁴ = Q_-1 / Q_1, after which its
incoming and outgoing weights have one norm, as gradient flow keeps them in Du, Hu & Lee 2018 (arXiv
1806.00900), theorem 2.1; Newton steps by conjugate gradients: Nocedal & Wright 2006, section 7.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array, vstack
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from isthmus.layout import Layout
from isthmus.symmetry.rescale.factors import Exponents, Factor
from isthmus.weights import Weights

# A step must gain more than the rounding of the objective, or equal optima would be exchanged for ever.
_GAIN = 1e-14
_NEWTON = 50
_HALVINGS = 30
_CG = 200


@dataclass(frozen=True, eq=False)
class Fit:
    """What a fit found.

    Attributes:
        coordinates: shape (dimension,).
        objective: |A - g B|² there.
        converged: whether no coordinate could be improved any more.
    """

    coordinates: Tensor
    objective: float
    converged: bool


def fit(
    factors: Sequence[Factor],
    exponents: Exponents,
    layout: Layout,
    fixed: Weights | None,
    moving: Weights,
    signs: bool,
    max_sweeps: int,
) -> Fit:
    """Coordinate descent on |A - g B|² from the identity; A = 0 if `fixed` is None."""
    start = moving.vector.detach().cpu().double().numpy().copy()
    target = np.zeros_like(start) if fixed is None else fixed.vector.detach().cpu().double().numpy()
    powers = powers_of_elements(factors, exponents, layout)
    state = _Descent(powers, target, start, signs)
    for _ in range(max_sweeps):
        state.sweep()
        if not signs:
            state.newton()
        if not state.waiting.any():
            break
    gap = target - state.moving
    coordinates = state.coordinates.astype(np.int64) % 2 if signs else state.coordinates
    return Fit(torch.from_numpy(coordinates), float(gap @ gap), not state.waiting.any())


class _Descent:
    """Where a descent stands.

    Args:
        powers: elements × coordinates.
        target: A.
        moving: B; it becomes g B.
        signs: whether the group is one of signs.
    """

    def __init__(self, powers: csc_array, target: np.ndarray, moving: np.ndarray, signs: bool) -> None:
        self.powers, self.rows = powers, csr_array(powers)
        self.target, self.moving, self.signs = target, moving, signs
        count = int(powers.shape[1])
        self.floor = _GAIN * float(target @ target + moving @ moving) / max(count, 1)
        self.coordinates = np.zeros(count)
        self.waiting = np.ones(count, bool)
        self.bounded = np.ones(count, bool)

    def sweep(self) -> None:
        """An exact step along every coordinate whose surroundings have changed."""
        for number in np.flatnonzero(self.waiting):
            self.waiting[number] = False
            chosen = slice(*self.powers.indptr[number : number + 2])
            places, power = self.powers.indices[chosen], self.powers.data[chosen].astype(np.int64)
            a, b = self.target[places], self.moving[places]
            if self.signs:
                step = float(-a @ b > self.floor)
                multiplier = np.full(len(places), -1.0)
            else:
                found = best_step(a, b, power, self.floor)
                self.bounded[number] = found is not None
                step = found or 0.0
                multiplier = np.exp(step * power)
            if step:
                self.coordinates[number] += step
                self.moving[places] *= multiplier
                self.waiting[neighbours(self.rows, places)] = True
                self.waiting[number] = False

    def newton(self) -> None:
        """Newton steps on all coordinates that have a minimum, by conjugate gradients."""
        active = self.bounded.astype(np.float64)
        count = len(active)
        for _ in range(_NEWTON if active.any() else 0):
            a, b = self.target, self.moving
            # 2 b² - a b is the second derivative; b² alone (Gauss & Newton) keeps it positive.
            curvature = 2 * np.maximum(b * b, 2 * b * b - a * b)
            slope = active * (self.powers.T @ (-2 * (a - b) * b))

            def bend(z: np.ndarray, curvature: np.ndarray = curvature) -> Any:
                z = z.reshape(-1)
                image = self.powers.T @ (curvature * (self.powers @ (active * z)))
                return active * image + (1 - active) * z

            operator = LinearOperator((count, count), matvec=bend, dtype=np.float64)
            direction, _ = cg(operator, -slope, rtol=1e-8, maxiter=_CG)
            if not self._taken(active * direction):
                break

    def _taken(self, direction: np.ndarray) -> bool:
        """Go along a direction as far as the objective falls, the whole way at most."""
        gap = self.target - self.moving
        before = float(gap @ gap)
        for halving in range(_HALVINGS):
            step = direction * 0.5**halving
            moved = self.moving * np.exp(np.clip(self.powers @ step, -50, 50))
            gap = self.target - moved
            if before - float(gap @ gap) > self.floor:
                self.coordinates += step
                self.moving = moved
                self.waiting[:] = True
                return True
        return False


def neighbours(rows: csr_array, places: np.ndarray) -> np.ndarray:
    """The coordinates that share one of these elements."""
    starts, sizes = rows.indptr[places], np.diff(rows.indptr)[places]
    offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(rows.indices[np.repeat(starts, sizes) + offsets])


def powers_of_elements(factors: Sequence[Factor], exponents: Exponents, layout: Layout) -> csc_array:
    """For each real coordinate of weight space the power of each coordinate of the group in its factor."""
    matrix = exponents.matrix
    pieces = []
    for name, shape, dtype in zip(layout.names, layout.shapes, layout.dtypes, strict=True):
        count = int(np.prod(shape, dtype=np.int64))
        total = csr_array((count, exponents.count), dtype=np.int64)
        for factor in factors:
            if factor.parameter == name:
                total = csr_array(total + matrix[factor.rows.expand(shape).reshape(-1).numpy()])
        pieces.append(csr_array(total[np.repeat(np.arange(count), 2)]) if dtype.is_complex else total)
    whole = csc_array(vstack(pieces)) if pieces else csc_array((0, exponents.count), dtype=np.int64)
    whole.eliminate_zeros()
    whole.data = whole.data.astype(np.float64)
    return whole


def best_step(a: np.ndarray, b: np.ndarray, power: np.ndarray, floor: float) -> float | None:
    """The t at which Σ (a - exp(k t) b)² is least; 0 if that gains nothing, None if there is none."""
    chosen = {int(k): power == k for k in np.unique(power)}
    crossed = {k: float(a[where] @ b[where]) for k, where in chosen.items()}
    square = {k: float(b[where] @ b[where]) for k, where in chosen.items()}
    largest = max((abs(k) for k in chosen), default=0)
    derivative = np.zeros(4 * largest + 1)  # of u ** (2 * largest) times the derivative, highest power first
    for k in chosen:
        derivative[2 * largest - 2 * k] += k * square[k]
        derivative[2 * largest - k] -= k * crossed[k]
    roots = np.roots(derivative)
    candidates = roots.real[(abs(roots.imag) <= 1e-9 * abs(roots)) & (roots.real > 0)]
    if not candidates.size:
        return None

    def objective(u: float) -> float:
        return sum(square[k] * u ** (2 * k) - 2 * crossed[k] * u**k for k in crossed)

    best = min(candidates.tolist(), key=objective)
    return float(np.log(best)) if objective(1.0) - objective(best) > floor else 0.0

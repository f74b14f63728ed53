"""The best change of basis for one set of channels, and what it is worth.

Source: Schönemann 1966, "A generalized solution of the orthogonal Procrustes problem" (Psychometrika 31).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isthmus.symmetry.linear import Basis
from isthmus.symmetry.linear.bases import rows
from isthmus.weights import Weights

_ITERATIONS = 30
_CONDITION = 1e4


def cross(basis: Basis, fixed: Weights, moving: Weights) -> Tensor:
    """Σ over the places of (B's channels)(A's channels)ᵀ, shape (size, size)."""
    return sum(
        (rows(moving[p.parameter], p) @ rows(fixed[p.parameter], p).T for p in basis.places),
        torch.zeros(basis.size, basis.size, dtype=torch.float64),
    )


def best_map(basis: Basis, fixed: Weights, moving: Weights, invertible: bool = False) -> Tensor:
    """The map M of one basis that brings B nearest to A, all else fixed.

    Args:
        basis: the channels.
        fixed: A, in float64.
        moving: B, in float64.
        invertible: whether M may be any invertible matrix, found by descent from the best rotation.

    Returns:
        M, shape (size, size): orthogonal, unless `invertible`.
    """
    frame = basis.frame
    left, _, right = torch.linalg.svd(frame.T @ cross(basis, fixed, moving) @ frame)
    rotation = basis.embedded(left @ right)
    return _least_squares(basis, fixed, moving, rotation) if invertible else rotation


def pair_values(members: Sequence[Basis], fixed: Weights, moving: Weights) -> Tensor:
    """For every pair of like circuits the inner product after the best rotation, shape (members, members).

    That is the nuclear norm of their cross products; row i is A's circuit, column j is B's.
    """
    total = torch.zeros((), dtype=torch.float64)
    for number in range(len(members[0].places)):
        left, right = (
            torch.stack([rows(side[b.places[number].parameter], b.places[number]) for b in members])
            for side in (fixed, moving)
        )
        product = torch.einsum("jbr,iar->ijba", right, left)
        total = total + product
    values: Tensor = torch.linalg.svdvals(total)
    return values.sum(-1)


def _least_squares(basis: Basis, fixed: Weights, moving: Weights, start: Tensor) -> Tensor:
    """M that minimises Σ ‖A - Mᵀ B‖² + Σ ‖A - M⁻¹ B‖² (the second over dual places), from a rotation.

    L-BFGS on Gram matrices of the head's size; a result that is badly conditioned is not taken.
    """
    size = basis.size
    grams = []
    for dual in (False, True):
        part = [place for place in basis.places if place.dual == dual]
        mine = [rows(moving[p.parameter], p) for p in part]
        theirs = [rows(fixed[p.parameter], p) for p in part]
        zero = torch.zeros(size, size, dtype=torch.float64)
        grams.append(
            (
                sum((m @ m.T for m in mine), zero),
                sum((m @ t.T for m, t in zip(mine, theirs, strict=True)), zero),
            )
        )
    matrix = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([matrix], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def distance() -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for acting, (own, mixed) in zip((matrix, torch.linalg.inv(matrix).T), grams, strict=True):
            total = total + torch.trace(acting.T @ own @ acting) - 2 * torch.trace(acting.T @ mixed)
        return total

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = distance()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = matrix.detach()
    good = bool(found.isfinite().all()) and float(torch.linalg.cond(found)) < _CONDITION
    return found if good else start

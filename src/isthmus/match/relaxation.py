"""Frank-Wolfe over the relaxed universe: every unit a convex mix of a model's units, rounded at the end.

An axis' permutation is relaxed to a doubly stochastic matrix, and a tensor is multiplied by the matrices of
all axes that it lies along. On group elements that is their action, so that the relaxed maximum is no lower
than the group's; between them it is a polynomial, and each step goes to its exact maximum along the line.

Source: Crisostomi, Fumero, Baieri, Bernard & Rodolà 2024, "C²M³: Cycle-Consistent Multi-Model Merging" (arXiv
2405.17897), Algorithm 1: all axes of all models move at once, towards the vertex that the gradient favours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from isthmus.match.assignment import maximising_assignment
from isthmus.match.slices import real
from isthmus.progress import Progress
from isthmus.symmetry import Axis, Symmetry
from isthmus.symmetry.action import Place
from isthmus.weights import Weights

Relaxed = Mapping[str, Tensor]
"""Axis name -> doubly stochastic matrix M, shape (size, size): new[i] = Σ_j M[i, j] old[j]."""

_ENOUGH = 1e-6  # relative to the objective: steps that gain less have converged


def frank_wolfe(
    symmetry: Symmetry,
    models: Sequence[Weights],
    start: Sequence[Mapping[str, Tensor]],
    max_steps: int,
    progress: Progress,
    name: str,
) -> list[dict[str, Tensor]]:
    """The permutations of each model that the relaxed maximum is rounded to.

    Args:
        symmetry: the group.
        models: the weights.
        start: permutations, one for each axis of each model.
        max_steps: the limit of steps; each costs a gradient and some evaluations of the relaxed objective.
        progress: shows the steps.
        name: of their bar.
    """
    if not any(axis.free for axis in symmetry.axes):
        return [dict(each) for each in start]
    tensors = [{name: real(model[name]).float() for name in symmetry.layout.names} for model in models]
    carried = _carried(symmetry.axes, tensors[0])
    device = models[0].vector.device
    point = [_matrices(each, device) for each in start]
    degree = 2 * max((len(dims) for dims in carried.values()), default=0)
    with progress.bar(name, max_steps) as bar:
        for step in range(max_steps):
            value, gradients = _gradients(tensors, carried, point)
            corner = [_matrices(_rounded(symmetry, each), device) for each in gradients]
            share, best = _line_search(tensors, carried, point, corner, degree)
            if not best - value > _ENOUGH * max(abs(value), abs(best)):
                break
            point = [_between(*each, share) for each in zip(point, corner, strict=True)]
            bar(step + 1, f"relaxed objective {best:.6g}")
    return [_rounded(symmetry, each) for each in point]


_Carried = Mapping[str, Mapping[tuple[int, int], Sequence[tuple[str, Place]]]]
"""Parameter -> (dim, blocks) -> the axes along it, with their places, parents first."""


def _carried(axes: Sequence[Axis], tensors: Relaxed) -> _Carried:
    found: dict[str, dict[tuple[int, int], list[tuple[str, Place]]]] = {}
    for axis in axes:
        for place in axis.places:
            if place.parameter in tensors:
                dims = found.setdefault(place.parameter, {})
                dims.setdefault((place.dim, place.blocks), []).append((axis.name, place))
    # As in `symmetry.action.permute`: orders within blocks come last, after the blocks themselves moved.
    return {name: dict(sorted(dims.items(), key=lambda item: item[0][1])) for name, dims in found.items()}


def _objective(tensors: Sequence[Relaxed], carried: _Carried, point: Sequence[Relaxed]) -> Tensor:
    """Σ_{i<j} ⟨g_i θ_i, g_j θ_j⟩ = (‖Σ g_i θ_i‖² - Σ ‖g_i θ_i‖²) / 2, the elements relaxed."""
    pieces = []
    for name in tensors[0]:
        moved = [
            _moved(own[name], carried.get(name, {}), each) for own, each in zip(tensors, point, strict=True)
        ]
        pairs = (
            torch.stack(moved).sum(0).square().sum() - torch.stack([m.square().sum() for m in moved]).sum()
        )
        pieces.append(pairs.double() / 2)
    return torch.stack(pieces).sum()


def _moved(
    tensor: Tensor, dims: Mapping[tuple[int, int], Sequence[tuple[str, Place]]], point: Relaxed
) -> Tensor:
    """A tensor multiplied by the matrices along each of its dims."""
    for (dim, blocks), along in dims.items():
        tensor = _along(tensor, dim, blocks, along, point)
    return tensor


def _along(
    tensor: Tensor, dim: int, blocks: int, along: Sequence[tuple[str, Place]], point: Relaxed
) -> Tensor:
    """A tensor multiplied along one dim; of two axes at one position the lower one counts."""
    size, device = tensor.shape[dim], tensor.device
    matrix = torch.eye(size, device=device).repeat(blocks, 1)
    for name, place in along:
        for index in place.index.T.to(device):
            rows = torch.zeros(index.numel(), size, device=device).index_add(1, index % size, point[name])
            matrix = matrix.index_copy(0, index, rows)
    if blocks == 1:
        front = tensor.movedim(dim, 0)
        mixed: Tensor = matrix @ front.reshape(size, -1)
        return mixed.view(front.shape).movedim(0, dim)
    parts = tensor.reshape(blocks, -1, *tensor.shape[1:]).movedim(dim + 1, 1)
    mixed = torch.bmm(matrix.view(blocks, size, size), parts.flatten(2)).view(parts.shape)
    return mixed.movedim(1, dim + 1).reshape(tensor.shape)


def _gradients(
    tensors: Sequence[Relaxed], carried: _Carried, point: Sequence[Relaxed]
) -> tuple[float, list[dict[str, Tensor]]]:
    free = [{name: m.clone().requires_grad_() for name, m in each.items()} for each in point]
    with torch.enable_grad():
        value = _objective(tensors, carried, free)
        leaves = [m for each in free for m in each.values()]
        found = iter(torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True))
    return float(value.detach()), [{name: next(found) for name in each} for each in free]


def _matrices(element: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A group element as permutation matrices."""
    return {name: torch.eye(p.numel(), device=device)[p.to(device)] for name, p in element.items()}


def _rounded(symmetry: Symmetry, scores: Relaxed) -> dict[str, Tensor]:
    """The group element that the scores favour."""
    found = symmetry.nearest({name: each.cpu() for name, each in scores.items()}, maximising_assignment)
    return dict(found.permutations)


def _between(point: Relaxed, corner: Relaxed, share: float) -> dict[str, Tensor]:
    return {name: (1 - share) * m + share * corner[name] for name, m in point.items()}


def _line_search(
    tensors: Sequence[Relaxed],
    carried: _Carried,
    point: Sequence[Relaxed],
    corner: Sequence[Relaxed],
    degree: int,
) -> tuple[float, float]:
    """The share in [0, 1] of the way to the corner with the largest objective, and that objective.

    Along the way the objective is a polynomial of this degree: it is known from degree + 1 values.
    """
    nodes = [(1 - math.cos(math.pi * i / degree)) / 2 for i in range(degree + 1)]
    with torch.no_grad():
        values = [
            float(_objective(tensors, carried, [_between(*e, t) for e in zip(point, corner, strict=True)]))
            for t in nodes
        ]
    curve = np.polynomial.Polynomial.fit(nodes, values, degree, domain=[0, 1])
    roots = np.asarray(curve.deriv().roots(), dtype=np.complex128)
    turns = [float(t) for t in roots.real[abs(roots.imag) < 1e-9] if 0 < t < 1]
    best = max([0.0, 1.0, *turns], key=lambda t: float(curve(t)))
    return best, float(curve(best))

"""Numerical proof, in float64, that folding and changes of basis leave a network's function as it is.

A smooth function of M that is constant near one random M and near the identity is constant almost surely, so
that one random element a basis tells a wrong one. The control leaves the largest parameter out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from isthmus.symmetry.export import evaluation_copy
from isthmus.symmetry.linear.bases import Basis, changed
from isthmus.symmetry.linear.folding import Fold, folded
from isthmus.symmetry.verify import Control, Probe, Verification, larger

_LARGE = 0.5


def random_map(basis: Basis, generator: torch.Generator, spread: float = 2.0) -> Tensor:
    """A random map of a basis: orthogonal for a stream; for a circuit with singular values in [1/s, s].

    Args:
        basis: the basis.
        generator: of the randomness.
        spread: s, which bounds the condition number by s².
    """
    inner = basis.size - basis.centred
    first, second = (_orthogonal(inner, generator) for _ in range(2))
    if basis.kind == "residual":
        return basis.embedded(first)
    exponents = torch.rand(inner, generator=generator, dtype=torch.float64) * 2 - 1
    return first @ torch.diag(spread**exponents) @ second


def _orthogonal(size: int, generator: torch.Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    rotation: Tensor = q * r.diagonal().sign()
    return rotation


def lively(module: nn.Module, bases: Sequence[Basis]) -> nn.Module:
    """A copy in which what the bases touch is of ordinary size, or a small start hides what is broken."""
    twin = evaluation_copy(module)
    tensors = dict(twin.named_parameters())
    for name in {place.parameter for basis in bases for place in basis.places}:
        tensor = tensors[name].data
        size = float(tensor.float().square().mean().sqrt())
        if size:
            tensor.mul_(_LARGE / math.sqrt(min(tensor.shape)) / size if tensor.dim() > 1 else _LARGE / size)
    return twin


def fold_error(probe: Probe, folds: Sequence[Fold]) -> float:
    """The relative change of the outputs by folding."""
    return probe.change_with(folded(probe.originals, folds))


def basis_error(
    probe: Probe, folds: Sequence[Fold], bases: Sequence[Basis], maps: Mapping[str, Tensor]
) -> float:
    """The relative change of the outputs by folding, then changing bases."""
    return probe.change_with(_moved(probe, folds, bases, maps))


def prove(probe: Probe, folds: Sequence[Fold], bases: Sequence[Basis], failed: Sequence[str]) -> Verification:
    """All bases at once, then one control each."""
    error = fold_error(probe, folds)
    maps = {basis.name: random_map(basis, probe.generator) for basis in bases}
    error = larger(error, basis_error(probe, folds, bases, maps))
    controls = tuple(_control(probe, folds, basis, maps[basis.name]) for basis in bases)
    return Verification(error, probe.tolerance, tuple(probe.reference), controls, tuple(failed))


def _control(probe: Probe, folds: Sequence[Fold], basis: Basis, matrix: Tensor) -> Control:
    largest = max((place.parameter for place in basis.places), key=lambda n: probe.originals[n].numel())
    moved = _moved(probe, folds, [basis], {basis.name: matrix}, largest)
    return Control(basis.name, largest, probe.change_with(moved))


def _moved(
    probe: Probe,
    folds: Sequence[Fold],
    bases: Sequence[Basis],
    maps: Mapping[str, Tensor],
    leave: str | None = None,
) -> dict[str, Tensor]:
    new = folded(probe.originals, folds)
    return new | changed({**probe.originals, **new}, bases, maps, leave)

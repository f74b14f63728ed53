"""Tensors as a matcher needs them: slices along an axis without copies, inner products in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from isthmus.symmetry.action import Place, permute

# In float64 at a time: on a CPU what its second cache holds, so that no new memory is asked for.
_CHUNK = {"cpu": 1 << 15}
_CHUNK_ELSEWHERE = 1 << 24


def real(tensor: Tensor) -> Tensor:
    """The tensor, its real and imaginary parts side by side if it is complex."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def stored(tensor: Tensor) -> Tensor:
    """The same tensor, real, in memory with axis 1 innermost: slices along axes 0 and 1 are then views."""
    tensor = real(tensor)
    return _outwards(_inwards(tensor).contiguous(), tensor.dim())


def _inwards(tensor: Tensor) -> Tensor:
    return tensor.movedim(1, -1) if tensor.dim() > 2 else tensor


def _outwards(tensor: Tensor, dims: int) -> Tensor:
    return tensor.movedim(-1, 1) if dims > 2 else tensor


def selected(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """The positions `index` along one dim of a stored tensor, itself stored."""
    inward = _inwards(tensor)
    index = index.to(tensor.device)
    at = _inward_dim(tensor, dim)
    if at == inward.dim() - 1:
        # As a matrix: selecting the columns of a tensor of three axes took ten times as long.
        columns = inward.reshape(-1, inward.shape[-1]).index_select(1, index)
        return _outwards(columns.view(*inward.shape[:-1], index.numel()), tensor.dim())
    return _outwards(inward.index_select(at, index), tensor.dim())


def put(tensor: Tensor, dim: int, index: Tensor, values: Tensor) -> None:
    """Write over the positions `index` along one dim of a stored tensor, in place."""
    at = _inward_dim(tensor, dim)
    _inwards(tensor).index_copy_(at, index.to(tensor.device), _inwards(values))


def _inward_dim(tensor: Tensor, dim: int) -> int:
    """Where a dim of a stored tensor is in memory."""
    if tensor.dim() <= 2:
        return dim
    return {0: 0, 1: tensor.dim() - 1}.get(dim, dim - 1)


def reordered(tensor: Tensor, moves: Mapping[tuple[int, int], Tensor]) -> Tensor:
    """A stored tensor reordered along its axes as by `permute`, itself stored."""
    if len(moves) == 1:
        ((dim, blocks), index), *_ = moves.items()
        if blocks == 1:
            return selected(tensor, dim, index)
    return stored(permute(tensor, moves))


def slices(tensor: Tensor, place: Place) -> Tensor:
    """The slices of a tensor at each unit as rows, shape (units, occurrences * rest); a view if possible.

    The numbers of a row come in the order that they have in memory, so two tensors whose slices are compared
    must lie in memory alike.
    """
    dim, index = place.dim, place.index
    if place.blocks > 1:
        tensor = tensor.reshape(place.blocks, -1, *tensor.shape[1:]).movedim(dim + 1, 1).flatten(0, 1)
        dim = 0
    front = tensor.movedim(dim, 0)
    rest = sorted(range(1, front.dim()), key=front.stride, reverse=True)
    front = front.permute(0, *rest)
    whole = index.shape[1] == 1 and index.shape[0] == front.shape[0]
    if whole and torch.equal(index[:, 0], torch.arange(index.shape[0])):
        return front.reshape(front.shape[0], -1)
    return front[index.to(front.device)].reshape(index.shape[0], -1)


def products(first: Tensor, second: Tensor, place: Place) -> Tensor:
    """⟨the first's slice at unit i, the second's slice at unit j⟩, shape (units, units), on the CPU."""
    return (slices(first, place) @ slices(second, place).T).cpu().double()


def inner_product(first: Tensor, second: Tensor) -> float:
    """The inner product in float64, chunk by chunk."""
    order = sorted(range(first.dim()), key=first.stride, reverse=True)  # as in memory: no copy
    return math.fsum(_chunked(*(side.permute(order).reshape(-1) for side in (first, second))))


def _chunked(first: Tensor, second: Tensor) -> Iterable[float]:
    size = _CHUNK.get(first.device.type, _CHUNK_ELSEWHERE)
    for left, right in zip(torch.split(first, size), torch.split(second, size), strict=True):
        yield float(torch.dot(left.double(), right.double()))

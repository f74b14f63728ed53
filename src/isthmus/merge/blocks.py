"""One tensor carried along its dimensions by the plans of the axes that lie on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.errors import SymmetryError
from isthmus.symmetry import Place


@dataclass(frozen=True, eq=False)
class Pieces:
    """How the units of one axis are carried along one dimension of a tensor.

    Attributes:
        place: where they lie in A.
        image: where they lie in B.
        plan: (units of A, units of B).
        hard: for each of B's units the one of A's, if units move one to one.
        matrix: (units of B, units of A), what each of B's units takes.
        split: whether these are outgoing weights, which are split, and not mixed.
    """

    place: Place
    image: Place
    plan: Tensor
    hard: Tensor | None
    matrix: Tensor
    split: bool


def carry_dim(tensor: Tensor, dim: int, pieces: Sequence[Pieces], size: int, name: str) -> Tensor:
    """The tensor carried along one dimension; positions without units stay, in their order."""
    front = tensor.movedim(dim, 0)
    rest = front.shape[1:]
    out = front.new_zeros(size, *rest)
    old, new = _rest(pieces, front.shape[0], size, name, dim)
    out[new] = front[old]
    for each in pieces:
        if each.hard is not None:
            out[each.image.index] = front[each.place.index[each.hard]]
            continue
        units = front[each.place.index].flatten(1)
        out[each.image.index] = (each.matrix.to(units) @ units).view(*each.image.index.shape, *rest)
    return out.movedim(0, dim)


def carry_blocks(
    tensor: Tensor,
    rows: Sequence[Pieces] | None,
    blocked: Mapping[int, Sequence[Pieces]],
    shape: Sequence[int],
    name: str,
) -> Tensor:
    """A tensor whose rows fall into blocks, each with an order of its own along other dimensions.

    A block of B takes from each block of A what the rows take, its columns carried as the plan says for
    this pair of blocks: within it, since that the blocks themselves move is said by the rows.

    Args:
        tensor: of A.
        rows: how dimension 0 is carried; None if it stays as it is in A.
        blocked: the dimensions whose order differs from block to block.
        shape: of the tensor in B.
        name: of the tensor.
    """
    height = tensor.shape[0]
    above = torch.eye(height) if rows is None else _dense(rows, height, shape[0], name)
    above = above.to(tensor)
    firsts = [pieces[0] for pieces in blocked.values()]
    sources, targets = firsts[0].place.blocks, firsts[0].image.blocks
    sizes = [shape[dim] if dim in blocked else tensor.shape[dim] for dim in range(1, tensor.dim())]
    out = tensor.new_zeros(above.shape[0], *sizes)
    height, goal = height // sources, above.shape[0] // targets
    for target in range(targets):
        into = slice(target * goal, (target + 1) * goal)
        for source in range(sources):
            taken = above[into, source * height : (source + 1) * height]
            if not bool(taken.any()):
                continue
            piece = tensor[source * height : (source + 1) * height]
            for dim, pieces in blocked.items():
                inner = _inside(pieces, source, target, tensor.shape[dim], shape[dim], name).to(piece)
                piece = torch.tensordot(inner, piece, ([1], [dim])).movedim(0, dim)
            out[into] += torch.tensordot(taken, piece, ([1], [0]))
    return out


def _dense(pieces: Sequence[Pieces], old: int, new: int, name: str) -> Tensor:
    """The map along dimension 0 as a matrix (positions of B, positions of A)."""
    matrix = torch.zeros(new, old, dtype=torch.float64)
    here, there = _rest(pieces, old, new, name, 0)
    matrix[there, here] = 1
    for each in pieces:
        for column in range(each.place.index.shape[1]):
            at, to = each.place.index[:, column], each.image.index[:, column]
            matrix[to[:, None], at] = each.matrix
    return matrix


def _inside(pieces: Sequence[Pieces], source: int, target: int, old: int, new: int, name: str) -> Tensor:
    """The map within a pair of blocks, (positions of B, positions of A)."""
    matrix = torch.zeros(new, old, dtype=torch.float64)
    left, right = torch.ones(old, dtype=torch.bool), torch.ones(new, dtype=torch.bool)
    for each in pieces:
        for column in range(each.place.index.shape[1]):
            at, to = each.place.index[:, column], each.image.index[:, column]
            units, images = (at // old == source).nonzero()[:, 0], (to // new == target).nonzero()[:, 0]
            plan = each.plan[units][:, images]
            total = plan.sum(1, keepdim=True) if each.split else plan.sum(0, keepdim=True)
            share = (plan / total.clamp_min(torch.finfo(plan.dtype).tiny)).T
            matrix[(to[images] % new)[:, None], at[units] % old] = share
            left[at[units] % old] = right[to[images] % new] = False
    here, there = left.nonzero()[:, 0], right.nonzero()[:, 0]
    if len(here) != len(there):
        raise _unequal(name, 1)
    matrix[there, here] = 1
    return matrix


def _rest(pieces: Sequence[Pieces], old: int, new: int, name: str, dim: int) -> tuple[Tensor, Tensor]:
    """The positions without units, in A and in B."""
    left, right = torch.ones(old, dtype=torch.bool), torch.ones(new, dtype=torch.bool)
    for each in pieces:
        left[each.place.index] = False
        right[each.image.index] = False
    here, there = left.nonzero()[:, 0], right.nonzero()[:, 0]
    if len(here) != len(there):
        raise _unequal(name, dim)
    return here, there


def _unequal(name: str, dim: int) -> SymmetryError:
    return SymmetryError(
        f"{name}[{dim}] holds positions that may not move, and A and B have different numbers of them: only "
        "hidden units can be carried between different widths"
    )

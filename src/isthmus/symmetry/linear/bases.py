"""Changes of basis as data: where the channels of a residual stream or of a head lie in the parameters.

A basis of n channels may be changed by an n × n matrix M. Every place that carries its channels is
multiplied along one axis, T'[…, j] = Σ_i T[…, i] N[i, j], where N is M, or M⁻ᵀ at the places that are `dual`:
what writes the channels takes M and what reads them M⁻ᵀ, so that the function stays. For a residual stream M
is orthogonal, hence M⁻ᵀ = M everywhere; a norm that subtracts the mean allows only M that keep the direction
of ones (`centred`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["residual", "query-key", "value-output"]


@dataclass(frozen=True, eq=False)
class BasisPlace:
    """Where the channels of a basis lie along one axis of one parameter.

    Attributes:
        parameter: its name.
        dim: the axis.
        index: LongTensor of shape (copies, size): where each channel lies; query heads that share their keys
            are copies.
        dual: whether the place is multiplied by M⁻ᵀ and not by M.
    """

    parameter: str
    dim: int
    index: Tensor
    dual: bool = False

    @property
    def channels(self) -> set[tuple[str, int, int]]:
        """Every (parameter, axis, position) that it names."""
        return {(self.parameter, self.dim, at) for at in self.index.flatten().tolist()}


@dataclass(frozen=True, eq=False)
class Basis:
    """A set of channels whose basis may be changed.

    Attributes:
        name: the kind and the first place.
        kind: a residual stream (orthogonal maps), or one head's queries and keys, or values and outputs
            (invertible maps).
        size: the number of channels.
        places: where they lie.
        centred: whether maps must keep the direction of ones: a norm subtracts the mean.
    """

    name: str
    kind: Kind
    size: int
    places: tuple[BasisPlace, ...]
    centred: bool = False

    def __repr__(self) -> str:
        return f"Basis({self.name}, {self.size} channels, {len(self.places)} places)"

    @property
    def frame(self) -> Tensor:
        """Orthonormal columns that span the directions a map is free in, shape (size, size or size - 1)."""
        if not self.centred:
            return torch.eye(self.size, dtype=torch.float64)
        ones = torch.ones(self.size, 1, dtype=torch.float64)
        unit = torch.eye(self.size, dtype=torch.float64)
        full: Tensor = torch.linalg.qr(torch.cat([ones, unit[:, 1:]], 1))[0]
        return full[:, 1:]

    def embedded(self, inner: Tensor) -> Tensor:
        """The map that is `inner` on the `frame`, and the identity on the direction of ones if centred."""
        if not self.centred:
            return inner
        frame = self.frame.to(inner)
        return frame @ inner @ frame.T + torch.full_like(inner[:1, :1], 1 / self.size)


def changed(
    tensors: Mapping[str, Tensor],
    bases: Sequence[Basis],
    maps: Mapping[str, Tensor],
    leave: str | None = None,
) -> dict[str, Tensor]:
    """The tensors after changes of basis, those that change; differentiable in the maps.

    Args:
        tensors: parameters by name.
        bases: the bases.
        maps: basis name -> M, shape (size, size); a missing one is the identity.
        leave: a parameter that is left as it is, for a control.
    """
    new: dict[str, Tensor] = {}
    for basis in bases:
        if basis.name not in maps:
            continue
        matrix = maps[basis.name]
        dual = matrix
        if basis.kind != "residual" and any(place.dual for place in basis.places):
            dual = torch.linalg.inv(matrix).T
        for place in basis.places:
            if place.parameter != leave:
                old = new.get(place.parameter, tensors[place.parameter])
                new[place.parameter] = multiplied(old, place, dual if place.dual else matrix)
    return new


def multiplied(tensor: Tensor, place: BasisPlace, matrix: Tensor) -> Tensor:
    """The tensor multiplied by a matrix along a place's channels."""
    front, index = tensor.movedim(place.dim, -1), place.index.to(tensor.device)
    product = front[..., index] @ matrix.to(tensor)
    if index.numel() == front.shape[-1]:
        back = index.flatten().argsort()
        return product.flatten(-2)[..., back].movedim(-1, place.dim)
    return front.index_copy(-1, index.flatten(), product.flatten(-2)).movedim(-1, place.dim)


def rows(tensor: Tensor, place: BasisPlace) -> Tensor:
    """The channels as rows, shape (size, rest)."""
    front = tensor.movedim(place.dim, 0)[place.index.flatten()]
    return front.reshape(*place.index.shape, -1).movedim(0, 1).flatten(1)

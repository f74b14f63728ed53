"""A soft map: which share of each of A's units goes to which of B's, and how it carries weights.

Source: Singh & Jaggi 2020, "Model Fusion via Optimal Transport" (arXiv 1910.05653), section 4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from isthmus.errors import SymmetryError
from isthmus.layout import Layout
from isthmus.merge.blocks import Pieces, carry_blocks, carry_dim
from isthmus.merge.roles import Roles
from isthmus.symmetry import Alignment, Axis, Outcome, Place, Symmetry
from isthmus.weights import Weights

Incoming = Literal["split", "published"]
_NAMED = 3


@dataclass(frozen=True, eq=False, repr=False)
class SoftMap:
    """Where the units of one network go in another one of the same structure, whose widths may differ.

    It is no group element: it has no inverse and is not composed, and what it carries computes another
    function, unless it moves units one to one (`alignment` says so), copies them, or joins equal ones.

    Attributes:
        source: the symmetry of A's network.
        target: the symmetry of B's network.
        plans: axis name -> float64 (units of A, units of B), ≥ 0, of sum 1.
        costs: axis name -> the cost of its plan, Σ cost · plan.
        roles: which dimensions of the parameters hold outgoing weights.
        incoming: see `transport_map`.
    """

    source: Symmetry
    target: Symmetry
    plans: Mapping[str, Tensor]
    costs: Mapping[str, float]
    roles: Roles
    incoming: Incoming = "split"

    def __post_init__(self) -> None:
        for name in ("plans", "costs"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __repr__(self) -> str:
        widths = ", ".join(
            f"{name}: {p.shape[0]} → {p.shape[1]}" for name, p in list(self.plans.items())[:_NAMED]
        )
        more = f" and {len(self.plans) - _NAMED} more" if len(self.plans) > _NAMED else ""
        return f"SoftMap({widths}{more})"

    def apply(self, weights: Weights) -> Weights:
        """A's weights in B's shape: incoming weights mixed, outgoing ones split (see `transport_map`).

        Float buffers that carry units (running statistics) are mixed as well; of other buffers those of A
        are kept where B's have their shape.

        Raises:
            SymmetryError: the weights are not of A's network.
        """
        self.source.check(weights)
        goal = _layout_like(self.target.layout, weights.layout)
        vector = torch.empty(goal.numel, dtype=weights.vector.dtype, device=weights.vector.device)
        for position, name in enumerate(goal.names):
            goal.view(vector, position).copy_(self.carry(name, weights[name]))
        buffers = {
            name: self.carry(name, value) if value.is_floating_point() else value
            for name, value in weights.buffers.items()
            if name in self._along or tuple(value.shape) == self.target.buffers.get(name)
        }
        return Weights(goal, vector, buffers)

    def carry(
        self, name: str, tensor: Tensor, only: Collection[str] | None = None, keep: int | None = None
    ) -> Tensor:
        """One parameter or buffer of A carried along the axes that lie on it.

        Args:
            name: of the parameter or buffer.
            tensor: its value in A.
            only: the axes to carry along; None for all.
            keep: a dimension that is left as it is.
        """
        wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
        blocked: dict[int, list[Pieces]] = {}
        plain: dict[int, list[Pieces]] = {}
        for place, image, axis in self._along.get(name, ()):
            if place.dim != keep and (only is None or axis in only):
                found = Pieces(place, image, self.plans[axis], *self._map(name, place.dim, axis))
                (plain if place.blocks == image.blocks == 1 else blocked).setdefault(place.dim, []).append(
                    found
                )
        shape = self._shapes[name]
        for dim in sorted(set(plain) - {0} if blocked else set(plain)):
            wide = carry_dim(wide, dim, plain[dim], shape[dim], name)
        if blocked:
            # Rows whose axis is not carried (yet) stay A's rows.
            still = 0 not in plain and any(place.dim == 0 for place, _, _ in self._along[name])
            wide = carry_blocks(wide, None if still else plain.get(0, []), blocked, shape, name)
        return wide.to(tensor.dtype)

    @property
    def alignment(self) -> Alignment | None:
        """The group element that this map is, if it moves units one to one; None if it does not."""
        pairs = zip(self.source.axes, self.target.axes, strict=True)
        alike = all(torch.equal(old.cells, new.cells) for old, new in pairs)
        if not alike or any(self._hard[name] is None for name in self.plans):
            return None
        found = {name: index for name, index in self._hard.items() if index is not None}
        return Alignment(self.source, found, outcome=Outcome.PROJECTED)

    @property
    def tied(self) -> tuple[str, ...]:
        """Parameters with a dimension that is read as incoming and as outgoing weights; they are mixed."""
        named = {place.parameter for axis in self.target.axes for place in axis.places}
        return tuple(sorted({name for name, _ in self.roles.tied} & named))

    def outgoing(self, name: str, dim: int) -> bool:
        """Whether outgoing weights lie along a dimension of a parameter, and are split."""
        return self.incoming == "split" and (name, dim) in self.roles.summed

    def scale(self, name: str, dim: int, axis: str) -> float:
        """By how much A's slices at single units must be multiplied to stand beside B's."""
        old, new = self._cells[axis]
        if self.incoming == "published":
            return 1.0
        if self.outgoing(name, dim):
            units, images = self._sizes[axis]
            return units / images
        return (old / new) ** 0.25 if axis in self.roles.paired else 1.0

    def with_plans(self, plans: Mapping[str, Tensor], costs: Mapping[str, float]) -> SoftMap:
        """The same map with some plans changed or added."""
        return replace(self, plans={**self.plans, **plans}, costs={**self.costs, **costs})

    def _map(self, name: str, dim: int, axis: str) -> tuple[Tensor | None, Tensor, bool]:
        """How one dimension is carried: an index if units move one to one, and the matrix (B, A)."""
        plan = self.plans[axis]
        split = self.outgoing(name, dim)
        matrix = (plan / plan.sum(1, keepdim=True)).T if split else (plan / plan.sum(0)).T
        factor = 1.0 if split else self.scale(name, dim, axis)
        return self._hard[axis], matrix * factor if factor != 1 else matrix, split

    @cached_property
    def _hard(self) -> dict[str, Tensor | None]:
        return {name: _one_to_one(plan) for name, plan in self.plans.items()}

    @cached_property
    def _along(self) -> dict[str, list[tuple[Place, Place, str]]]:
        """For each tensor its places in A and in B, with the axis."""
        found: dict[str, list[tuple[Place, Place, str]]] = {}
        for old, new in zip(self.source.axes, self.target.axes, strict=True):
            for place, image in zip(old.places, new.places, strict=True):
                found.setdefault(place.parameter, []).append((place, image, old.name))
        return found

    @cached_property
    def _sizes(self) -> dict[str, tuple[int, int]]:
        pairs = zip(self.source.axes, self.target.axes, strict=True)
        return {old.name: (old.size, new.size) for old, new in pairs}

    @cached_property
    def _cells(self) -> dict[str, tuple[float, float]]:
        """Mean sizes of the cells: units of one head, say."""
        pairs = zip(self.source.axes, self.target.axes, strict=True)
        return {old.name: (_cell_size(old), _cell_size(new)) for old, new in pairs}

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        layout = self.target.layout
        return dict(zip(layout.names, layout.shapes, strict=True)) | dict(self.target.buffers)


def _cell_size(axis: Axis) -> float:
    return axis.size / (int(axis.cells.max()) + 1)


def _one_to_one(plan: Tensor) -> Tensor | None:
    """For each of B's units the one of A's that goes there, if that is all; None if units are mixed."""
    if plan.shape[0] != plan.shape[1]:
        return None
    used = plan > plan.max() * 1e-12
    if not (bool((used.sum(0) == 1).all()) and bool((used.sum(1) == 1).all())):
        return None
    return used.int().argmax(0)


def _layout_like(target: Layout, weights: Layout) -> Layout:
    """B's shapes with the dtypes of these weights."""
    dtypes = dict(zip(weights.names, weights.dtypes, strict=True))
    missing = [name for name in target.names if name not in dtypes]
    if missing:
        raise SymmetryError(f"the weights of A lack {', '.join(missing[:_NAMED])}")
    return replace(target, dtypes=tuple(dtypes[name] for name in target.names))

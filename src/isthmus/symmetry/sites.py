"""Sites: where the units of an axis lie in the output of a node of the traced graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from isthmus.symmetry import axes as assembly
from isthmus.symmetry.action import Axis
from isthmus.symmetry.execution import Execution
from isthmus.symmetry.group import Symmetry
from isthmus.symmetry.labels import Label, core, varying
from isthmus.symmetry.orbits import Orbits, solve
from isthmus.symmetry.partitions import distinct

_FROZEN = "frozen by the caller"


@dataclass(frozen=True, eq=False)
class Site:
    """The units of one axis in the output of one node.

    Attributes:
        node: the node of the traced graph.
        axis: the name of the axis in the symmetry.
        dims: the dimensions of the output along which the units lie, ascending.
        index: LongTensor of shape (units, occurrences): where each unit lies along these dimensions, taken as
            one. Corresponding occurrences of two units stand in the same column.
        beside: further dimensions along which other units lie, whose order is not known here.
        read: whether the next layer sums over the units here (a product with a weight, say).
        squashed: whether a nonlinearity reads the units here: they are preactivations.
    """

    node: str
    axis: str
    dims: tuple[int, ...]
    index: Tensor
    beside: tuple[int, ...] = ()
    read: bool = False
    squashed: bool = False

    def reading(self, read: bool, squashed: bool) -> Site:
        """The same site with what becomes of its units."""
        return replace(self, read=read, squashed=squashed)

    def rows(self, tensor: Tensor) -> Tensor:
        """The activations of each unit as a row, shape (units, samples); samples come in one fixed order.

        Over dimensions along which other units lie the mean is taken: it does not depend on their order.
        """
        if self.beside:
            tensor = tensor.mean(self.beside, keepdim=True)
        front = tensor.movedim(self.dims, tuple(range(len(self.dims))))
        flat = front.reshape(math.prod(front.shape[: len(self.dims)]), -1)
        index = self.index.to(tensor.device)
        whole = index.shape[1] == 1 and index.shape[0] == flat.shape[0]
        if whole and torch.equal(index[:, 0], torch.arange(index.shape[0], device=index.device)):
            return flat
        return flat[index].reshape(index.shape[0], -1)

    def spread(self, values: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One value a unit laid along the site's dimensions of a tensor of this shape, and where it has one.

        Elsewhere along these dimensions (units that may not move) the value is 0.
        """
        sizes = [shape[dim] for dim in self.dims]
        flat = values.new_zeros(math.prod(sizes))
        known = torch.zeros(flat.shape, dtype=torch.bool, device=values.device)
        index = self.index.to(values.device)
        flat[index] = values[:, None].expand(index.shape)
        known[index] = True
        view = [size if dim in self.dims else 1 for dim, size in enumerate(shape)]
        return flat.view(view), known.view(view)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a label says of one slot of a tensor: ids along some dimensions, and what may not move there."""

    dims: tuple[int, ...]
    ids: Tensor
    position: Tensor


def seen_in(label: Label) -> list[Seen]:
    """The slots of a label, compactly."""
    found = []
    for slot in label.slots:
        dims = tuple(sorted(varying(slot)))
        if not dims:
            continue
        ids = core(slot).reshape(-1)
        position = label.position
        for dim in range(position.dim()):
            if dim not in dims:
                position = position.narrow(dim, 0, 1)
        found.append(Seen(dims, ids, position.reshape(-1)))
    return found


def frozen_by(symmetry: Symmetry) -> list[tuple[str, int]]:
    """The parameters' axes that the caller of `discover` froze."""
    return [key for key, reason in symmetry.pinned.items() if _FROZEN in reason]


def located(run: Execution, seen: Mapping[str, Sequence[Seen]], symmetry: Symmetry) -> list[Site]:
    """The sites of a symmetry's axes among what was seen during a run on labels."""
    orbits = solve(run.units)
    found, _, names = assembly.assemble_named(run.units, orbits, run.leaves)
    owner, member = assembly.heads(orbits, run.units.count)
    wanted = {axis.name: axis for axis in symmetry.axes}
    same = {axis.name for axis in found if axis.name in wanted and _alike(axis, wanted[axis.name])}
    sites = []
    for node, slots in seen.items():
        moving = [slot for slot in slots if bool((owner[slot.ids] >= 0).any())]
        for slot in moving:
            beside = {dim for other in moving if other is not slot for dim in other.dims}
            if beside & set(slot.dims):  # the occurrences of a unit change places among themselves
                continue
            for number in distinct(owner[slot.ids]).tolist():
                name = names.get(number)
                if name not in same:
                    continue
                index = _index(slot, number, owner, member, orbits, wanted[name].size)
                if index is not None:
                    sites.append(Site(node, name, slot.dims, index, tuple(sorted(beside))))
    return sites


def _index(
    slot: Seen, number: int, owner: Tensor, member: Tensor, orbits: Orbits, units: int
) -> Tensor | None:
    """Where each unit lies, (units, occurrences); None if they do not occur equally often in equal roles."""
    here = (owner[slot.ids] == number).nonzero().flatten()
    ids = slot.ids[here]
    unit = member[ids]
    if not torch.equal(unit.bincount(minlength=units), torch.full((units,), here.numel() // units)):
        return None
    order = slot.position[here].argsort(stable=True)
    order = order[orbits.role_of[ids[order]].argsort(stable=True)]
    order = order[unit[order].argsort(stable=True)]
    table = order.view(units, -1)
    for what in (slot.position[here], orbits.role_of[ids]):
        if not torch.equal(what[table], what[table][:1].expand_as(table)):
            return None
    table = here[table]
    return table[:, table[0].argsort()]


def _alike(axis: Axis, other: Axis) -> bool:
    """Whether two axes have the same units in the same places."""
    return (
        axis.size == other.size
        and len(axis.places) == len(other.places)
        and all(
            (a.parameter, a.dim, a.blocks) == (b.parameter, b.dim, b.blocks) and torch.equal(a.index, b.index)
            for a, b in zip(axis.places, other.places, strict=True)
        )
    )

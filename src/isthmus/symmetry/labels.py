"""Label tensors: what an abstract execution knows of every element of a tensor.

The graph of a network is run on labels instead of numbers. A label says of each element
- by its *slots*, to which hidden units it belongs (an element of a weight matrix has two: its row's unit
  and its column's), and
- by its *position*, a hash of everything about it that may not move: batch, pixel, token, a constant's value.

**The invariant on which soundness rests: within one tensor, same ids and same position mean same content.**
Hence, if a group element sends the unit u to g(u), the element labelled (g(u), p) of the transformed
network holds what the element labelled (u, p) held before. A label may be finer than need be (that loses
symmetry), never coarser (that would break the function).

Every label tensor has stride 0 along the axes on which it does not depend, so that labels stay tiny.
All arithmetic is `join` (elements that meet one another) and `reduce` (elements that are summed, say, so
that only the set of them matters); what reads its input in order goes through `in_order`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from isthmus.symmetry.partitions import numbered_by_appearance
from isthmus.symmetry.units import Units

# A sum of more products than this is 0 by chance only, even if some factors often are.
_FEW = 3
_GOLDEN = -7046029254386353131
_FIRST = -4658895280553007687
_SECOND = -7723592293110705685


@dataclass(frozen=True, eq=False)
class Label:
    """What is known of a tensor's elements.

    Attributes:
        slots: int64 tensors of the tensor's shape; each maps an element to the id of a hidden unit.
        position: int64 tensor of the tensor's shape; a hash of what may not move.
        origin: in words, why the position varies: which input or constant it comes from.
        value: the tensor itself, if it is a constant of the graph.
        points: for a tensor of numbers of units (the indices that a sort gives, say): the ids of the axis
            into which they point, in order, shape (size,). The numbers change as those units move; only
            rules that know of this may read them.
        distinct: whether no two elements are equal but by chance, whatever the input: only then does a
            ranking not depend on the order of the units.
        content: a token that data movement keeps. Across tensors of one token, too, same ids, slot by slot
            and in the order of the slots, and same position mean same content.
    """

    slots: tuple[Tensor, ...]
    position: Tensor
    origin: str = ""
    value: Tensor | None = None
    points: Tensor | None = None
    distinct: bool = False
    content: object = field(default_factory=object)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor that is described."""
        return tuple(self.position.shape)


# -- stride-0 tensors -----------------------------------------------------------------------------


def varying(tensor: Tensor) -> frozenset[int]:
    """The axes along which a label tensor depends on the index."""
    return frozenset(
        axis
        for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True))
        if size > 1 and stride != 0
    )


def core(tensor: Tensor) -> Tensor:
    """The same tensor with size 1 along every axis on which it does not depend."""
    for axis in range(tensor.dim()):
        if tensor.shape[axis] > 1 and tensor.stride(axis) == 0:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def compress(tensor: Tensor) -> Tensor:
    """The same values with stride 0 along every axis on which they do not depend."""
    small = core(tensor)
    if tensor.numel() == 0:
        return small.expand(tensor.shape)
    for axis in range(small.dim()):
        if small.shape[axis] > 1:
            first = small.narrow(axis, 0, 1)
            if bool((small.narrow(axis, 1, 1) == first).all()) and bool((small == first).all()):
                small = first
    return small.expand(tensor.shape)


def along(values: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    """A vector laid along one axis of `shape`, constant along the others."""
    view = [1] * len(shape)
    view[axis] = values.numel()
    return values.view(view).expand(tuple(shape))


def along_blocks(values: Tensor, shape: Sequence[int], blocks: int, dim: int) -> Tensor:
    """A vector laid along one axis of `shape`, a piece of it for each of the equal blocks of axis 0."""
    view = [size if axis in (0, dim) else 1 for axis, size in enumerate(shape)]
    rows = values.view(blocks, shape[dim]).repeat_interleave(shape[0] // blocks, 0)
    return rows.view(view).expand(tuple(shape))


def constant(shape: Sequence[int], value: int = 0) -> Tensor:
    """One number everywhere."""
    return torch.full((1,) * len(shape), value, dtype=torch.int64).expand(tuple(shape))


def mix(values: Tensor) -> Tensor:
    """A bijective scrambling of int64 values (splitmix64): ids become hashes that may be summed."""
    values = values + _GOLDEN
    values = (values ^ ((values >> 30) & 0x3FFFFFFFF)) * _FIRST
    values = (values ^ ((values >> 27) & 0x1FFFFFFFFF)) * _SECOND
    return values ^ ((values >> 31) & 0x1FFFFFFFF)


def combine(positions: Sequence[Tensor]) -> Tensor:
    """One hash of several positions of one shape, their order included."""
    total = core(positions[0])
    for other in positions[1:]:
        total = mix(total * 3 + mix(core(other)))
    return total.expand(positions[0].shape)


def grid(shape: Sequence[int], axes: Iterable[int]) -> Tensor:
    """A position that differs at every index along these axes."""
    chosen = set(axes)
    sizes = [size if axis in chosen else 1 for axis, size in enumerate(shape)]
    return compress(mix(torch.arange(math.prod(sizes))).view(sizes).expand(tuple(shape)))


def fold(position: Tensor, axes: Iterable[int]) -> Tensor:
    """One ordered hash of the positions along these axes, which are kept with size 1."""
    small = core(position)
    folded = [axis for axis in axes if small.shape[axis] > 1]
    if folded:
        small = mix(small * 3 + grid(small.shape, folded)).sum(folded, keepdim=True)
    gone = set(axes)
    return small.expand([1 if axis in gone else size for axis, size in enumerate(position.shape)])


# -- making labels --------------------------------------------------------------------------------


def of_constant(value: Tensor, origin: str = "a constant") -> Label:
    """The label of a known tensor: equal values are the same content."""
    value = value.detach().cpu()
    return Label((), _hash_values(value), origin, value)


def of_input(shape: Sequence[int], origin: str) -> Label:
    """The label of a tensor of which nothing is known but that it stays as it is."""
    return Label((), grid(shape, range(len(shape))), origin)


def _hash_values(value: Tensor) -> Tensor:
    """A hash of each element's value; NaN and -0.0 are values like others."""
    small = core(value)
    if small.is_complex():
        parts = torch.view_as_real(small.resolve_conj()).double().view(torch.int64)
        return compress(mix(mix(parts[..., 0]) * 3 + parts[..., 1]).expand(value.shape))
    bits = small.double().view(torch.int64) if small.is_floating_point() else small.to(torch.int64)
    return compress(mix(bits).expand(value.shape))


# -- the primitives -------------------------------------------------------------------------------


def join(units: Units, labels: Sequence[Label], where: str) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """Relate the labels of tensors whose elements meet one another, index by index.

    Slots that vary over the same axes are related; where a position varies along a slot's axes, its units
    are coloured by it. Units that are pinned already count as positions.

    Args:
        units: the solver's state, which takes the relations.
        labels: labels of shapes that broadcast with one another.
        where: the operation, for the reasons.

    Returns:
        The slots of the result, no two of which vary along the same axis, and all positions.
    """
    shape = np.broadcast_shapes(*(label.shape for label in labels))
    labels = [_without_fixed(units, label) for label in labels]
    slots = disjoint(units, [slot.expand(shape) for label in labels for slot in label.slots])
    positions = [compress(label.position).expand(shape) for label in labels]
    origins = [label.origin for label in labels]
    _colour(units, slots, positions, origins, where)
    return slots, positions


def _without_fixed(units: Units, label: Label) -> Label:
    """The label with units that are pinned as positions: they tell elements apart and need no relations."""
    fixed = [units.fixed(core(slot)) for slot in label.slots]
    if not any(fixed):
        return label
    hashes = [
        mix(core(slot)).expand(label.shape) for slot, still in zip(label.slots, fixed, strict=True) if still
    ]
    loose = tuple(slot for slot, still in zip(label.slots, fixed, strict=True) if not still)
    first = next(slot for slot, still in zip(label.slots, fixed, strict=True) if still)
    origin, cause = label.origin, units.cause(core(first))
    if "told apart" not in cause and "may not move" not in origin:
        origin = f"{origin or 'units'}, which may not move ({cause})"
    return replace(label, slots=loose, position=combine([label.position, *hashes]), origin=origin)


def pointwise(units: Units, labels: Sequence[Label], where: str) -> Label:
    """The label of a function applied element by element, with broadcasting."""
    if len(labels) == 1:
        return replace(labels[0], value=None, points=None, content=object())
    slots, positions = join(units, labels, where)
    distinct = any(label.distinct for label in labels)
    return Label(slots, combine(positions), origin_of(labels), distinct=distinct)


def contract(units: Units, labels: Sequence[Label], axes: Sequence[int], where: str) -> Label:
    """The label of a product of tensors summed over these axes, which are kept with size 1.

    The product's own position is never formed: each factor's is folded over the summed axes first. Units
    that do not lie along the summed axes meet the sum, not what is summed: so those of a weight's rows never
    have to be paired with those of its columns one by one.
    """
    shape = np.broadcast_shapes(*(label.shape for label in labels))
    wide = [_spread(label, shape) for label in labels]
    gone = {axis % len(shape) for axis in axes}
    small = [1 if axis in gone else size for axis, size in enumerate(shape)]
    summed = [
        replace(label, slots=tuple(slot for slot in label.slots if varying(slot) & gone)) for label in wide
    ]
    slots, positions = join(units, summed, where)
    result = reduce(units, slots, positions, axes, where, origin_of(labels))
    outer = [
        Label(tuple(core(slot).expand(small) for slot in kept), constant(small))
        for label in wide
        if (kept := [slot for slot in label.slots if not varying(slot) & gone])
    ]
    result = pointwise(units, [result, *outer], where) if outer else result
    many = math.prod(shape[axis] for axis in gone) > _FEW
    return replace(result, distinct=many or all(label.distinct for label in labels))


def _spread(label: Label, shape: Sequence[int]) -> Label:
    """The label of the same tensor expanded to a shape."""
    slots = tuple(compress(slot).expand(tuple(shape)) for slot in label.slots)
    return Label(slots, label.position.expand(tuple(shape)), label.origin)


def reduce(
    units: Units,
    slots: Sequence[Tensor],
    positions: Sequence[Tensor],
    axes: Sequence[int],
    where: str,
    origin: str = "",
) -> Label:
    """The label of a function of the *multiset* of elements along these axes, which are kept with size 1.

    The units inside become a block: what is summed may be reordered inside a block, and blocks may be
    exchanged as wholes. `slots` and `positions` come from `join`.
    """
    shape = positions[0].shape
    gone = {axis % len(shape) for axis in axes}
    small = [1 if axis in gone else size for axis, size in enumerate(shape)]
    kept: list[Tensor] = []
    for slot in slots:
        if not varying(slot) & gone:
            kept.append(core(slot).expand(small))
        elif varying(slot) <= gone:
            units.block(core(slot).reshape(-1), f"{where}: only the units of one sum may be exchanged")
        else:
            kept.append(_blocks(units, slot, positions, gone, where).expand(small))
    return Label(tuple(kept), combine([fold(position, gone) for position in positions]), origin)


def in_order(units: Units, label: Label, axes: Iterable[int], where: str) -> Label:
    """The label of a function that reads these axes in order, which are kept with size 1.

    Units are told apart by their places along the axes; as no place may move, every slot is looked at by
    itself. The caller lays the result's own places over it.
    """
    gone = {axis % len(label.shape) for axis in axes} if label.shape else set()
    small = [1 if axis in gone else size for axis, size in enumerate(label.shape)]
    positions = [compress(label.position), grid(label.shape, gone)]
    kept = []
    for slot in map(compress, label.slots):
        if not varying(slot) & gone:
            kept.append(core(slot).expand(small))
            continue
        _colour(units, (slot,), positions, [label.origin, "the order in which they are read"], where)
        if not varying(slot) <= gone:
            kept.append(_blocks(units, slot, positions, gone, where).expand(small))
    return Label(tuple(kept), fold(label.position, gone), label.origin)


def pin(units: Units, label: Label, reason: str) -> None:
    """Let no unit of this tensor move, nor any to which its numbers point."""
    for slot in label.slots:
        units.pin(core(slot), reason)
    if label.points is not None:
        units.pin(label.points, reason)


def disjoint(units: Units, slots: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Relate slots that vary along a common axis, until no two do; constant ones are left out."""
    kept: list[Tensor] = []
    for slot in slots:
        slot = compress(slot)
        while (clash := next((s for s in kept if varying(s) & varying(slot)), None)) is not None:
            kept = [other for other in kept if other is not clash]
            slot = _relate(units, clash, slot)
        if varying(slot):
            kept.append(slot)
    return tuple(kept)


def origin_of(labels: Sequence[Label]) -> str:
    """The origin of the position that varies most."""
    return max(labels, key=lambda label: (len(varying(label.position)), bool(label.origin))).origin


def same_slots(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether two tuples of slots (compressed, of tensors of one shape) hold the same ids, slot by slot."""
    return len(first) == len(second) and all(
        core(one).shape == core(two).shape and torch.equal(core(one), core(two))
        for one, two in zip(first, second, strict=True)
    )


def _relate(units: Units, first: Tensor, second: Tensor) -> Tensor:
    """Relate two slots over the axes along which either varies; the finer one comes back."""
    if same_slots([first], [second]):
        return first
    one, two = core(first), core(second)
    both = [max(sizes) for sizes in zip(one.shape, two.shape, strict=True)]
    one, two = one.expand(both), two.expand(both)
    ids = units.relate(one.reshape(-1), two.reshape(-1))
    return ids.view(one.shape).expand(first.shape)


def _colour(
    units: Units, slots: Sequence[Tensor], positions: Sequence[Tensor], origins: Sequence[str], where: str
) -> None:
    """Colour every unit by the positions at which it occurs.

    A position is folded, in order, over all axes along which the slot does not vary; over the occurrences
    of one unit only the multiset counts.
    """
    for slot in slots:
        axes, small = varying(slot), core(slot)
        meeting = [
            (core(fold(position, varying(position) - axes)).expand(small.shape), origin)
            for position, origin in zip(positions, origins, strict=True)
            if varying(position) & axes
        ]
        if meeting:
            keys = combine([position for position, _ in meeting])
            cause = ", ".join(dict.fromkeys(origin for _, origin in meeting if origin)) or "their places"
            reason = f"{where}: units are told apart by {cause}"
            units.colour(small.reshape(-1), keys.reshape(-1), reason)


def _blocks(units: Units, slot: Tensor, positions: Sequence[Tensor], gone: set[int], where: str) -> Tensor:
    """Give every row of a slot (the units that are reduced together) a block, and relate its units to it.

    Two rows are one block only if they hold the same units in the same order: then they are the same
    content, wherever their positions agree.
    """
    rows = core(fold(core(slot), gone))
    number = numbered_by_appearance(rows)
    block = units.fresh(int(number.max()) + 1)[number]
    small = core(slot)
    inside = _relate(units, small, block.expand(small.shape))
    if not torch.equal(inside, small):
        _colour(units, (inside,), positions, [""] * len(positions), where)
    once = torch.ones_like(inside).reshape(-1)
    units.colour(inside.reshape(-1), once, f"{where}: units are summed a different number of times")
    return block

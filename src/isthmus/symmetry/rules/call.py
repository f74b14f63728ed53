"""One operation of the graph, as the rules see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from isthmus.symmetry.labels import (
    Label,
    combine,
    compress,
    constant,
    disjoint,
    of_input,
    pin,
    same_slots,
    varying,
)
from isthmus.symmetry.units import Units

Result = Label | tuple[Label | None, ...]


@dataclass(frozen=True, eq=False)
class Call:
    """An operation with labels in the place of its tensors.

    Attributes:
        units: the solver's state.
        name: the operation's name, such as `aten::linear`.
        run: the operation itself.
        arguments: all arguments by the names of the operation's schema, defaults included.
        shapes: the shapes of the tensors that it returns.
        used: the numbers of the outputs that something reads.
        where: operation and module in words, for reasons.
        several: whether the operation returns several tensors.
    """

    units: Units
    name: str
    run: Callable[..., Any]
    arguments: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    used: frozenset[int]
    where: str
    several: bool = False

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        """The argument, or `default` if this overload has none of that name."""
        return self.arguments.get(argument, default)

    @property
    def labels(self) -> list[Label]:
        """The labels among the arguments, in order, however deep they lie in lists and dicts."""
        leaves = pytree.tree_leaves(list(self.arguments.values()))
        return [leaf for leaf in leaves if isinstance(leaf, Label)]


Rule = Callable[[Call], Result]


def moved(label: Label, movement: Callable[[Tensor], Tensor]) -> Label:
    """The label after pure data movement that leaves no element out."""
    return replace(
        label,
        slots=tuple(compress(movement(slot)) for slot in label.slots),
        position=compress(movement(label.position)),
        value=None,
    )


def reshaped(label: Label, shape: Sequence[int]) -> Label:
    """The label of the same elements in another shape."""
    return moved(label, lambda t: t.reshape(tuple(shape)))


def picked(units: Units, label: Label, movement: Callable[[Tensor], Tensor], where: str) -> Label:
    """The label after data movement that may leave elements out.

    A unit that is picked out of its axis leaves a tensor which does not vary with it: the slot would be
    dropped together with the fact that this one unit was meant, so that unit is pinned, and its id becomes a
    position, together with the slot's number: a row i of f(u_i, v_j) is not its column i.
    """
    result = moved(label, movement)
    position = result.position
    for number, (before, after) in enumerate(zip(label.slots, result.slots, strict=True)):
        if varying(before) and not varying(after) and after.numel():
            units.pin(after.reshape(-1)[:1], f"{where}: this unit is picked out of its axis")
            position = combine([position, constant(position.shape, number), after])
    kept = tuple(slot for slot in result.slots if varying(slot))
    return replace(result, slots=kept, position=position)


def unknown(call: Call) -> Result:
    """What no rule explains: all that feeds it is pinned, and what comes out may not move."""
    for label in call.labels:
        pin(call.units, label, f"{call.where}: there is no rule for this operation")
    labels = tuple(of_input(shape, f"the result of {call.where}") for shape in call.shapes)
    return labels if call.several else labels[0]


def axes_of(dims: Any, rank: int) -> list[int]:
    """Axis arguments as a list of non-negative numbers; None and [] mean all."""
    if dims is None or (isinstance(dims, Sequence) and not dims):
        return list(range(rank))
    chosen = dims if isinstance(dims, Sequence) else [dims]
    return [dim % max(rank, 1) for dim in chosen] if rank else []


def settled(units: Units, label: Label) -> Label:
    """The same label with slots that vary along distinct axes.

    Where slots had to be merged, its ids are no longer those of the tensor that it is a piece of.
    """
    slots = disjoint(units, label.slots)
    content = label.content if same_slots(slots, label.slots) else object()
    return replace(label, slots=slots, value=None, content=content)

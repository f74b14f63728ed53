"""One operation of the graph, as the rules for charges see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from isthmus.symmetry.rescale.charges import Charge, Equations, broadcast, reshaped, squashed

Result = Charge | tuple[Charge | None, ...]
ALIKE = "what is added or compared there must have one factor"


@dataclass(frozen=True, eq=False)
class Call:
    """An operation with charges in the place of its tensors.

    Attributes:
        equations: what charges have to fulfil.
        name: the operation's name, such as `aten::linear`.
        run: the operation itself.
        arguments: all arguments by the names of the operation's schema, defaults included.
        shapes: the shapes of the tensors that it returns.
        dtypes: their dtypes.
        used: the numbers of the outputs that something reads.
        where: operation and module in words, for reasons.
        several: whether the operation returns several tensors.
    """

    equations: Equations
    name: str
    run: Callable[..., Any]
    arguments: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    used: frozenset[int]
    where: str
    several: bool = False

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        """The argument, or `default` if this overload has none of that name."""
        return self.arguments.get(argument, default)

    @property
    def signs(self) -> bool:
        """Whether factors are signs; positive numbers otherwise."""
        return self.equations.signs

    @property
    def charges(self) -> list[Charge]:
        """The charges among the arguments, in order, however deep they lie in lists and dicts."""
        leaves = pytree.tree_leaves(list(self.arguments.values()))
        return [leaf for leaf in leaves if isinstance(leaf, Charge)]

    @property
    def one(self) -> Charge:
        """The first charge."""
        return self.charges[0]

    def because(self, reason: str) -> str:
        """A reason that names the operation."""
        return f"{self.where}: {reason}"

    # -- what rules state -----------------------------------------------------------------------

    def neutral(self, number: int = 0) -> Charge:
        """A result that does not change."""
        return Charge(self.shapes[number])

    def pinned(self, reason: str) -> Result:
        """Nothing that comes in may change; so nothing that comes out does."""
        for charge in self.charges:
            self.equations.zero(charge, self.because(reason))
        return self.all_neutral()

    def all_neutral(self) -> Result:
        """Results that do not change."""
        results = tuple(Charge(shape) for shape in self.shapes)
        return results if self.several else results[0]

    def still(self, charge: Charge | None, reason: str) -> None:
        """This argument may not change."""
        if charge is not None:
            self.equations.zero(charge, self.because(reason))

    def along(self, charge: Charge, axes: Sequence[int], reason: str = ALIKE) -> Charge:
        """The charge does not depend on the index along these axes."""
        return self.equations.along(charge, axes, self.because(reason))

    def meet(self, charges: Sequence[Charge]) -> Charge:
        """These have one charge."""
        return self.equations.meet(charges, self.because(ALIKE))

    def product(self, charges: Sequence[Charge], powers: Sequence[int] | None = None) -> Charge:
        """The charge of a product."""
        return self.equations.product(charges, self.where, powers)

    def power(self, charge: Charge, numerator: int, denominator: int = 1) -> Charge:
        """The charge of a power."""
        return self.equations.power(charge, numerator, denominator, self.where)

    def spread(self, charge: Charge) -> Charge:
        """The charge, broadcast to the shape of the first result."""
        return broadcasted(charge, self.shapes[0])


Rule = Callable[[Call], Result]


def broadcasted(charge: Charge, shape: Sequence[int]) -> Charge:
    """The charge in a larger shape."""
    whole = broadcast([charge, Charge(tuple(shape))])
    return Charge(whole, tuple((c, ids.expand(whole)) for c, ids in charge.terms), charge.zero)


def operand(item: Any) -> Charge:
    """A tensor or a number as a charge; only the number 0 may change."""
    if isinstance(item, Charge):
        return item
    return Charge((), zero=isinstance(item, (int, float)) and item == 0)


def axes_of(dims: Any, rank: int) -> list[int]:
    """Axis arguments as a list of non-negative numbers; None and [] mean all."""
    if dims is None or (isinstance(dims, Sequence) and not dims):
        return list(range(rank))
    chosen = dims if isinstance(dims, Sequence) else [dims]
    return [dim % max(rank, 1) for dim in chosen] if rank else []


def summed(call: Call, charge: Charge, axes: Sequence[int], shape: Sequence[int]) -> Charge:
    """The charge of a sum (or another function of degree 1) along axes, in the shape of the result."""
    return reshaped(squashed(call.along(charge, axes), axes), shape)


def unknown(call: Call) -> Result:
    """What no rule explains: nothing that feeds it may change."""
    return call.pinned("there is no rule for this operation")

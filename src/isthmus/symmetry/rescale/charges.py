"""Charges: by which factor each element of a tensor changes when the parameters are rescaled.

The graph of a network is run on charges instead of numbers. Every unit of every axis of a parameter has a
*variable*: the logarithm of its factor (positive scalings, real numbers) or the bit of its sign (sign flips,
numbers modulo 2). An element of a parameter W changes by the factor of its row times that of its column; in
general the charge of an element is a sum of variables with integer coefficients.

**The invariant on which soundness rests: if every equation holds, each element of each tensor of the rescaled
network is the old one times exp(charge), or (-1)^charge.** A rule may state more equations than need be (that
loses symmetry), never fewer (that would break the function).

A charge holds one int64 tensor of variables for each term, with stride 0 along the axes on which it does not
depend; so it stays tiny, and data movement runs the real operation on it. All equations are made by two
primitives: `along` (the charge may not depend on these axes) and `zero` (there may be none).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from isthmus.symmetry.labels import compress, constant, core, varying

Term = tuple[int, Tensor]

NOTHING = 0
"""The variable that is always 0."""

_JOINT = 1 << 23
_TERMS = 6


@dataclass(frozen=True)
class Gauge:
    """A parameter's rows may be scaled up and its columns down without any change of it.

    Attributes:
        parameter: its name.
        variables: the first of its variables, and the one after the last.
        freedoms: in how many ways: one, or one for each group of a grouped convolution.
    """

    parameter: str
    variables: tuple[int, int]
    freedoms: int

    def holds(self, ids: Tensor) -> bool:
        """Whether there are variables of the parameter among these."""
        return bool(((core(ids) >= self.variables[0]) & (core(ids) < self.variables[1])).any())


@dataclass(frozen=True, eq=False)
class Charge:
    """The charge of every element of a tensor: Σ coefficient * variable.

    Attributes:
        shape: the tensor's shape.
        terms: (coefficient, variables): int64 tensors of the tensor's shape.
        zero: whether every element is known to be 0, so that any charge is right.
        value: the tensor itself, if it is a constant of the graph.
        gauge: set if this is a parameter with a factor for each row and one for each column, moved at most.
    """

    shape: tuple[int, ...]
    terms: tuple[Term, ...] = ()
    zero: bool = False
    value: Tensor | None = None
    gauge: Gauge | None = None


@dataclass(frozen=True, eq=False)
class Block:
    """Equations of one form: Σ_k coefficients[k] * variables[:, k] = 0, one a row."""

    coefficients: np.ndarray
    variables: np.ndarray
    reason: int


class Equations:
    """The linear equations that charges have to fulfil.

    Args:
        signs: whether the variables are bits, and all arithmetic is modulo 2.
    """

    def __init__(self, signs: bool) -> None:
        self.signs = signs
        self.count = 1
        self.blocks: list[Block] = []
        self.reasons: dict[str, int] = {}
        self.gauged: set[str] = set()

    # -- variables and charges ------------------------------------------------------------------

    def fresh(self, shape: Sequence[int]) -> Tensor:
        """New variables."""
        size = math.prod(shape)
        self.count += size
        return torch.arange(self.count - size, self.count).reshape(tuple(shape))

    def tidy(self, terms: Iterable[Term]) -> tuple[Term, ...]:
        """The same sum without terms that are nothing; equal variables in one term."""
        kept: list[Term] = []
        for coefficient, ids in terms:
            small = core(ids)
            for number, (other, theirs) in enumerate(kept):
                if small.shape == core(theirs).shape and torch.equal(small, core(theirs)):
                    kept[number] = (other + coefficient, theirs)
                    break
            else:
                kept.append((coefficient, ids))
        if self.signs:
            kept = [(coefficient % 2, ids) for coefficient, ids in kept]
        return tuple((c, ids) for c, ids in kept if c and bool((core(ids) != NOTHING).any()))

    def product(self, charges: Sequence[Charge], where: str, powers: Sequence[int] | None = None) -> Charge:
        """The charge of a pointwise product with broadcasting; each factor may have an integer power."""
        shape = broadcast(charges)
        if any(charge.zero for charge in charges):
            return Charge(shape, zero=True)
        powers = [1] * len(charges) if powers is None else powers
        terms = self.tidy(
            (power * coefficient, ids.expand(shape))
            for charge, power in zip(charges, powers, strict=True)
            for coefficient, ids in charge.terms
        )
        if len(terms) > _TERMS:
            terms = self._named(terms, shape, where)
        return Charge(shape, terms)

    def power(self, charge: Charge, numerator: int, denominator: int, where: str) -> Charge:
        """The charge of a power; the root of a charge is a new variable, where it must be one."""
        terms = self.tidy((c * numerator, ids) for c, ids in charge.terms)
        if denominator == 1 or not terms:
            return Charge(charge.shape, terms)
        if self.signs:
            self.zero(Charge(charge.shape, terms), f"{where}: a root does not keep signs")
            return Charge(charge.shape)
        if all(c % denominator == 0 for c, _ in terms):
            return Charge(charge.shape, tuple((c // denominator, ids) for c, ids in terms))
        return Charge(charge.shape, self._named(terms, charge.shape, where, denominator))

    def _named(
        self, terms: Sequence[Term], shape: tuple[int, ...], where: str, denominator: int = 1
    ) -> tuple[Term, ...]:
        """One new variable for each value of a sum of terms, divided by the denominator."""
        axes = set().union(*(varying(ids) for _, ids in terms))
        sizes = [size if axis in axes else 1 for axis, size in enumerate(shape)]
        if math.prod(sizes) > _JOINT:
            self.zero(Charge(shape, tuple(terms)), f"{where}: it takes too many variables")
            return ()
        name = self.fresh(sizes).expand(shape)
        self._state([*terms, (-denominator, name)], sizes, f"{where}: another symbol for the same factor")
        return ((1, name),)

    # -- equations ------------------------------------------------------------------------------

    def along(self, charge: Charge, axes: Iterable[int], reason: str) -> Charge:
        """State that the charge does not depend on the index along these axes; it keeps its shape."""
        rank = len(charge.shape)
        gone = {axis % rank for axis in axes} if rank else set()
        kept: list[Term] = []
        for terms, where in _components(self.tidy(charge.terms)):
            kept += self._constant(terms, where, gone, charge, reason) if where & gone else terms
        return Charge(charge.shape, self.tidy(kept), charge.zero)

    def zero(self, charge: Charge, reason: str) -> None:
        """State that there is no charge."""
        if charge.zero:
            return
        pieces = _components(self.tidy(charge.terms))
        if sum(bool(where) for _, where in pieces) > 1:
            charge = self.along(charge, range(len(charge.shape)), reason)
            pieces = _components(charge.terms)
        terms = [term for piece, _ in pieces for term in piece]
        if terms:
            axes = set().union(*(where for _, where in pieces))
            sizes = [size if axis in axes else 1 for axis, size in enumerate(charge.shape)]
            self._state(terms, sizes, reason)

    def meet(self, charges: Sequence[Charge], reason: str) -> Charge:
        """State that charges of tensors whose elements are added, or chosen from, are equal.

        Returns:
            The charge of the result, the simplest of the equal ones.
        """
        shape = broadcast(charges)
        present = [charge for charge in charges if not charge.zero]
        if not present:
            return Charge(shape, zero=True)
        wide = [
            Charge(shape, self.tidy((c, ids.expand(shape)) for c, ids in charge.terms)) for charge in present
        ]
        best = min(wide, key=lambda x: (sum(core(ids).numel() for _, ids in x.terms), len(x.terms)))
        for other in wide:
            if other is not best:
                self.zero(self.product([best, other], reason, [1, -1]), reason)
        return best

    def _constant(
        self, terms: list[Term], where: frozenset[int], gone: set[int], charge: Charge, reason: str
    ) -> list[Term]:
        """State that terms which hang together are constant along axes; what is left varies over the others.

        A weight whose rows and columns have not been told apart yet (see `Charge.gauge`) is scaled such that
        the sum is 0: that is always possible, and leaves the weight as it is.
        """
        rest = where - gone
        sizes = [size if axis in where else 1 for axis, size in enumerate(charge.shape)]
        small = [size if axis in rest else 1 for axis, size in enumerate(charge.shape)]
        if math.prod(sizes) > _JOINT:
            for coefficient, ids in terms:
                self.zero(Charge(charge.shape, ((coefficient, ids),)), f"{reason} (too many to solve for)")
            return []
        gauge = charge.gauge
        free = gauge is not None and gauge.parameter not in self.gauged
        if gauge and free and math.prod(small) == gauge.freedoms and any(gauge.holds(i) for _, i in terms):
            self.gauged.add(gauge.parameter)
            self._state(terms, sizes, reason)
            return []
        if len(terms) == 1:
            ((coefficient, ids),) = terms
            first = ids
            for axis in gone:
                first = first.narrow(axis, 0, 1) if ids.shape[axis] else first
            first = first.expand(charge.shape)
            self._state([(1, ids), (-1, first)], sizes, reason)
            return [(coefficient, compress(first))]
        name = self.fresh(small).expand(charge.shape)
        self._state([*terms, (-1, name)], sizes, reason)
        return [(1, name)]

    def _state(self, terms: Sequence[Term], sizes: Sequence[int], reason: str) -> None:
        """Write down one equation for each index of the space of these sizes."""
        columns = [_cut(ids, sizes).reshape(-1).numpy() for _, ids in terms]
        if columns and columns[0].size:
            number = self.reasons.setdefault(reason, len(self.reasons))
            coefficients = np.array([coefficient for coefficient, _ in terms], dtype=np.int64)
            self.blocks.append(Block(coefficients, np.stack(columns, 1), number))

    def pin(self, variables: Tensor, reason: str) -> None:
        """State that these variables are 0."""
        self._state([(1, variables.reshape(-1))], [variables.numel()], reason)


def broadcast(charges: Sequence[Charge]) -> tuple[int, ...]:
    """The common shape."""
    return tuple(np.broadcast_shapes(*(charge.shape for charge in charges)))


def moved(charge: Charge, movement: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Charge:
    """The charge after pure data movement to this shape; elements may be left out or repeated."""

    def move(ids: Tensor) -> Tensor:
        if ids.numel() and not varying(ids):
            return constant(shape, int(core(ids).reshape(-1)[0]))
        return compress(movement(ids))

    terms = tuple((coefficient, move(ids)) for coefficient, ids in charge.terms)
    return replace(charge, shape=tuple(shape), terms=terms, value=None)


def reshaped(charge: Charge, shape: Sequence[int]) -> Charge:
    """The charge of the same elements in another shape."""
    shape = _without_blank(charge.shape, shape)
    return moved(charge, lambda t: t.reshape(tuple(shape)), shape)


def permuted(charge: Charge, order: Sequence[int]) -> Charge:
    """The charge with its axes in another order."""
    return moved(charge, lambda t: t.permute(tuple(order)), [charge.shape[axis] for axis in order])


def narrowed(charge: Charge, axis: int, start: int, length: int) -> Charge:
    """The charge of a piece along an axis."""
    shape = list(charge.shape)
    shape[axis] = length
    return moved(charge, lambda t: t.narrow(axis, start, length), shape)


def squashed(charge: Charge, axes: Iterable[int]) -> Charge:
    """The charge with size 1 along axes on which it does not depend."""
    gone = {axis % len(charge.shape) for axis in axes} if charge.shape else set()
    shape = [1 if axis in gone else size for axis, size in enumerate(charge.shape)]
    return replace(charge, shape=tuple(shape), terms=tuple((c, _cut(i, shape)) for c, i in charge.terms))


def _cut(ids: Tensor, sizes: Sequence[int]) -> Tensor:
    """The variables with these sizes, where a size of 1 takes the first of equal ones."""
    for axis, size in enumerate(sizes):
        if size == 1 and ids.shape[axis] > 1:
            ids = ids.narrow(axis, 0, 1)
    return ids.expand(tuple(sizes))


def _without_blank(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """A shape with its -1 filled in."""
    known = math.prod(size for size in after if size != -1)
    return [math.prod(before) // max(known, 1) if size == -1 else size for size in after]


def _components(terms: Sequence[Term]) -> list[tuple[list[Term], frozenset[int]]]:
    """The terms in groups that share no axis along which they vary, each with its axes.

    Terms that do not vary at all come one by one.
    """
    groups: list[tuple[list[Term], frozenset[int]]] = []
    for term in terms:
        group, axes = [term], varying(term[1])
        apart = []
        for others, theirs in groups:
            if theirs & axes:
                group, axes = [*others, *group], axes | theirs
            else:
                apart.append((others, theirs))
        groups = [*apart, (group, axes)]
    return groups

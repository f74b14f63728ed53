"""The permutation group of a network's hidden units, and its elements.

A `Symmetry` is data: axes of interchangeable units, each with the places in the parameters and buffers where
its units lie. An `Alignment` is one group element g. Conventions: a permutation p of an axis of n units is a
LongTensor with new[i] = old[p[i]]; `(g @ h).apply(w) == g.apply(h.apply(w))`; and f(g·θ, x) = f(θ, x).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from isthmus.errors import SymmetryError
from isthmus.layout import Layout, describe_difference
from isthmus.symmetry import action, storage
from isthmus.symmetry.action import Axis, Place
from isthmus.symmetry.verify import Verification
from isthmus.weights import Weights

if TYPE_CHECKING:
    from isthmus.symmetry.export import Inputs

Element = TypeVar("Element")
_LISTED = 3
_FIELDS = ("symmetry", "objective", "outcome", "history")


class Outcome(Enum):
    """How an alignment came about."""

    IDENTITY = "the identity: no unit is moved"
    RANDOM = "a random element of the group"
    COMPOSED = "made of other alignments"
    CONVERGED = "the matching converged: no axis could be improved any more"
    SWEEP_LIMIT = "the matching stopped at its limit of sweeps, before it converged"
    ASSIGNED = "the matching solved one assignment an axis, which is exact"
    BUDGET = "the matching used up its steps; the best element on the way was kept"
    DIVERGED = "the matching met a loss that is not finite; the best element before that was kept"
    PROJECTED = "the nearest group element to given scores"


class AbstractGroup(ABC, Generic[Element]):
    """A group that acts on weights and leaves the network's function as it is."""

    @abstractmethod
    def identity(self) -> Element:
        """The neutral element."""

    @abstractmethod
    def act(self, element: Element, weights: Weights) -> Weights:
        """The transformed weights g·θ."""

    @abstractmethod
    def compose(self, first: Element, second: Element) -> Element:
        """The product g h, which acts as h first and g then."""

    @abstractmethod
    def inverse(self, element: Element) -> Element:
        """The element that undoes `element`."""

    @abstractmethod
    def random(self, generator: torch.Generator) -> Element:
        """A random element."""


@dataclass(frozen=True, eq=False, repr=False)
class Symmetry(AbstractGroup["Alignment"]):
    """Which hidden units of a network may be reordered without changing what it computes.

    Attributes:
        layout: the parameters of the network.
        buffers: names and shapes of its buffers.
        axes: the axes, parents before children.
        pinned: (parameter, axis) -> why none, or which, of its units may not move.
        verification: the numerical proof; None if it was not asked for, or if the weights have no values.
        unread: parameters that the traced graph does not read; they are pinned and count for nothing.

    Example:
        >>> import torch, isthmus.symmetry as s
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> found = s.discover(net, torch.zeros(1, 2))
        >>> [(axis.name, axis.size) for axis in found.axes], round(2 ** found.log2_order)
        ([('0.weight[0]', 3)], 6)
    """

    layout: Layout
    buffers: Mapping[str, tuple[int, ...]]
    axes: tuple[Axis, ...]
    pinned: Mapping[tuple[str, int], str]
    verification: Verification | None = None
    unread: tuple[str, ...] = ()

    # -- the group ------------------------------------------------------------------------------

    def identity(self) -> Alignment:
        """The element that moves nothing."""
        return Alignment(self, {axis.name: torch.arange(axis.size) for axis in self.axes})

    def act(self, element: Alignment, weights: Weights) -> Weights:
        """g·θ: coordinates and buffers reordered.

        Raises:
            SymmetryError: the weights have another layout.
        """
        self.check(weights)
        indices = action.gathers(self.axes, element.permutations, self._sizes)
        vector = weights.vector.clone()
        buffers = dict(weights.buffers)
        for name in {name for name, _, _ in indices}:
            moves = {(dim, blocks): index for (n, dim, blocks), index in indices.items() if n == name}
            if name in self.buffers:
                if name in buffers:
                    buffers[name] = action.permute(buffers[name], moves)
                continue
            position = self.layout.index[name]
            self.layout.view(vector, position).copy_(action.permute(weights[name], moves))
        return Weights(weights.layout, vector, buffers)

    def compose(self, first: Alignment, second: Alignment) -> Alignment:
        """The product: `second` first, then `first`."""
        if first.symmetry is not second.symmetry and first.symmetry != second.symmetry:
            raise SymmetryError("two alignments can be composed only if they belong to one symmetry")
        combined = {name: second.permutations[name][p] for name, p in first.permutations.items()}
        return Alignment(self, combined, outcome=Outcome.COMPOSED)

    def inverse(self, element: Alignment) -> Alignment:
        """The element that undoes another."""
        undone = {name: p.argsort() for name, p in element.permutations.items()}
        return Alignment(self, undone, outcome=Outcome.COMPOSED)

    def nearest(self, scores: Mapping[str, Tensor], assign: Callable[[Tensor], Tensor]) -> Alignment:
        """The element that maximises Σ_axis Σ_i scores[axis][i, p[i]], parents and children together.

        Children are solved for the pairs of parents that the parents' choice can use; their value counts in
        it. Exact wherever every axis has at most one parent.

        Args:
            scores: one matrix an axis, shape (size, size); a missing one counts as zeros.
            assign: solves one linear assignment: (n, n) scores -> for each row the chosen column.
        """
        start = {axis.name: torch.arange(axis.size) for axis in self.axes}
        return Alignment(self, action.nearest(self.axes, scores, assign, start), outcome=Outcome.PROJECTED)

    def random(self, generator: torch.Generator) -> Alignment:
        """A uniformly random group element."""
        return Alignment(self, action.random(self.axes, generator), outcome=Outcome.RANDOM)

    # -- what it says ---------------------------------------------------------------------------

    @property
    def log2_order(self) -> float:
        """The base-2 logarithm of the number of group elements: Σ over cells of log2(size!)."""
        sizes = [int(n) for axis in self.axes for n in axis.cells.bincount()]
        return math.fsum(math.lgamma(n + 1) / math.log(2) for n in sizes)

    @property
    def coverage(self) -> float:
        """The share of parameters that lie in tensors which can move, from 0 to 1, of those that are read."""
        moving = {place.parameter for axis in self.axes for place in axis.places}
        sizes = dict(zip(self.layout.names, self.layout.sizes, strict=True))
        read = [name for name in sizes if name not in self.unread]
        return sum(sizes[name] for name in read if name in moving) / max(sum(sizes[name] for name in read), 1)

    def explain(self, parameter: str, axis: int) -> str:
        """In words: which axes of units lie along this axis of a parameter, and why the rest is pinned.

        Raises:
            SymmetryError: there is no such parameter or axis.
        """
        name = dict(self.layout.aliases).get(parameter, parameter)
        if name not in self._sizes or not -len(self._sizes[name]) <= axis < len(self._sizes[name]):
            raise SymmetryError(
                f"there is no axis {axis} of a parameter {parameter!r}; the parameters begin with "
                f"{', '.join(self.layout.names[:_LISTED])}"
            )
        axis %= len(self._sizes[name])
        found = [
            f"{place.index.numel()} places carry units of {each.name}"
            for each in self.axes
            for place in each.places
            if (place.parameter, place.dim) == (name, axis)
        ]
        if reason := self.pinned.get((name, axis)):
            found.append(f"pinned: {reason}")
        return "; ".join(found) or "of size 1: there is nothing to move"

    def summary(self) -> dict[str, object]:
        """The main facts as plain data, for JSON."""
        proof = self.verification
        return {
            "log2_order": self.log2_order,
            "coverage": self.coverage,
            "axes": self.table(),
            "pinned": {f"{name}[{axis}]": reason for (name, axis), reason in self.pinned.items()},
            "verified": None if proof is None else {"error": proof.error, "tolerance": proof.tolerance},
            "failed": [] if proof is None else list(proof.failed),
        }

    def table(self) -> list[dict[str, str]]:
        """One row an axis, in words, for printing."""
        return [
            {
                "axis": axis.name,
                "units": str(axis.size),
                "free": str(axis.free),
                "fixed": str(axis.fixed),
                "parent": axis.parent or "",
                "carried by": ", ".join(f"{p.parameter}[{p.dim}]" for p in axis.places),
            }
            for axis in self.axes
        ]

    def verify(self, module: nn.Module, example_inputs: Inputs) -> Verification:
        """Check numerically that random group elements leave the module's outputs as they are."""
        from isthmus.symmetry.discovery import verify_symmetry  # discovery builds on this file

        return verify_symmetry(self, module, example_inputs)

    def check(self, weights: Weights) -> None:
        """Refuse weights of another layout.

        Raises:
            SymmetryError: naming the first differences.
        """
        difference = self.layout.difference(weights.layout)
        if difference is None and weights.layout.names != self.layout.names:
            difference = "the parameters come in another order; bring the weights over with .conform(other)"
        buffers = {name: tuple(buffer.shape) for name, buffer in weights.buffers.items()}
        expected = {name: shape for name, shape in self.buffers.items() if name in buffers}
        present = {name: shape for name, shape in buffers.items() if name in expected}
        difference = difference or describe_difference(expected, present)
        if difference:
            raise SymmetryError(f"these weights do not fit the symmetry's network: {difference}")

    @property
    def _sizes(self) -> dict[str, tuple[int, ...]]:
        return dict(zip(self.layout.names, self.layout.shapes, strict=True)) | dict(self.buffers)

    # -- values ---------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return (
            f"Symmetry({len(self.axes)} axes, 2^{self.log2_order:.1f} elements, "
            f"{self.coverage:.0%} of the parameters can move, {len(self.pinned)} axes of parameters pinned)"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Symmetry) and storage.to_record(self) == storage.to_record(other)

    __hash__ = None  # type: ignore[assignment]

    def save(self, path: str | Path) -> None:
        """Write the symmetry as JSON."""
        storage.write_json(storage.to_record(self), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Symmetry:
        """Read a symmetry that `save` wrote.

        Raises:
            SymmetryError: the file is no symmetry.
        """
        return cls(**storage.from_record(storage.read_json(Path(path))))


@dataclass(frozen=True, eq=False, repr=False)
class Alignment:
    """An element of a network's symmetry group: one permutation an axis.

    Attributes:
        symmetry: the group.
        permutations: axis name -> LongTensor p of shape (size,) with new[i] = old[p[i]].
        objective: what a matcher maximised, at this element; None if no matcher made it.
        outcome: how it came about.
        history: the objective after each sweep of the matcher, its value at the start first.
    """

    symmetry: Symmetry
    permutations: Mapping[str, Tensor]
    objective: float | None = None
    outcome: Outcome = Outcome.IDENTITY
    history: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "permutations", MappingProxyType(dict(self.permutations)))

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FIELDS} | {"permutations": dict(self.permutations)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, MappingProxyType(value) if name == "permutations" else value)

    def apply(self, weights: Weights) -> Weights:
        """The reordered weights, which compute exactly what the original ones did.

        Raises:
            SymmetryError: the weights have another layout; the message names the difference.
        """
        return self.symmetry.act(self, weights)

    def inverse(self) -> Alignment:
        """The alignment that undoes this one."""
        return self.symmetry.inverse(self)

    def __matmul__(self, other: Alignment) -> Alignment:
        return self.symmetry.compose(self, other)

    def __repr__(self) -> str:
        moved = sum(float(share) for share in self.moved.values()) / max(len(self.moved), 1)
        reached = "" if self.objective is None else f", objective {self.objective:.6g}"
        return f"Alignment({len(self.permutations)} axes, {moved:.0%} of an axis moved on average{reached})"

    @property
    def moved(self) -> dict[str, float]:
        """Share of units that change their place, an axis."""
        return {
            name: float((p != torch.arange(p.numel())).double().mean())
            for name, p in self.permutations.items()
        }

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Alignment)
            and self.permutations.keys() == other.permutations.keys()
            and all(torch.equal(p, other.permutations[name]) for name, p in self.permutations.items())
            and (self.objective, self.outcome, self.history)
            == (other.objective, other.outcome, other.history)
            and self.symmetry == other.symmetry
        )

    __hash__ = None  # type: ignore[assignment]

    def save(self, path: str | Path) -> None:
        """Write the alignment and its symmetry as one safetensors file with JSON in its header."""
        record = {
            "symmetry": storage.to_record(self.symmetry),
            "axes": list(self.permutations),
            "objective": self.objective,
            "outcome": self.outcome.name,
            "history": list(self.history),
        }
        storage.write_tensors(record, list(self.permutations.values()), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Alignment:
        """Read an alignment that `save` wrote.

        Raises:
            SymmetryError: the file is no alignment.
        """
        record, tensors = storage.read_tensors(Path(path))
        return cls(
            Symmetry(**storage.from_record(record["symmetry"])),
            dict(zip(record["axes"], tensors, strict=True)),
            record["objective"],
            Outcome[record["outcome"]],
            tuple(record["history"]),
        )


__all__ = ["AbstractGroup", "Alignment", "Axis", "Outcome", "Place", "Symmetry"]

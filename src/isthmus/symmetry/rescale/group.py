"""The group of rescalings of a network's units, and its elements.

Every unit of every axis of a parameter has a factor; the admissible factors are exp(M z), or (-1)^(M z), for
an integer matrix M that discovery finds, and any coordinates z: real numbers for positive scalings, bits for
sign flips. The group is commutative: to compose is to add coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from isthmus.errors import SettingError, SymmetryError
from isthmus.layout import Layout, describe_difference
from isthmus.symmetry.group import AbstractGroup
from isthmus.symmetry.rescale import factors as acting
from isthmus.symmetry.rescale import storage
from isthmus.symmetry.rescale.factors import Exponents, Factor
from isthmus.symmetry.rescale.fitting import fit
from isthmus.symmetry.verify import Verification
from isthmus.weights import Weights

if TYPE_CHECKING:
    from isthmus.symmetry.export import Inputs

Kind = Literal["positive", "sign"]
_LISTED = 3
_SPREAD = 1.0


class Ending(Enum):
    """How a scaling came about."""

    IDENTITY = "the identity: no unit is scaled"
    RANDOM = "a random element of the group"
    COMPOSED = "made of other scalings"
    CONVERGED = "the fit converged: no coordinate could be improved any more"
    SWEEP_LIMIT = "the fit stopped at its limit of sweeps, before it converged"


@dataclass(frozen=True, eq=False, repr=False)
class Rescaling(AbstractGroup["Scaling"]):
    """By which factors the units of a network may be multiplied without changing what it computes.

    Attributes:
        kind: `positive` (factors above 0) or `sign` (factors 1 and -1).
        layout: the parameters of the network.
        buffers: names and shapes of its buffers.
        factors: where the factors lie in parameters and buffers.
        exponents: which coordinates make the factor of each unit.
        pinned: (parameter, axis) -> why none, or which, of its units have a factor.
        verification: the numerical proof; None if it was not asked for.

    Example:
        >>> import torch
        >>> from isthmus.symmetry.rescale import discover_rescalings
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> found = discover_rescalings(net, torch.zeros(1, 2))
        >>> found.dimension, found.table()[0]["carried by"]
        (3, '0.weight[0], 0.bias[0], 2.weight[1]^-1')
    """

    kind: Kind
    layout: Layout
    buffers: Mapping[str, tuple[int, ...]]
    factors: tuple[Factor, ...]
    exponents: Exponents
    pinned: Mapping[tuple[str, int], str]
    verification: Verification | None = None

    # -- the group ------------------------------------------------------------------------------

    def identity(self) -> Scaling:
        """The element that scales nothing."""
        return Scaling(self, torch.zeros(self.dimension, dtype=self._dtype), ending=Ending.IDENTITY)

    def element(self, coordinates: Tensor) -> Scaling:
        """The element with these coordinates: logarithms of factors, or bits.

        Raises:
            SymmetryError: there are not `dimension` of them.
        """
        if coordinates.shape != (self.dimension,):
            raise SymmetryError(
                f"this rescaling has {self.dimension} coordinates, but {list(coordinates.shape)} came"
            )
        return Scaling(self, coordinates.to(self._dtype))

    def act(self, element: Scaling, weights: Weights) -> Weights:
        """g·θ: coordinates and norm buffers times their factors; exact for signs, else rounded once.

        Raises:
            SymmetryError: the weights have another layout.
        """
        self.check(weights)
        vector = weights.vector.clone()
        buffers = dict(weights.buffers)
        for name, factor in self.multipliers(element).items():
            factor = factor.to(vector.device)
            if name not in self.layout.index:
                if name in buffers:
                    buffers[name] = (buffers[name].double() * factor).to(buffers[name].dtype)
                continue
            view = self.layout.view(vector, self.layout.index[name])
            view.copy_(view.to(torch.complex128 if view.is_complex() else torch.float64) * factor)
        return Weights(weights.layout, vector, buffers)

    def compose(self, first: Scaling, second: Scaling) -> Scaling:
        """The product; the order does not matter."""
        if first.rescaling is not second.rescaling and first.rescaling != second.rescaling:
            raise SymmetryError("two scalings can be composed only if they belong to one rescaling")
        return Scaling(self, self._normal(first.coordinates + second.coordinates))

    def inverse(self, element: Scaling) -> Scaling:
        """The element that undoes another."""
        return Scaling(self, self._normal(-element.coordinates))

    def random(self, generator: torch.Generator) -> Scaling:
        """A random element: fair bits, or logarithms of factors that are uniform in (-1, 1)."""
        if self.kind == "sign":
            drawn = torch.randint(2, (self.dimension,), generator=generator)
        else:
            noise = torch.rand(self.dimension, generator=generator, dtype=torch.float64)
            drawn = (2 * noise - 1) * _SPREAD
        return Scaling(self, drawn, ending=Ending.RANDOM)

    def multipliers(self, element: Scaling) -> dict[str, Tensor]:
        """What each parameter and buffer that the element touches is multiplied by; it broadcasts."""
        return acting.multipliers(self.factors, self.exponents, element.coordinates, self.kind == "sign")

    # -- the nearest element --------------------------------------------------------------------

    def nearest(self, fixed: Weights, moving: Weights, *, max_sweeps: int = 200) -> Scaling:
        """The element g that brings `moving` closest to `fixed`: a local minimum of |A - g B|².

        Coordinate by coordinate, each step exact: for scales by the roots of the derivative, a polynomial in
        the factor; for signs by the gain in ⟨A, g B⟩ of a flip. A step is taken only if the objective falls.

        Args:
            fixed: the weights A that stay.
            moving: the weights B that are to be brought to them: use `scaling.apply(moving)`.
            max_sweeps: the limit of sweeps over the coordinates.

        Returns:
            The scaling, with `objective` |A - g B|², accumulated in float64.

        Raises:
            SettingError: `max_sweeps` is below 1.
            SymmetryError: the weights do not fit.

        Limits: a local minimum. Buffers do not count, but `apply` scales them.
        Cost: time and memory in proportion to the number of pairs of an element and a coordinate in its
        factor, 5 to 9 bytes each.
        """
        self.check(fixed)
        self.check(moving)
        return self._fitted(fixed, moving, max_sweeps)

    def balanced(self, weights: Weights, *, max_sweeps: int = 1000) -> Scaling:
        """The element that makes the norm of these weights least: the same for every point of their orbit.

        |g θ|² is a sum of exponentials of linear functions of the coordinates, hence convex: its minimum is
        one point, found by exact coordinate steps. It removes the freedom of scale before two networks are
        compared.

        Args:
            weights: the weights θ; use `scaling.apply(weights)`.
            max_sweeps: the limit of sweeps over the coordinates.

        Returns:
            The scaling, with `objective` |g θ|².

        Raises:
            SettingError: this is a group of signs, which leave every norm as it is, or `max_sweeps` is
                below 1.
            SymmetryError: the weights do not fit.

        Limits: a coordinate along which the norm has no minimum (a unit whose incoming or outgoing weights
        are all 0, or a scale that occurs only once) stays as it is.

        Source: Neyshabur, Salakhutdinov & Srebro 2015 (arXiv 1506.02617), section 2, for the invariance;
        Pittorino et al. 2022, "Deep networks on toroids" (arXiv 2202.03038), section 2, for its removal
        before networks are compared (there by fixing norms one layer after the other).
        """
        if self.kind == "sign":
            raise SettingError("sign flips leave every norm as it is: balance positive scalings")
        self.check(weights)
        return self._fitted(None, weights, max_sweeps)

    def _fitted(self, fixed: Weights | None, moving: Weights, max_sweeps: int) -> Scaling:
        if max_sweeps < 1:
            raise SettingError(f"max_sweeps must be at least 1, but it is {max_sweeps}")
        result = fit(
            self.factors, self.exponents, self.layout, fixed, moving, self.kind == "sign", max_sweeps
        )
        ending = Ending.CONVERGED if result.converged else Ending.SWEEP_LIMIT
        return Scaling(self, result.coordinates, result.objective, ending)

    # -- what it says ---------------------------------------------------------------------------

    @property
    def dimension(self) -> int:
        """The number of coordinates: of independent scales, or of independent sign flips."""
        return self.exponents.count

    @property
    def log2_order(self) -> float:
        """The base-2 logarithm of the number of elements: the dimension for signs, infinite for scales."""
        return float(self.dimension) if self.kind == "sign" or not self.dimension else math.inf

    @property
    def coverage(self) -> float:
        """The share of parameters that lie in tensors which can change, from 0 to 1."""
        moving = {name for places in self.carriers for name, _, _ in places}
        sizes = zip(self.layout.names, self.layout.sizes, strict=True)
        return sum(size for name, size in sizes if name in moving) / max(self.layout.numel, 1)

    @cached_property
    def carriers(self) -> list[tuple[tuple[str, int, int], ...]]:
        """For each coordinate the (parameter, axis, power) at which it acts."""
        return acting.carriers(self.factors, self.exponents)

    def explain(self, parameter: str, axis: int) -> str:
        """In words: how many units along this axis of a parameter have a factor, and why the rest has none.

        Raises:
            SymmetryError: there is no such parameter or axis.
        """
        name = dict(self.layout.aliases).get(parameter, parameter)
        rank = max(len(self._sizes.get(name, ())), 1)
        if name not in self._sizes or not -rank <= axis < rank:
            raise SymmetryError(
                f"there is no axis {axis} of a parameter {parameter!r}; the parameters begin with "
                f"{', '.join(self.layout.names[:_LISTED])}"
            )
        axis %= rank
        scaled = torch.zeros(self.exponents.size, dtype=torch.bool)
        scaled[self.exponents.units] = True
        noun = "can be flipped" if self.kind == "sign" else "can be scaled"
        found = [
            f"{int(scaled[factor.rows].sum())} of {factor.rows.numel()} units {noun}"
            + (f" (one for each index of axes {factor.axes})" if len(factor.axes) > 1 else "")
            for factor in self.factors
            if factor.parameter == name and axis in factor.axes and bool(scaled[factor.rows].any())
        ]
        if reason := self.pinned.get((name, axis)):
            found.append(f"pinned: {reason}")
        return "; ".join(found) or "all of it has one factor: that of the other axes"

    def summary(self) -> dict[str, object]:
        """The main facts as plain data, for JSON."""
        proof = self.verification
        return {
            "kind": self.kind,
            "dimension": self.dimension,
            "coverage": self.coverage,
            "families": self.table(),
            "pinned": {f"{name}[{axis}]": reason for (name, axis), reason in self.pinned.items()},
            "verified": None if proof is None else {"error": proof.error, "tolerance": proof.tolerance},
            "failed": [] if proof is None else list(proof.failed),
        }

    def table(self) -> list[dict[str, str]]:
        """One row for coordinates that act at the same places, in words, for printing."""
        rows = []
        for places, count in acting.grouped(self.carriers).items():
            spelled = [
                f"{name}[{axis}]" + ("" if power == 1 or self.kind == "sign" else f"^{power}")
                for name, axis, power in places
            ]
            rows.append({"coordinates": str(count), "carried by": ", ".join(spelled)})
        return rows

    def verify(self, module: nn.Module, example_inputs: Inputs) -> Verification:
        """Check numerically that random group elements leave the module's outputs as they are."""
        from isthmus.symmetry.rescale.discovery import verify_rescaling  # discovery builds on this file

        return verify_rescaling(self, module, example_inputs)

    def check(self, weights: Weights) -> None:
        """Refuse weights of another layout.

        Raises:
            SymmetryError: naming the first differences.
        """
        difference = self.layout.difference(weights.layout)
        if difference is None and weights.layout.names != self.layout.names:
            difference = "the parameters come in another order; bring the weights over with .conform(other)"
        present = {n: tuple(b.shape) for n, b in weights.buffers.items() if n in self.buffers}
        expected = {name: self.buffers[name] for name in present}
        difference = difference or describe_difference(expected, present)
        if difference:
            raise SymmetryError(f"these weights do not fit the rescaling's network: {difference}")

    @property
    def _sizes(self) -> dict[str, tuple[int, ...]]:
        return dict(zip(self.layout.names, self.layout.shapes, strict=True)) | dict(self.buffers)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.int64 if self.kind == "sign" else torch.float64

    def _normal(self, coordinates: Tensor) -> Tensor:
        return coordinates % 2 if self.kind == "sign" else coordinates

    # -- values ---------------------------------------------------------------------------------

    def __repr__(self) -> str:
        free = "sign flips" if self.kind == "sign" else "positive scales"
        return (
            f"Rescaling({self.dimension} independent {free}, "
            f"{self.coverage:.0%} of the parameters can change, {len(self.pinned)} axes of parameters pinned)"
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Rescaling)
            and storage.described(self) == storage.described(other)
            and self.exponents.equal(other.exponents)
            and all(torch.equal(a.rows, b.rows) for a, b in zip(self.factors, other.factors, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        names = self.__dataclass_fields__
        return {name: getattr(self, name) for name in names}  # no caches

    def save(self, path: str | Path) -> None:
        """Write the rescaling as one safetensors file with JSON in its header."""
        storage.write({"rescaling": storage.described(self)}, storage.tensors_of(self), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Rescaling:
        """Read a rescaling that `save` wrote.

        Raises:
            SymmetryError: the file is no rescaling.
        """
        record, tensors = storage.read(Path(path))
        return cls(**storage.fields_of(record, tensors, Path(path)))


@dataclass(frozen=True, eq=False, repr=False)
class Scaling:
    """An element of a group of rescalings.

    Attributes:
        rescaling: the group.
        coordinates: shape (dimension,): natural logarithms in float64, or bits.
        objective: what a fit minimised, at this element; None if no fit made it.
        ending: how it came about.
    """

    rescaling: Rescaling
    coordinates: Tensor
    objective: float | None = None
    ending: Ending = field(default=Ending.COMPOSED)

    def apply(self, weights: Weights) -> Weights:
        """The rescaled weights, which compute what the original ones did.

        Raises:
            SymmetryError: the weights have another layout; the message names the difference.
        """
        return self.rescaling.act(self, weights)

    def inverse(self) -> Scaling:
        """The scaling that undoes this one."""
        return self.rescaling.inverse(self)

    def __matmul__(self, other: Scaling) -> Scaling:
        return self.rescaling.compose(self, other)

    def __repr__(self) -> str:
        reached = "" if self.objective is None else f", objective {self.objective:.6g}"
        if self.rescaling.kind == "sign":
            count = int(self.coordinates.sum())
            return f"Scaling({count} of {self.coordinates.numel()} sign flips{reached})"
        largest = float(self.coordinates.abs().max()) if self.coordinates.numel() else 0.0
        return (
            f"Scaling({self.coordinates.numel()} scales up to a factor of {math.exp(largest):.3g}{reached})"
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Scaling)
            and torch.equal(self.coordinates, other.coordinates)
            and (self.objective, self.ending) == (other.objective, other.ending)
            and self.rescaling == other.rescaling
        )

    __hash__ = None  # type: ignore[assignment]

    def save(self, path: str | Path) -> None:
        """Write the scaling and its group as one safetensors file with JSON in its header."""
        record = {
            "rescaling": storage.described(self.rescaling),
            "objective": self.objective,
            "ending": self.ending.name,
        }
        tensors = storage.tensors_of(self.rescaling) | {"element": self.coordinates}
        storage.write(record, tensors, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Scaling:
        """Read a scaling that `save` wrote.

        Raises:
            SymmetryError: the file is no scaling.
        """
        record, tensors = storage.read(Path(path))
        group = Rescaling(**storage.fields_of(record, tensors, Path(path)))
        if "element" not in tensors:
            raise SymmetryError(f"{path} holds a rescaling, but no element of it; use Rescaling.load")
        return cls(group, tensors["element"], record["objective"], Ending[record["ending"]])

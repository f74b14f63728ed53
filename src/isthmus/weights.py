"""The weights of a network as one value: a vector, and a read-only mapping from names to tensors.

`Weights` is a point of the vector space in which loss surfaces live. Its coordinates are the floating
point parameters of a module, laid end to end in one contiguous tensor as its `Layout` says; every named
tensor is a view of that storage. Buffers (batch-norm statistics, say) are no coordinates: they travel
beside the vector, arithmetic drops them, and a batch-norm policy fills them in again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.errors import LayoutError
from isthmus.layout import NAMED_DIFFERENCES, Layout, describe_difference, is_coordinate

_CHUNK = 1 << 20
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, eq=False, repr=False)
class Weights(Mapping[str, Tensor]):
    """A point in weight space: one vector, seen as named tensors, with the buffers beside it.

    Treat it as a value: no method changes it, and nobody should write into its tensors.

    Attributes:
        layout: names, shapes and places of the parameters.
        vector: the coordinates, shape (P,), float32 (float64 if any parameter is float64).
        buffers: persistent buffers and integer parameters by name, as their owner saved them;
            empty after arithmetic.

    Example:
        >>> import torch
        >>> w = Weights.from_module(torch.nn.Linear(2, 1))
        >>> w["weight"].shape, w.vector.shape
        (torch.Size([1, 2]), torch.Size([3]))
        >>> bool(((w + w) * 0.5).vector.eq(w.vector).all())
        True
    """

    layout: Layout
    vector: Tensor
    buffers: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.vector.shape != (self.layout.numel,):
            raise LayoutError(
                f"the weight vector has shape {list(self.vector.shape)}, but its layout of "
                f"{len(self.layout.names)} parameters needs [{self.layout.numel}]"
            )
        object.__setattr__(self, "buffers", MappingProxyType(dict(self.buffers)))

    # -- a mapping ------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.layout.view(self.vector, self.layout.index[name])
        except KeyError:
            raise KeyError(
                f"no parameter is named {name!r}; buffers are in .buffers, and the parameters begin with "
                f"{', '.join(self.layout.names[:NAMED_DIFFERENCES])}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.names)

    def __len__(self) -> int:
        return len(self.layout.names)

    def __repr__(self) -> str:
        return (
            f"Weights({len(self)} tensors, {self.layout.numel:,} parameters, "
            f"{len(self.buffers)} buffers, {self.vector.dtype}, {self.vector.device})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"layout": self.layout, "vector": self.vector, "buffers": dict(self.buffers)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, MappingProxyType(value) if name == "buffers" else value)

    # -- to and from modules and state dicts ----------------------------------------------------

    @classmethod
    def from_module(cls, module: nn.Module) -> Weights:
        """Copy a module's parameters and persistent buffers.

        Exact for every floating-point and complex dtype: narrower ones are kept in the vector's float32
        and cast back on the way out. Integer parameters travel with the buffers.

        Args:
            module: any module; a parameter used under two names is one set of coordinates.

        Raises:
            LayoutError: a parameter is not yet initialised, or is sparse or quantised.
        """
        aliases: dict[str, str] = {}
        first: dict[int, str] = {}
        parameters: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            _require_dense(name, parameter)
            if id(parameter) in first:
                aliases[name] = first[id(parameter)]
                continue
            first[id(parameter)] = name
            parameters[name] = parameter.detach()
        persistent = set(module.state_dict(keep_vars=True))
        buffers = {
            name: buffer.detach()
            for name, buffer in module.named_buffers(remove_duplicate=False)
            if name in persistent
        }
        return cls._gather(parameters, buffers, aliases)

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Tensor],
        buffers: Sequence[str] | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> Weights:
        """Weights from a plain mapping of tensors.

        A bare state dict does not say which of its tensors are buffers. Without `buffers`, integer tensors
        and those whose name ends in `running_mean` or `running_var` are taken as such; `conform` puts it
        right against a model.

        Args:
            state: names to tensors.
            buffers: the names that are buffers.
            aliases: other names of tied parameters, mapped to the names that carry them.
        """
        aliases = dict(aliases or {})
        named = (
            set(buffers)
            if buffers is not None
            else {name for name in state if name.rpartition(".")[2] in _STATISTICS}
        )
        parameters = {n: t.detach() for n, t in state.items() if n not in named and n not in aliases}
        return cls._gather(parameters, {n: t.detach() for n, t in state.items() if n in named}, aliases)

    @classmethod
    def _gather(
        cls, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], aliases: Mapping[str, str]
    ) -> Weights:
        """Lay the coordinates end to end; what is no coordinate joins the buffers."""
        coordinates = {n: t for n, t in parameters.items() if is_coordinate(t)}
        beside = {n: t.clone() for n, t in parameters.items() if n not in coordinates}
        beside |= {n: t.clone() for n, t in buffers.items()}
        layout = Layout.of(coordinates, {o: n for o, n in aliases.items() if n in coordinates})
        device = next((t.device for t in coordinates.values()), torch.device("cpu"))
        vector = torch.empty(layout.numel, dtype=layout.storage, device=device)
        for position, tensor in enumerate(coordinates.values()):
            layout.view(vector, position).copy_(tensor)
        return cls(layout, vector, beside)

    def to_module(self, module: nn.Module) -> nn.Module:
        """Write these weights, and the buffers they carry, into `module` in place, and return it.

        Raises:
            LayoutError: the module's parameters differ in name or shape; nothing is written then.
        """
        named = dict(module.named_parameters(remove_duplicate=False))
        own = {n: tuple(p.shape) for n, p in named.items() if is_coordinate(p)}
        mine = {n: self.layout.shapes[i] for n, i in self.layout.index.items()}
        if difference := describe_difference(own, mine):
            raise LayoutError(f"these weights do not fit {type(module).__name__}: {difference}")
        beside = dict(module.named_buffers(remove_duplicate=False)) | named
        for name, buffer in self.buffers.items():
            if name not in beside or beside[name].shape != buffer.shape:
                raise LayoutError(
                    f"the buffer {name} of shape {list(buffer.shape)} has no place in the module"
                )
        with torch.no_grad():
            for name in self.layout.index:
                named[name].copy_(self[name])
            for name, buffer in self.buffers.items():
                beside[name].copy_(buffer)
        return module

    def state_dict(self) -> dict[str, Tensor]:
        """A fresh state dict in the owner's dtypes: parameters, their other names, and the buffers."""
        position = self.layout.index
        state = {name: self[name].to(self.layout.dtypes[position[name]], copy=True) for name in position}
        return state | {name: buffer.clone() for name, buffer in self.buffers.items()}

    def conform(self, reference: Weights, owner: str = "the model") -> Weights:
        """The same weights in the layout of `reference`, found by name.

        Parameters and buffers are sorted as in the reference; a tied parameter may be present under any
        one of its names; missing `num_batches_tracked` counters are filled in from the reference (older
        checkpoints have none). Anything else that is missing, unexpected or of another shape is an error.

        Args:
            reference: weights of the wanted architecture.
            owner: how to name that architecture in an error.

        Raises:
            LayoutError: naming the first missing and unexpected names and differing shapes.
        """
        have: dict[str, Tensor] = {n: self[n] for n in self.layout.index} | dict(self.buffers)
        names = dict(reference.layout.aliases)
        for other, name in names.items():
            if name not in have and other in have:
                have[name] = have[other]
        for name, buffer in reference.buffers.items():
            if name.endswith("num_batches_tracked"):
                have.setdefault(name, buffer)
        have = {n: t for n, t in have.items() if n not in names}
        shapes = dict(zip(reference.layout.names, reference.layout.shapes, strict=True))
        shapes |= {n: tuple(b.shape) for n, b in reference.buffers.items()}
        if difference := describe_difference(shapes, {n: tuple(t.shape) for n, t in have.items()}):
            raise LayoutError(f"the weights do not fit {owner}: {difference}")
        vector = torch.empty(
            reference.layout.numel, dtype=reference.layout.storage, device=self.vector.device
        )
        for position, name in enumerate(reference.layout.names):
            reference.layout.view(vector, position).copy_(have[name])
        beside = {n: have[n].to(b.dtype, copy=True) for n, b in reference.buffers.items()}
        return Weights(reference.layout, vector, beside)

    # -- a vector space -------------------------------------------------------------------------

    __array_ufunc__ = None  # numpy's numbers leave arithmetic with weights to the weights
    __eq__ = object.__eq__  # identity, as the tensors within give no single truth value; see `equal`
    __hash__ = object.__hash__

    def __add__(self, other: Weights) -> Weights:
        return self._like(self.vector + self._match(other))

    def __sub__(self, other: Weights) -> Weights:
        return self._like(self.vector - self._match(other))

    def __mul__(self, factor: float) -> Weights:
        return self._like(self.vector * factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Weights:
        return self._like(self.vector / divisor)

    def __neg__(self) -> Weights:
        return self._like(-self.vector)

    def dot(self, other: Weights) -> float:
        """The inner product, accumulated in float64."""
        theirs = self._match(other)
        pieces = zip(torch.split(self.vector, _CHUNK), torch.split(theirs, _CHUNK), strict=True)
        return math.fsum(float(torch.dot(mine.double(), their.double())) for mine, their in pieces)

    def norm(self) -> float:
        """The Euclidean length, accumulated in float64."""
        return math.sqrt(self.dot(self))

    def distance(self, other: Weights) -> float:
        """The Euclidean distance to `other`."""
        return (self - other).norm()

    def cosine(self, other: Weights) -> float:
        """The cosine of the angle to `other`; nan if either is zero."""
        scale = self.norm() * other.norm()
        return self.dot(other) / scale if scale else math.nan

    def _match(self, other: Weights) -> Tensor:
        """The other's vector, after making sure that both have one layout."""
        if not isinstance(other, Weights):
            raise TypeError(f"expected Weights beside Weights, got {type(other).__name__}")
        if self.layout != other.layout and (difference := self.layout.difference(other.layout)):
            raise LayoutError(f"arithmetic needs two sets of weights of one architecture: {difference}")
        if self.layout.names != other.layout.names:
            raise LayoutError("arithmetic needs weights in one order; bring one over with .conform(other)")
        return other.vector

    def _like(self, vector: Tensor) -> Weights:
        return Weights(self.layout, vector)

    # -- values ---------------------------------------------------------------------------------

    def rounded(self) -> Weights:
        """The coordinates as their owner's dtypes hold them: what a checkpoint gives back."""
        if self.layout.uniform:
            return self
        vector = torch.empty_like(self.vector)
        for position, name in enumerate(self.layout.names):
            self.layout.view(vector, position).copy_(self[name].to(self.layout.dtypes[position]))
        return Weights(self.layout, vector, self.buffers)

    def with_buffers(self, buffers: Mapping[str, Tensor]) -> Weights:
        """The same coordinates with these buffers beside them."""
        return replace(self, buffers=buffers)

    def to(self, device: torch.device | str) -> Weights:
        """The same weights on another device; itself if it is there already."""
        if self.vector.device == torch.device(device):
            return self
        return Weights(
            self.layout, self.vector.to(device), {n: b.to(device) for n, b in self.buffers.items()}
        )

    def equal(self, other: Weights) -> bool:
        """Whether layout, vector and buffers are the same to the last bit."""
        return (
            self.layout == other.layout
            and torch.equal(self.vector, other.vector)
            and self.buffers.keys() == other.buffers.keys()
            and all(
                b.dtype == other.buffers[n].dtype and torch.equal(b, other.buffers[n])
                for n, b in self.buffers.items()
            )
        )

    def digest(self) -> str:
        """A SHA-256 of names, shapes, dtypes and contents, in hexadecimal."""
        total = hashlib.sha256(repr((self.layout, sorted(self.buffers))).encode())
        for tensor in (self.vector, *(self.buffers[name] for name in sorted(self.buffers))):
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return total.hexdigest()

    def first_nonfinite(self) -> str | None:
        """The name of the first tensor that holds a NaN or an infinity, or None."""
        tensors = dict(self) | {n: b for n, b in self.buffers.items() if is_coordinate(b)}
        return next((name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())), None)


def combine(coefficients: Sequence[float], points: Sequence[Weights], out: Tensor | None = None) -> Weights:
    """The linear combination Σ c_k w_k as weights without buffers.

    A coefficient of zero leaves its point out, so that a combination which *is* one of the points
    comes out equal to it in every bit.

    Args:
        coefficients: one number a point.
        points: weights of one layout.
        out: a vector of shape (P,) to write into; a new one by default.
    """
    used = [(float(c), w) for c, w in zip(coefficients, points, strict=True) if c != 0]
    first = points[0]
    vector = torch.empty_like(first.vector) if out is None else out
    if not used:
        return Weights(first.layout, vector.zero_())
    factor, start = used[0]
    torch.mul(first._match(start), factor, out=vector)
    return reduce(
        lambda total, term: Weights(first.layout, total.vector.add_(first._match(term[1]), alpha=term[0])),
        used[1:],
        Weights(first.layout, vector),
    )


def _require_dense(name: str, parameter: nn.Parameter) -> None:
    """Refuse parameters that have no plain strided storage."""
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise LayoutError(
            f"the parameter {name} is not initialised yet; run the model once on an example, then try again"
        )
    if parameter.layout is not torch.strided or parameter.is_quantized:
        raise LayoutError(f"the parameter {name} is sparse or quantised; only dense parameters are supported")

"""Finding the residual streams of a traced graph.

Every output of a linear layer or an embedding begins a stream of its own; addition joins streams; a norm
marks one; a linear layer reads what a norm gives. Whatever else is done with a stream is a reason against
changing its basis. Those that no norm reads are hidden units of other kinds, and are not spoken of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from isthmus.symmetry.export import Trace
from isthmus.symmetry.linear.bases import Basis, BasisPlace
from isthmus.symmetry.linear.flow import IDLE, SCALED, is_move, keeps, moved, name_of, origin, shape_of
from isthmus.symmetry.linear.folding import Fold, FoldedNorm, Reader
from isthmus.symmetry.linear.layers import Layer, Parameters
from isthmus.symmetry.nodes import named_arguments, where_of


@dataclass(eq=False)
class _Stream:
    """What is known of one stream while the graph is read."""

    size: int
    writers: list[tuple[str, int]] = field(default_factory=list)
    norms: list[_Norm] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


@dataclass(eq=False)
class _Norm:
    """A norm that reads a stream."""

    where: str
    centres: bool
    scale: str | None
    bias: str | None
    readers: list[Reader] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Value:
    """A node whose axis `dim` (counted from the end) holds the channels of a stream, normed or not."""

    stream: int
    dim: int
    norm: _Norm | None = None


class Streams:
    """One reading of a graph."""

    def __init__(self, traced: Trace, parameters: Parameters) -> None:
        self.parameters = parameters
        self._streams: list[_Stream] = []
        self._joined: list[int] = []
        self._values: dict[fx.Node, _Value] = {}
        self._inside: set[fx.Node] = set()
        self._roots: dict[fx.Node, fx.Node] = {}  # the end of an RMSNorm -> what it reads
        nodes = list(traced.graph.nodes)
        for node in nodes:
            self._find_norm(node)
        for node in nodes:
            if node.op == "call_function" and name_of(node) not in IDLE and node not in self._inside:
                self._read(node)
        for name, node_name in traced.outputs:
            for node in nodes:
                if node.name == node_name and (value := self._values.get(node)):
                    what = "its norm's output" if value.norm else "it"
                    self._refuse(value, f"{what} comes out of the module as {name}")

    # -- results --------------------------------------------------------------------------------

    def found(self) -> tuple[list[Basis], list[Fold], dict[str, str]]:
        """The streams that may be rotated, what is folded for them, and why others may not."""
        bases, folds, refused = [], [], {}
        for stream in (s for number, s in enumerate(self._streams) if self._root(number) == number):
            if not stream.norms or not stream.writers:
                continue
            first = stream.writers[0]
            name = f"residual {first[0]}[{first[1]}]"
            reason = next(iter([*stream.reasons, *self._faults(stream)]), None)
            if reason is not None:
                refused[name] = reason
                continue
            centred = stream.norms[0].centres
            readers = [(r.parameter, r.dim) for norm in stream.norms for r in norm.readers]
            carried = stream.writers + readers
            whole = torch.arange(stream.size)[None]
            places = tuple(BasisPlace(parameter, dim, whole) for parameter, dim in carried)
            bases.append(Basis(name, "residual", stream.size, places, centred))
            read = [norm for norm in stream.norms if norm.readers or norm.scale]
            norms = tuple(FoldedNorm(n.where, n.scale, n.bias, tuple(n.readers)) for n in read)
            folds.append(Fold(name, norms, tuple(carried) if centred else ()))
        return bases, folds, refused

    def _faults(self, stream: _Stream) -> list[str]:
        """Why a stream's norms cannot be folded."""
        readers = {r.parameter for norm in stream.norms for r in norm.readers}
        writers = {parameter for parameter, _ in stream.writers}
        both = {(r.parameter, r.dim) for norm in stream.norms for r in norm.readers} & set(stream.writers)
        faults = [
            f"{parameter} writes the stream and reads it too (tied embeddings): the norm's scale and its "
            "mean subtraction cannot be folded into what also writes; untie the embeddings first"
            for parameter, _ in both
        ]
        if len({norm.centres for norm in stream.norms}) > 1:
            faults.append("some of its norms subtract the mean and others do not")
        used = writers | readers | {n for norm in stream.norms for n in (norm.scale, norm.bias) if n}
        used |= {r.bias for norm in stream.norms for r in norm.readers if r.bias and norm.bias}
        faults += [
            f"{parameter} is used by more than one operation"
            for parameter in sorted(used)
            if self.parameters.users.get(parameter, 0) > 1
        ]
        for norm in stream.norms:
            bare = [r.parameter for r in norm.readers if r.bias is None]
            if norm.bias is not None and bare:
                faults.append(
                    f"the norm's bias {norm.bias} has nowhere to go: {bare[0]}, which reads it, has no bias"
                )
        return faults

    # -- reading --------------------------------------------------------------------------------

    def _read(self, node: fx.Node) -> None:
        """What one operation does with the streams."""
        name = name_of(node)
        operands = [argument for argument in node.all_input_nodes if argument in self._values]
        if layer := self.parameters.layer(node):
            self._layer(node, layer, operands)
        elif node in self._roots or name in ("aten::layer_norm", "aten::rms_norm"):
            self._norm(node)
        elif not operands:
            return
        elif keeps(node) and name in SCALED and self._values[operands[0]].norm:
            self._refuse(self._values[operands[0]], self._said(node, operands[0]))  # its bias is scaled too
        elif keeps(node):
            if (kept := self._values.get(node.all_input_nodes[0])) is not None:
                self._values[node] = kept
        elif name in ("aten::add", "aten::sub"):
            self._add(node)
        elif not (name == "aten::mul" and self._scale(node)) and not (is_move(node) and self._move(node)):
            for operand in operands:
                self._refuse(self._values[operand], self._said(node, operand))

    def _layer(self, node: fx.Node, layer: Layer, operands: Sequence[fx.Node]) -> None:
        for operand in operands:
            value = self._values[operand]
            plain = operand is layer.input and layer.reads is not None and value.dim == -1
            if plain and value.norm is not None and layer.reads is not None:
                value.norm.readers.append(Reader(layer.weight, layer.reads, layer.bias))
            elif plain:
                self._refuse(value, f"{layer.weight} reads it without a norm between")
            else:
                self._refuse(value, self._said(node, operand))
        shape = shape_of(node)
        assert shape is not None
        writers = [(layer.weight, layer.writes)] + ([(layer.bias, 0)] if layer.bias else [])
        channel = layer.channel if layer.channel < 0 else layer.channel - len(shape)
        self._values[node] = _Value(self._new(shape[channel], writers), channel)

    def _norm(self, node: fx.Node) -> None:
        if node in self._roots:
            value, scale, bias, centres, whole = self._value(self._roots[node]), None, None, False, True
        else:
            arguments = dict(named_arguments(node))
            value = self._value(arguments["input"])
            centres = name_of(node) == "aten::layer_norm"
            scale, bias = arguments.get("weight"), arguments.get("bias")
            whole = len(arguments["normalized_shape"]) == 1
        if value is None:
            return
        names = self.parameters.name(scale), self.parameters.name(bias)
        computed = (names[0] is None) != (scale is None) or (names[1] is None) != (bias is None)
        if value.norm is not None or value.dim != -1 or not whole or computed:
            self._refuse(value, self._said(node))
            return
        norm = _Norm(where_of(node, name_of(node)), centres, *names)
        self._at(value).norms.append(norm)
        self._values[node] = _Value(value.stream, -1, norm)

    def _scale(self, node: fx.Node) -> bool:
        """The product of a bare norm's output with its scale."""
        first, second = (self._value(each) for each in node.args[:2])
        value, other = (first, node.args[1]) if first is not None else (second, node.args[0])
        scale = self.parameters.name(other)
        if value is None or value.norm is None or scale is None or value.dim != -1:
            return False
        if value.norm.scale or value.norm.bias:  # it has a scale already, or a bias that would be scaled too
            return False
        if not isinstance(other, fx.Node) or shape_of(other) != (self._at(value).size,):
            return False
        norm = _Norm(value.norm.where, value.norm.centres, scale, None)
        self._at(value).norms.append(norm)
        self._values[node] = _Value(value.stream, -1, norm)
        return True

    def _add(self, node: fx.Node) -> None:
        """Addition joins two streams whose channels lie along the same axis."""
        tracked = [self._value(each) for each in node.args[:2]]
        present = [value for value in tracked if value is not None]
        first = present[0]
        for each, value in zip(node.args[:2], tracked, strict=True):
            if value is None:
                value = self._written(each, first)
                if value is None:
                    self._refuse(first, self._said(node))
                    continue
            if value.norm is not None:
                at = where_of(node, name_of(node))
                self._refuse(value, f"the norm's output goes on as the stream, by {at} (post-norm)")
            if value.dim != first.dim or self._at(value).size != self._at(first).size:
                self._refuse(first, self._said(node))
                self._refuse(value, self._said(node))
            else:
                self._join(first.stream, value.stream)
        self._values[node] = _Value(first.stream, first.dim)

    def _written(self, operand: object, beside: _Value) -> _Value | None:
        """A parameter, or a moved one, that is added to a stream: it writes it."""
        if not isinstance(operand, fx.Node):
            return None
        source, ids = origin(operand)
        name, shape = self.parameters.name(source), shape_of(source)
        if name is None or shape is None or not isinstance(ids, Tensor):
            return None
        size = self._at(beside).size
        for dim in range(len(shape) - 1, -1, -1):
            channels = ids // math.prod(shape[dim + 1 :]) % shape[dim]
            if shape[dim] == size and _along(channels, size) == beside.dim:
                return _Value(self._new(size, [(name, dim)]), beside.dim)
        return None

    def _move(self, node: fx.Node) -> bool:
        """A move that leaves the channels along one axis, in order."""
        inputs = node.all_input_nodes
        for operand in inputs:  # a parameter beside a stream in a cat: a class token
            if operand not in self._values and name_of(node) in ("aten::cat", "aten::stack"):
                known = next(self._values[each] for each in inputs if each in self._values)
                written = self._written(operand, known)
                if written is None:
                    return False
                self._values[operand] = written
        values = [self._value(each) for each in inputs]
        if any(value is None for value in values):
            return False
        present = [value for value in values if value is not None]
        first = present[0]
        if len({id(value.norm) for value in present}) > 1 or (len(present) > 1 and first.norm):
            return False
        size = self._at(first).size
        if any(value.dim != first.dim or self._at(value).size != size for value in present):
            return False
        result = moved(node, self._numbered)
        dim = _along(result, size)
        if dim is None:
            return False
        for value in present:
            self._join(first.stream, value.stream)
        self._values[node] = _Value(first.stream, dim, first.norm)
        return True

    def _numbered(self, node: fx.Node) -> Tensor | tuple[Tensor, ...]:
        """Each element's channel, in a tensor of the node's shape."""
        value = self._values[node]
        shape = node.meta["val"].shape if isinstance(node.meta["val"], Tensor) else None
        if shape is None:
            return tuple(_channels(each.shape, value.dim) for each in node.meta["val"])
        return _channels(shape, value.dim)

    # -- norms in parts -------------------------------------------------------------------------

    def _find_norm(self, node: fx.Node) -> None:
        """Mark x * rsqrt(mean(x², -1) + ε): its inner nodes are no uses of the stream."""
        if name_of(node) != "aten::mul" or len(node.args) < 2:
            return
        for stream, factor in (node.args[:2], node.args[1::-1]):
            if not isinstance(stream, fx.Node) or not isinstance(factor, fx.Node):
                continue
            inner = _root_mean_square(factor)
            if inner is None or _uncast(inner[1]) is not _uncast(stream):
                continue
            if all(_read_within(each, {*inner[0], node}) for each in inner[0]):
                self._inside |= set(inner[0])
                self._roots[node] = stream

    # -- joining --------------------------------------------------------------------------------

    def _new(self, size: int, writers: list[tuple[str, int]]) -> int:
        self._streams.append(_Stream(size, list(writers)))
        self._joined.append(len(self._joined))
        return len(self._joined) - 1

    def _root(self, number: int) -> int:
        while self._joined[number] != number:
            number = self._joined[number]
        return number

    def _join(self, first: int, second: int) -> None:
        first, second = self._root(first), self._root(second)
        if first == second:
            return
        kept, gone = self._streams[min(first, second)], self._streams[max(first, second)]
        kept.writers += gone.writers
        kept.norms += gone.norms
        kept.reasons += gone.reasons
        self._joined[max(first, second)] = min(first, second)

    def _at(self, value: _Value) -> _Stream:
        return self._streams[self._root(value.stream)]

    def _value(self, node: object) -> _Value | None:
        return self._values.get(node) if isinstance(node, fx.Node) else None

    def _refuse(self, value: _Value, reason: str) -> None:
        self._at(value).reasons.append(reason)

    def _said(self, node: fx.Node, operand: fx.Node | None = None) -> str:
        normed = operand is not None and self._values[operand].norm is not None
        what = "its norm's output" if normed else "it"
        return f"{what} goes through {where_of(node, name_of(node))}, which no rotation commutes with"


def _channels(shape: Sequence[int], dim: int) -> Tensor:
    size = shape[dim]
    return torch.arange(size).view(size, *[1] * (-dim - 1)).expand(tuple(shape)).clone()


def _along(result: object, size: int) -> int | None:
    """The axis, from the end, along which a tensor (or every one of a tuple) counts from 0 to the size."""
    if isinstance(result, (tuple, list)):
        found = {_along(each, size) for each in result}
        return found.pop() if len(found) == 1 else None
    assert isinstance(result, Tensor)
    for dim in range(-1, -result.dim() - 1, -1):
        if result.shape[dim] == size and torch.equal(result, _channels(result.shape, dim)):
            return dim
    return None


def _uncast(node: fx.Node) -> fx.Node:
    while keeps(node) and name_of(node) not in ("aten::mul", "aten::div"):
        node = node.all_input_nodes[0]
    return node


def _read_within(node: fx.Node, allowed: set[fx.Node]) -> bool:
    return all(user in allowed or name_of(user) in IDLE for user in node.users)


def _root_mean_square(node: fx.Node) -> tuple[list[fx.Node], fx.Node] | None:
    """The nodes of rsqrt(mean(x², -1) + ε) and x, if this is one."""
    inner: list[fx.Node] = []

    def step(node: fx.Node, *names: str) -> fx.Node | None:
        while keeps(node) and name_of(node) not in ("aten::mul", "aten::div"):
            inner.append(node)
            node = node.all_input_nodes[0]
        inner.append(node)
        return node if name_of(node) in {f"aten::{name}" for name in names} else None

    root = step(node, "rsqrt")
    shifted = root and step(root.all_input_nodes[0], "add")
    if not shifted or len(shifted.all_input_nodes) != 1:
        return None
    mean = step(shifted.all_input_nodes[0], "mean")
    if not mean:
        return None
    arguments = dict(named_arguments(mean))
    if list(arguments.get("dim") or ()) not in ([-1], [len(shape_of(mean) or ()) - 1]):
        return None
    if not arguments.get("keepdim"):
        return None
    square = step(mean.all_input_nodes[0], "pow", "square")
    if not square or (name_of(square) == "aten::pow" and square.args[1] != 2):
        return None
    return inner, square.all_input_nodes[0]

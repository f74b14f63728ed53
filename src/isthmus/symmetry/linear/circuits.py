"""Finding the query-key and value-output circuits of attention on a traced graph.

In every product of two computed tensors (inside `scaled_dot_product_attention`, or a `matmul` or `bmm`), the
channels of each side are followed back through moves to the linear layer that makes them. Where a head's
queries and keys meet in no other way, they may be changed by M and M⁻ᵀ; so may its values and the columns of
the output projection, which are found by following the product forward. What is not understood is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from isthmus.symmetry.export import Trace
from isthmus.symmetry.linear.bases import Basis, BasisPlace, Kind
from isthmus.symmetry.linear.flow import name_of, origin, shape_of, uses
from isthmus.symmetry.linear.layers import Layer, Parameters
from isthmus.symmetry.nodes import named_arguments, where_of

_SDPA = "aten::scaled_dot_product_attention"
_PRODUCTS = ("aten::matmul", "aten::bmm")
Channels = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Side:
    """One operand of a product whose vectors are channels of a linear layer.

    Attributes:
        source: the layer's node.
        layer: the layer.
        channels: for each batch entry (heads included), the channels of its vectors, shape (batch…, size).
        operand: the node that enters the product.
        user: the product.
    """

    source: fx.Node
    layer: Layer
    channels: Tensor
    operand: fx.Node
    user: fx.Node


class _Unclear(Exception):
    """A reason against a circuit."""


class Circuits:
    """One reading of a graph."""

    def __init__(self, traced: Trace, parameters: Parameters) -> None:
        self.parameters = parameters
        self._bases: list[tuple[Basis, list[tuple[fx.Node, fx.Node, fx.Node, set[int]]]]] = []
        self.refused: dict[str, str] = {}
        for node in traced.graph.nodes:
            name = name_of(node)
            if name == _SDPA:
                query, key, value = node.args[:3]
                shared = bool(dict(named_arguments(node)).get("enable_gqa"))
                self._try("query-key", node, lambda n=node, q=query, k=key, s=shared: self._pair(n, q, k, s))
                self._try("value-output", node, lambda n=node, v=value, s=shared: self._output(n, v, s))
            elif name in _PRODUCTS and self._computed(node):
                self._product(node)
        self.outputs = {node_name for _, node_name in traced.outputs}

    def found(self) -> list[Basis]:
        """The circuits all of whose channels are used in them alone."""
        kept = []
        claimed: dict[tuple[fx.Node, int], int] = {}
        for _, claims in self._bases:
            for source, _, _, channels in claims:
                for channel in channels:
                    claimed[source, channel] = claimed.get((source, channel), 0) + 1
        for basis, claims in self._bases:
            reason = self._fault(basis, claims, claimed)
            if reason is None:
                kept.append(basis)
            else:
                self.refused[basis.name] = reason
        return kept

    # -- products -------------------------------------------------------------------------------

    def _computed(self, node: fx.Node) -> bool:
        return all(isinstance(each, fx.Node) and len(shape_of(each) or ()) > 2 for each in node.args[:2])

    def _product(self, node: fx.Node) -> None:
        """Scores of queries and keys, or attention times values; which, the channels of each side tell."""
        left, right = node.args[:2]
        assert isinstance(left, fx.Node)
        assert isinstance(right, fx.Node)
        source, target = origin(left)[0], origin(right)[0]
        if self.parameters.layer(target) is None and self.parameters.layer(source) is None:
            if source.op == target.op == "call_function":
                weighted = "softmax" in name_of(source)
                kind, what, side = (
                    ("value-output", "values", target) if weighted else ("query-key", "queries", source)
                )
                self.refused[f"{kind} of {where_of(node, name_of(node))}"] = self._through(side, node, what)
            return
        if self.parameters.layer(source) is not None:
            self._try("query-key", node, lambda: self._pair(node, left, right, False, transposed=True))
        else:
            self._try("value-output", node, lambda: self._output(node, right, False))

    def _try(self, kind: Kind, node: fx.Node, build: object) -> None:
        assert callable(build)
        try:
            for places, claims in build():
                first = places[0]
                name = f"{kind} {first.parameter}[{first.dim}][{int(first.index[0, 0])}]"
                self._bases.append((Basis(name, kind, first.index.shape[1], places), claims))
        except _Unclear as reason:
            self.refused[f"{kind} of {where_of(node, name_of(node))}"] = str(reason)

    def _pair(
        self, node: fx.Node, query: object, key: object, shared: bool, transposed: bool = False
    ) -> Iterator[tuple[tuple[BasisPlace, ...], list[tuple[fx.Node, fx.Node, fx.Node, set[int]]]]]:
        """One circuit for each set of query and key heads that meet."""
        left, right = self._side(node, query, "queries"), self._side(node, key, "keys", transposed)
        first, second = _together(left.channels, right.channels, shared)
        pairs = {(tuple(q), tuple(k)) for q, k in zip(first.tolist(), second.tolist(), strict=True)}
        for queries, keys in _components(pairs):
            places = self._written(left, queries, False) + self._written(right, keys, True)
            yield places, [_claim(left, queries), _claim(right, keys)]

    def _output(
        self, node: fx.Node, value: object, shared: bool
    ) -> Iterator[tuple[tuple[BasisPlace, ...], list[tuple[fx.Node, fx.Node, fx.Node, set[int]]]]]:
        """One circuit for each value head, with the columns that read it."""
        side = self._side(node, value, "values")
        shape = shape_of(node)
        assert shape is not None
        batch = torch.Size(shape[:-2])
        heads = side.channels
        if shared and heads.dim() > 1:
            heads = heads.repeat_interleave(batch[-1] // heads.shape[-2], -2)
        if heads.shape[-1] != shape[-1]:
            raise _Unclear(f"the values' channels are not those of {where_of(node, name_of(node))}")
        heads = heads.expand(*batch, shape[-1]).reshape(-1, shape[-1])
        columns: dict[Channels, dict[tuple[str, int], list[Channels]]] = {}
        claims: dict[Channels, list[tuple[fx.Node, fx.Node, fx.Node, set[int]]]] = {}
        for user, operand in uses(node):
            layer = self.parameters.layer(user)
            if layer is None or layer.input is not operand or layer.reads is None:
                raise _Unclear(f"what the heads give goes through {where_of(user, name_of(user))}")
            for head, group in _groups(origin(operand)[1], heads, shape):
                columns.setdefault(head, {}).setdefault((layer.weight, layer.reads), []).append(group)
        for head in sorted({tuple(each) for each in heads.tolist()}):
            if head not in columns:
                raise _Unclear("nothing linear reads what a head gives")
            claims[head] = [_claim(side, [head])]
            readers = tuple(
                BasisPlace(weight, dim, torch.tensor(groups), True)
                for (weight, dim), groups in columns[head].items()
            )
            yield self._written(side, [head], False) + readers, claims[head]

    # -- sides ----------------------------------------------------------------------------------

    def _side(self, node: fx.Node, operand: object, what: str, transposed: bool = False) -> _Side:
        """The linear layer whose channels an operand's vectors are."""
        if not isinstance(operand, fx.Node):
            raise _Unclear(f"the {what} are no tensor")
        source, ids = origin(operand)
        layer = self.parameters.layer(source)
        if layer is None or layer.channel != -1 or layer.reads is None:
            raise _Unclear(self._through(source, node, what))
        width = (shape_of(source) or (1,))[-1]
        vectors = ids.mT if transposed else ids
        channels, places = vectors % width, vectors // width
        together = torch.equal(places, places[..., :1].expand_as(places))
        alike = torch.equal(channels, channels[..., :1, :].expand_as(channels))
        if not together or not alike:
            raise _Unclear(f"the {what} mix the channels of several positions of {layer.weight}")
        return _Side(source, layer, channels[..., 0, :], operand, node)

    def _through(self, source: fx.Node, node: fx.Node, what: str) -> str:
        """Why a side that no linear layer makes is refused."""
        hint = ", as a rotary embedding does" if name_of(source) == "aten::add" else ""
        place = "the attention" if name_of(node) == _SDPA else where_of(node, name_of(node))
        return (
            f"the {what} come to {place} through {where_of(source, name_of(source))}{hint}, "
            "which a change of basis does not commute with"
        )

    def _written(self, side: _Side, heads: Sequence[Channels], dual: bool) -> tuple[BasisPlace, ...]:
        """The rows of the weight and the elements of the bias that make these channels."""
        index = torch.tensor(list(heads))
        if index.numel() != len(set(index.flatten().tolist())):
            raise _Unclear(f"heads overlap in {side.layer.weight}")
        weight = BasisPlace(side.layer.weight, side.layer.writes, index, dual)
        return (weight, BasisPlace(side.layer.bias, 0, index, dual)) if side.layer.bias else (weight,)

    # -- faults ---------------------------------------------------------------------------------

    def _fault(
        self,
        basis: Basis,
        claims: Iterable[tuple[fx.Node, fx.Node, fx.Node, set[int]]],
        claimed: dict[tuple[fx.Node, int], int],
    ) -> str | None:
        """Why the channels of a circuit are not its own."""
        for place in basis.places:
            if self.parameters.users[place.parameter] > 1:
                return f"{place.parameter} is used by more than one operation"
        for source, product, operand, channels in claims:
            if any(claimed[source, channel] > 1 for channel in channels):
                return f"its channels of {basis.places[0].parameter} take part in another product too"
            if source.name in self.outputs:
                return "its channels come out of the module"
            width = (shape_of(source) or (1,))[-1]
            own = [use for use in uses(source) if use == (product, operand)]
            if len(own) != 1 or sum(each is operand for each in product.all_input_nodes) != 1:
                return "its channels enter one product twice"
            for user, other in uses(source):
                if (user, other) == (product, operand):
                    continue
                through = origin(other)[1] if origin(other)[0] is source else torch.arange(width)
                if channels & set((through % width).flatten().tolist()):
                    return f"its channels go through {where_of(user, name_of(user))} too"
        return None


def _claim(side: _Side, heads: Iterable[Channels]) -> tuple[fx.Node, fx.Node, fx.Node, set[int]]:
    return side.source, side.user, side.operand, {channel for head in heads for channel in head}


def _together(first: Tensor, second: Tensor, shared: bool) -> tuple[Tensor, Tensor]:
    """Channels of both sides for every batch entry, as rows."""
    if shared and first.dim() > 1:
        second = second.repeat_interleave(first.shape[-2] // second.shape[-2], -2)
    if first.shape[-1] != second.shape[-1]:
        raise _Unclear("the queries and keys have different numbers of channels")
    size = first.shape[-1]
    batch = (first[..., 0] + second[..., 0]).shape
    return first.expand(*batch, size).reshape(-1, size), second.expand(*batch, size).reshape(-1, size)


def _components(
    pairs: Iterable[tuple[Channels, Channels]],
) -> Iterator[tuple[list[Channels], list[Channels]]]:
    """Sets of query and key heads that are tied together, in order."""
    groups: list[tuple[set[Channels], set[Channels]]] = []
    for query, key in sorted(pairs):
        queries, keys = {query}, {key}
        rest = []
        for group in groups:
            if group[0] & queries or group[1] & keys:
                queries |= group[0]
                keys |= group[1]
            else:
                rest.append(group)
        groups = [*rest, (queries, keys)]
    yield from ((sorted(queries), sorted(keys)) for queries, keys in groups)


def _groups(ids: Tensor, heads: Tensor, shape: Sequence[int]) -> Iterator[tuple[Channels, Channels]]:
    """For each head the input channels of a layer that read it, in the order of the head's channels.

    Args:
        ids: for each element of the layer's input, the number of the attention output's element.
        heads: the value channels of each batch entry.
        shape: of the attention's output (batch…, positions, channels).
    """
    size, positions = shape[-1], shape[-2]
    flat = ids.reshape(-1, ids.shape[-1])
    vectors, channels = flat // size, flat % size
    for vector in sorted(set(vectors[0].tolist())):
        group = (vectors[0] == vector).nonzero()[:, 0]
        group = group[channels[0, group].argsort()]
        own = vectors[:, group]
        entries = heads[own[:, 0] // positions]
        if not torch.equal(channels[:, group], torch.arange(size).expand(len(flat), size)):
            raise _Unclear("a head's channels are read in part, or in another order elsewhere")
        if not torch.equal(own, own[:, :1].expand_as(own)) or not torch.equal(
            entries, entries[:1].expand_as(entries)
        ):
            raise _Unclear("the layer that reads the heads mixes them with the positions")
        yield tuple(entries[0].tolist()), tuple(group.tolist())

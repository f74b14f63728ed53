"""The run of a traced graph on labels instead of numbers.

Every parameter starts with units of its own along each axis; every operation then states, by its rule, which
units must move together (see `isthmus.symmetry.labels`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from isthmus.errors import SymmetryError
from isthmus.layout import Layout
from isthmus.symmetry import axes as assembly
from isthmus.symmetry.export import Trace
from isthmus.symmetry.labels import Label, along, along_blocks, constant, of_constant, of_input, pin
from isthmus.symmetry.nodes import named_arguments, operation_name, where_of
from isthmus.symmetry.rules import IGNORED, POINTING, Call, Result, Rule, arithmetic, unknown
from isthmus.symmetry.units import Units
from isthmus.weights import Weights

_NORMS = ("batch_norm", "instance_norm")
# The vectors by which a spectral norm follows the largest singular value, in its new and its old form.
_SINGULAR = ("_u", "_v", "weight_u", "weight_v")
_FOLDED = 1 << 24
# Operations between a parameter and those that read it as a stack of matrices, and these.
_CARRIERS = {"transpose", "permute", "numpy_T", "mT", "to", "_to_copy", "contiguous", "clone", "detach"}
_CARRIERS |= {"unsqueeze", "expand"}
_STACKED = {"bmm", "baddbmm", "matmul", "einsum", "index", "index_select", "select", "unbind"}
_SPLITS = {"split", "split_with_sizes", "unsafe_split", "chunk", "tensor_split"}
_PIECES = 16
_ADDED = {"add", "mul", "sub", "select", "unbind"}
# Units of their own for every matrix or vector of a stack: so many at most, for memory's sake.
_STACKED_UNITS = 1 << 22
_SMALL = 1 << 12
_MATRICES, _VECTORS = 3, 2


def other_names(module: nn.Module) -> dict[str, list[str]]:
    """For the buffers of shared modules: each name's other names."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, buffer in module.named_buffers(remove_duplicate=False):
        names[id(buffer)].append(name)
    return {name: [n for n in group if n != name] for group in names.values() for name in group}


class _Opaque(Enum):
    """What has no label, since data decide its shape. All that feeds it is pinned, so it stays as it is."""

    SCALAR = "a number that is read from a tensor"
    TENSOR = "a tensor whose shape depends on data"


class Execution:
    """The run of one graph on labels."""

    def __init__(
        self, traced: Trace, start: Weights, rules: Mapping[str, Rule], others: Mapping[str, list[str]]
    ) -> None:
        self.traced = traced
        self.start = start
        self.rules = rules
        self.others = others
        self.units = Units()
        self.leaves: list[assembly.Leaf] = []
        self.unread: tuple[str, ...] = ()
        self.labels: dict[str, Any] = {}
        self.observe: Callable[[fx.Node, Label], None] | None = None
        self._leaf_labels = self._make_leaves(start.layout)

    def _make_leaves(self, layout: Layout) -> dict[str, Label]:
        """Units for every axis of every parameter, and of the buffers that norms alone use."""
        shapes = dict(zip(layout.names, layout.shapes, strict=True))
        movable = {self.traced.buffers[n.name] for n in self._placeholders() if self._is_statistic(n)}
        blocks = self._grouped() | self._stacked(shapes) | self._split(shapes)
        shapes |= {name: tuple(self.start.buffers[name].shape) for name in sorted(movable)}
        labels = {}
        for name, shape in shapes.items():
            slots = []
            for dim, size in enumerate(shape):
                if size > 1:
                    number = blocks.get((name, dim), 1)
                    ids = self.units.fresh(size * number)
                    names = [name, *self.others.get(name, ())]
                    self.leaves += [assembly.Leaf(n, dim, ids, name in movable, number) for n in names]
                    slots.append(
                        along_blocks(ids, shape, number, dim) if number > 1 else along(ids, shape, dim)
                    )
            labels[name] = Label(tuple(slots), constant(shape), name, distinct=True)
        aliases = {other: labels[name] for other, name in layout.aliases if name in labels}
        return labels | aliases

    def _placeholders(self) -> list[fx.Node]:
        return [node for node in self.traced.graph.nodes if node.op == "placeholder"]

    def _is_statistic(self, node: fx.Node) -> bool:
        """Whether a buffer is a statistic: of a batch norm, frozen or not, of a spectral norm, or of a norm.

        Statistics follow from training; other buffers, such as tables of positions, are constants.
        """
        owner, _, own = self.traced.buffers.get(node.name, "").rpartition(".")
        if own in _SINGULAR and node.users:
            return True
        beside = [f"{owner}.{name}".lstrip(".") for name in ("running_mean", "running_var")]
        if node.name in self.traced.buffers and node.users and all(n in self.start.buffers for n in beside):
            return True
        return (
            node.name in self.traced.buffers
            and bool(node.users)
            and all(any(norm in operation_name(user.target) for norm in _NORMS) for user in node.users)
        )

    def _grouped(self) -> dict[tuple[str, int], int]:
        """Weights that convolutions of one number of groups alone read, and that number.

        Every group has its own order of the channels along axis 1.
        """
        groups: dict[str, set[int]] = defaultdict(set)
        for node in self._placeholders():
            for user in node.users if node.name in self.traced.parameters else ():
                arguments = dict(named_arguments(user)) if "conv" in operation_name(user.target) else {}
                weight = arguments.get("weight") is node
                groups[self._parameter(node)].add(arguments["groups"] if weight else 1)
        return {(name, 1): min(found) for name, found in groups.items() if len(found) == 1}

    def _stacked(self, shapes: Mapping[str, Sequence[int]]) -> dict[tuple[str, int], int]:
        """Parameters that are read as stacks of matrices or vectors, and how many: each has its own order."""
        readers: dict[str, set[str]] = defaultdict(set)
        for node in self._placeholders():
            if node.name in self.traced.parameters:
                readers[self._parameter(node)] |= _readers(node)
        stacks = [
            name
            for name, found in readers.items()
            if shapes[name]
            and shapes[name][0] > 1
            and (
                (len(shapes[name]) >= _MATRICES and found <= _STACKED)
                or (len(shapes[name]) == _VECTORS and found <= _ADDED and math.prod(shapes[name]) <= _SMALL)
            )
        ]
        if sum(shapes[name][0] * sum(shapes[name][1:]) for name in stacks) > _STACKED_UNITS:
            return {}
        return {(name, dim): shapes[name][0] for name in stacks for dim in range(1, len(shapes[name]))}

    def _split(self, shapes: Mapping[str, Sequence[int]]) -> dict[tuple[str, int], int]:
        """Matrices whose rows are split before anything reads them, and into how many equal blocks at most.

        The pieces may read different tensors, as the queries of cross attention and its keys and values do.
        """
        found: dict[str, int] = {}
        for node in self._placeholders():
            name = self._parameter(node) if node.name in self.traced.parameters else ""
            pieces = [_pieces(user) for user in node.users]
            if len(shapes.get(name, ())) == _VECTORS and pieces and all(pieces):
                number = shapes[name][0] // math.gcd(
                    shapes[name][0], *(size for sizes in pieces for size in sizes)
                )
                found[name] = number if number <= _PIECES and name not in found else 1
        return {(name, 1): number for name, number in found.items() if number > 1}

    def _parameter(self, node: fx.Node) -> str:
        """The name of a parameter's placeholder in the layout, which has one name for shared memory."""
        layout = self.start.layout
        return layout.names[layout.index[self.traced.parameters[node.name]]]

    def freeze(self, freeze: Iterable[str | tuple[str, int]]) -> None:
        """Pin what the caller says."""
        for item in [freeze] if isinstance(freeze, str) else freeze:
            name, dim = (item, None) if isinstance(item, str) else item
            name = dict(self.start.layout.aliases).get(name, name)
            chosen = [leaf for leaf in self.leaves if leaf.name == name and dim in (None, leaf.dim)]
            if name not in self._leaf_labels:
                raise SymmetryError(f"freeze names {item!r}, but the module has no such parameter")
            for leaf in chosen:
                self.units.pin(leaf.ids, "frozen by the caller")

    def execute(self, outputs: set[str]) -> None:
        """Label every node; pin the outputs that matter and the parameters that nothing reads."""
        read = set()
        done = self._done_after({node for _, node in self.traced.outputs})
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.labels[node.name] = self._placeholder(node)
                if node.users:
                    read.add(self.traced.parameters.get(node.name))
            elif node.op == "call_function":
                self.labels[node.name] = label = self._call(node)
                if self.observe is not None and isinstance(label, Label):
                    self.observe(node, label)
            for name in done.get(node.name, ()):
                self.labels.pop(name, None)
        for name, node_name in self.traced.outputs:
            output = self.labels.get(node_name)
            if node_name in outputs and isinstance(output, Label):
                pin(self.units, output, f"the output {name}: its units have an order")
        layout = self.start.layout
        known = {layout.names[layout.index[name]] for name in read if name in self._leaf_labels}
        self.unread = tuple(name for name in layout.names if name not in known)
        for leaf in self.leaves:
            if not leaf.buffer and leaf.name not in known:
                self.units.pin(leaf.ids, "the traced graph does not read this parameter")
        self._pin_unread_parts()

    def _done_after(self, kept: set[str]) -> dict[str, list[str]]:
        """For each node, those that it is the last one to read: their labels need no more memory."""
        last: dict[str, str] = {}
        for node in self.traced.graph.nodes:
            last |= {argument.name: node.name for argument in node.all_input_nodes}
        done: dict[str, list[str]] = defaultdict(list)
        for name, reader in last.items():
            if name not in kept:
                done[reader].append(name)
        return done

    def _pin_unread_parts(self) -> None:
        """Pin units along an axis of which others are read: an input of another size may read them.

        Such are the rows of a table of positions beyond the example's length.
        """
        met = torch.zeros(self.units.count, dtype=torch.bool)
        for relation in (*self.units.same, *self.units.families):
            met[relation.left] = met[relation.right] = True
        for mark in self.units.marks:
            met[mark.ids] = True
        for leaf in self.leaves:
            if bool(met[leaf.ids].any()) and not bool(met[leaf.ids].all()):
                self.units.pin(leaf.ids[~met[leaf.ids]], "the traced graph does not read this part of it")

    def _placeholder(self, node: fx.Node) -> Any:
        traced = self.traced
        name = traced.parameters.get(node.name) or traced.buffers.get(node.name)
        if name in self._leaf_labels:
            return self._leaf_labels[name]
        if name is not None:
            return _known(self.start.buffers[name], f"the constant {name}")
        if node.name in traced.constants:
            return _known(traced.constants[node.name], "a constant of the graph")
        value = node.meta.get("val")
        return of_input(value.shape, f"the input {node.name}") if isinstance(value, Tensor) else value

    def _call(self, node: fx.Node) -> Any:
        name = operation_name(node.target)
        if name == "getitem":
            source, number = cast("tuple[fx.Node, int]", node.args)
            items = self.labels[source.name]
            return items[number] if isinstance(items, (tuple, list)) else items
        if name in IGNORED:
            return None
        if node.name in self.traced.computed:
            return of_constant(self.traced.computed[node.name], "a constant of the graph")
        results = node.meta.get("val")
        shapes = [tuple(item.shape) for item in pytree.tree_leaves(results) if isinstance(item, Tensor)]
        opaque = _Opaque.TENSOR if shapes else _Opaque.SCALAR
        if not shapes or any(not isinstance(size, int) for shape in shapes for size in shape):
            self._pin_arguments(node, f"{where_of(node, name)}: it gives {opaque.value}")
            return opaque
        call = self._bound(node, name)
        rule = self.rules.get(name, unknown)
        found = {item for item in pytree.tree_leaves(call.arguments) if isinstance(item, _Opaque)}
        if found:
            # Any number may meet all elements alike; all else would have to know what it is.
            simple = found == {_Opaque.SCALAR} and rule is arithmetic.elementwise
            return _ruled(call, rule) if simple else unknown(call)
        constant_result = _folded(call, node)
        if constant_result is not None:
            return constant_result
        return _ruled(call, rule)

    def _pin_arguments(self, node: fx.Node, reason: str) -> None:
        for argument in node.all_input_nodes:
            for label in pytree.tree_leaves(self.labels.get(argument.name)):
                if isinstance(label, Label):
                    pin(self.units, label, reason)

    def _bound(self, node: fx.Node, name: str) -> Call:
        """The node as a call with labels for tensors."""
        results: Any = node.meta.get("val")
        several = isinstance(results, (tuple, list))
        items: Sequence[Any] = results if several else (results,)
        shapes = tuple(tuple(item.shape) for item in items if isinstance(item, Tensor))
        arguments = dict(named_arguments(node))
        arguments = fx.node.map_arg(arguments, lambda n: self.labels.get(n.name))
        items = [user for user in node.users if user.users and operation_name(user.target) == "getitem"]
        reads = [item.args[1] for item in items] if several else [0]
        used = frozenset(number for number in reads if isinstance(number, int))
        run = cast("Callable[..., Any]", node.target)
        return Call(self.units, name, run, arguments, shapes, used, where_of(node, name), several)


def _known(value: Tensor, origin: str) -> Label:
    """The label of a constant; one on the meta device has no values, so no two elements count as equal."""
    return of_input(value.shape, origin) if value.is_meta else of_constant(value, origin)


def _ruled(call: Call, rule: Rule) -> Result:
    """What the rule says; if it fails on unforeseen arguments, the operation counts as unknown.

    Facts that it stated before it failed only make the group smaller.
    """
    pointing = POINTING.get(rule, "").split()
    given = {key: value if key in pointing else _unread(call, value) for key, value in call.arguments.items()}
    call = replace(call, arguments=given)
    try:
        result = rule(call)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, StopIteration) as error:
        return unknown(replace(call, where=f"{call.where} ({type(error).__name__} in its rule: {error})"))
    labels = result if isinstance(result, tuple) else (result,)
    if any(
        label is not None and label.shape != shape for label, shape in zip(labels, call.shapes, strict=True)
    ):
        return unknown(replace(call, where=f"{call.where} (its rule gave another shape)"))
    return result


def _unread(call: Call, argument: Any) -> Any:
    """An argument without numbers of units, which are pinned: what the rule makes of them is not followed."""

    def strip(label: Label) -> Label:
        if label.points is None:
            return label
        call.units.pin(label.points, f"{call.where}: the numbers of its units are read there")
        return replace(label, points=None, content=object())

    return pytree.tree_map_only(Label, strip, argument)


def _folded(call: Call, node: fx.Node) -> Label | None:
    """The constant that an operation on constants returns, if it is one and not too large."""
    if call.several or any(label.value is None for label in call.labels):
        return None
    tags = getattr(node.target, "tags", ())
    if (
        torch.Tag.nondeterministic_seeded in tags
        or "empty" in call.name
        or math.prod(call.shapes[0]) > _FOLDED
    ):
        return None
    arguments = {key: _values(value) for key, value in call.arguments.items()}
    return of_constant(
        call.run(**arguments), next((x.origin for x in call.labels), "a constant of the graph")
    )


def _values(value: Any) -> Any:
    """An argument with values for labels; constants are computed in main memory."""
    if isinstance(value, (list, tuple)):
        return type(value)(_values(item) for item in value)
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.value if isinstance(value, Label) else value


def _readers(node: fx.Node) -> set[str]:
    """The names of the operations that read a node, views and casts looked through.

    An einsum that does not read it as a stack of matrices counts as another operation.
    """
    found: set[str] = set()
    for user in node.users:
        name = operation_name(user.target).removeprefix("aten::")
        if name == "einsum" and not _reads_stack(user, node):
            name = "einsum of a matrix"
        found |= _readers(user) if name in _CARRIERS else {name}
    return found


def _pieces(node: fx.Node) -> list[int]:
    """The sizes into which an operation splits a tensor's first axis; none if it does not."""
    name = operation_name(node.target).removeprefix("aten::")
    if name not in _SPLITS or dict(named_arguments(node)).get("dim", 0) != 0:
        return []
    return [int(piece.shape[0]) for piece in node.meta["val"]]


def _reads_stack(einsum: fx.Node, operand: fx.Node) -> bool:
    """Whether the first index of an operand numbers matrices: it is kept, or summed, beside another index."""
    equation, operands = cast("tuple[str, Sequence[fx.Node]]", einsum.args[:2])
    terms, _, result = equation.replace(" ", "").partition("->")
    own = [term for term, each in zip(terms.split(","), operands, strict=True) if each is operand]
    return all(any((index in result) is (term[0] in result) for index in term[1:]) for term in own)

"""The run of a traced graph on charges."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from isthmus.errors import SymmetryError
from isthmus.symmetry.export import Trace
from isthmus.symmetry.labels import compress
from isthmus.symmetry.nodes import named_arguments, operation_name, where_of
from isthmus.symmetry.partitions import distinct
from isthmus.symmetry.rescale.call import Call, Result, Rule, unknown
from isthmus.symmetry.rescale.charges import NOTHING, Charge, Equations, Gauge
from isthmus.symmetry.rescale.table import RULES
from isthmus.symmetry.rules import IGNORED
from isthmus.weights import Weights

_NORMS = ("batch_norm", "instance_norm")
_FOLDED = 1 << 24
# Variables for each pair (or more) of units are made up to this number; beyond it, for each single axis.
_JOINT = 1 << 17
_POINTWISE = frozenset({"add", "sub", "mul", "div", "addcmul", "lerp", "unsqueeze", "expand"})


@dataclass(frozen=True, eq=False)
class Leaf:
    """The variables of a parameter or buffer.

    Attributes:
        name: its name.
        variables: one tensor a term, of shapes that broadcast to that of the parameter.
        buffer: whether it is a buffer.
    """

    name: str
    variables: tuple[Tensor, ...]
    buffer: bool


class Execution:
    """The run of one graph on charges.

    Args:
        traced: the graph.
        start: the weights of the module, for the shapes of parameters and the values of buffers.
        others: other names of buffers of shared modules.
        signs: whether factors are signs.
        outputs: the nodes whose values must stay.
        rules: further rules, which go before those of the table.
    """

    def __init__(
        self,
        traced: Trace,
        start: Weights,
        others: Mapping[str, list[str]],
        signs: bool,
        outputs: Mapping[str, str],
        rules: Mapping[str, Rule],
    ) -> None:
        self.traced = traced
        self.start = start
        self.outputs = outputs
        self.rules = dict(RULES) | dict(rules)
        self.equations = Equations(signs)
        self.leaves: list[Leaf] = []
        self.charges: dict[str, Any] = {}
        self.rowwise: set[str] = set()
        self.alive = _alive(traced.graph, set(outputs))
        self._others = others
        self._users = self._collected_users()
        self._leaf_charges = self._make_leaves()

    # -- parameters -----------------------------------------------------------------------------

    def _collected_users(self) -> dict[str, list[fx.Node]]:
        """The operations that read each parameter or buffer, by its name in the layout."""
        users: dict[str, list[fx.Node]] = defaultdict(list)
        aliases = dict(self.start.layout.aliases)
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                name = self.traced.parameters.get(node.name) or self.traced.buffers.get(node.name)
                if name is not None:
                    users[aliases.get(name, name)] += list(node.users)
        return users

    def _make_leaves(self) -> dict[str, Charge]:
        layout = self.start.layout
        charges = {}
        for name, shape in zip(layout.names, layout.shapes, strict=True):
            charges[name] = self._parameter(name, shape)
        for name in self.traced.buffers.values():
            users = self._users[name]
            if users and all(any(norm in operation_name(user.target) for norm in _NORMS) for user in users):
                charges[name] = self._statistic(name)
        return charges | {other: charges[name] for other, name in layout.aliases}

    def _parameter(self, name: str, shape: tuple[int, ...]) -> Charge:
        first = self.equations.count
        terms = self._kernel(name, shape) or [self._joint(s, shape) for s in self._subsets(name, shape)]
        gauge = None
        if len(terms) == 2 and len(shape) > 1 and sum(size > 1 for size in terms[0].shape) == 1:
            gauge = Gauge(name, (first, self.equations.count), _first_columns(terms[1]).numel())
        elif len(terms) > 1:
            _without_gauge(terms)
        self.leaves.append(Leaf(name, tuple(terms), False))
        return Charge(shape, tuple((1, compress(ids.expand(shape))) for ids in terms), gauge=gauge)

    def _kernel(self, name: str, shape: tuple[int, ...]) -> list[Tensor]:
        """The terms of a weight that only convolutions of one number of groups read; empty for others.

        Rows, and columns, which are other units in every group. The places of a kernel have one factor.
        """
        groups = {self._groups_of(name, user) for user in self._users[name]}
        if len(groups) != 1 or None in groups or len(shape) < 3:
            return []
        (number,) = groups
        rest = [1] * (len(shape) - 2)
        rows = self.equations.fresh([shape[0], 1, *rest])
        if shape[1] == 1:
            return [rows]
        columns = self.equations.fresh([cast("int", number), shape[1], *rest])
        return [
            rows,
            columns.repeat_interleave(shape[0] // cast("int", number), 0) if number != 1 else columns,
        ]

    def _groups_of(self, name: str, user: fx.Node) -> int | None:
        if "conv" not in operation_name(user.target):
            return None
        arguments = dict(named_arguments(user))
        weight = arguments.get("weight")
        source = self.traced.parameters.get(weight.name, "") if isinstance(weight, fx.Node) else ""
        same = dict(self.start.layout.aliases).get(source, source) == name
        return int(arguments["groups"]) if same and "groups" in arguments else None

    def _subsets(self, name: str, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The sets of axes that get a variable for each combination of their indices."""
        axes = tuple(axis for axis, size in enumerate(shape) if size > 1)
        pointwise = all(
            operation_name(user.target).removeprefix("aten::") in _POINTWISE for user in self._users[name]
        )
        if len(axes) < 2 or (pointwise and math.prod(shape) <= _JOINT):
            return [axes]
        subsets = list(itertools.combinations(axes, len(axes) - 1))
        small = [subset for subset in subsets if math.prod(shape[axis] for axis in subset) <= _JOINT]
        covered = {axis for subset in small for axis in subset} if len(axes) > 2 else set()
        return (small if len(axes) > 2 else []) + [(axis,) for axis in axes if axis not in covered]

    def _joint(self, axes: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
        return self.equations.fresh([size if axis in axes else 1 for axis, size in enumerate(shape)])

    def _statistic(self, name: str) -> Charge:
        shape = tuple(self.start.buffers[name].shape)
        ids = self.equations.fresh(shape)
        self.leaves += [Leaf(each, (ids,), True) for each in [name, *self._others.get(name, ())]]
        return Charge(shape, ((1, ids),))

    def freeze(self, freeze: Iterable[str | tuple[str, int]]) -> None:
        """Pin what the caller says."""
        for item in [freeze] if isinstance(freeze, str) else freeze:
            name, dim = (item, None) if isinstance(item, str) else item
            name = dict(self.start.layout.aliases).get(name, name)
            if name not in self._leaf_charges:
                raise SymmetryError(f"freeze names {item!r}, but the module has no such parameter")
            charge = self._leaf_charges[name]
            if dim is None:
                self.equations.zero(charge, "frozen by the caller")
            elif not -len(charge.shape) <= dim < len(charge.shape):
                raise SymmetryError(f"freeze names {item!r}, but {name} has {len(charge.shape)} axes")
            elif len(charge.shape) == 1:
                self.equations.zero(charge, "frozen by the caller")
            else:
                self.equations.along(charge, [dim], "frozen by the caller")

    # -- the graph ------------------------------------------------------------------------------

    def execute(self) -> None:
        """Run every node that an output which matters depends on; then pin these outputs."""
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.charges[node.name] = self._placeholder(node)
            elif node.op == "call_function" and node in self.alive:
                self.charges[node.name] = self._call(node)
        for node_name, name in self.outputs.items():
            charge = self.charges.get(node_name)
            if isinstance(charge, Charge):
                self.equations.zero(charge, f"the output {name} has to stay as it is")
        aliases = dict(self.start.layout.aliases)
        read = {self.traced.parameters.get(node.name, "") for node in self.alive}
        read = {aliases.get(name, name) for name in read}
        for leaf in self.leaves:
            if not leaf.buffer and leaf.name not in read:
                for ids in leaf.variables:
                    self.equations.pin(ids, "no output that matters depends on this parameter")

    def fix_gauges(self) -> None:
        """Of the ways to write a parameter's factor as rows times columns, choose one."""
        for leaf in self.leaves:
            gauge = self._leaf_charges[leaf.name].gauge if not leaf.buffer else None
            if gauge is not None and leaf.name not in self.equations.gauged:
                self.rowwise.add(leaf.name)
                self.equations.pin(_first_columns(leaf.variables[1]), "it is the same as scaling the rows")

    def _placeholder(self, node: fx.Node) -> Any:
        traced = self.traced
        name = traced.parameters.get(node.name) or traced.buffers.get(node.name)
        if name in self._leaf_charges:
            return self._leaf_charges[name]
        if name is not None:
            value = self.start.buffers[name]
            # Only what a checkpoint cannot change may be known to be zero.
            return Charge(tuple(value.shape), value=None if value.is_floating_point() else value.cpu())
        if node.name in traced.constants:
            return known(traced.constants[node.name])
        given = node.meta.get("val")
        return Charge(tuple(given.shape)) if isinstance(given, Tensor) else given

    def _call(self, node: fx.Node) -> Any:
        name = operation_name(node.target)
        if name == "getitem":
            source, number = cast("tuple[fx.Node, int]", node.args)
            items = self.charges.get(source.name)
            return items[number] if isinstance(items, (tuple, list)) else items
        if name in IGNORED:
            return None
        call = self._bound(node, name)
        sizes = [size for shape in call.shapes for size in shape]
        if not call.shapes or any(not isinstance(size, int) for size in sizes) or self._opaque(node):
            for charge in call.charges:
                self.equations.zero(charge, call.because("data decide the shape or the number that it gives"))
            whole = all(isinstance(size, int) for size in sizes)
            return call.all_neutral() if call.shapes and whole else None
        folded = _folded(call, node)
        return folded if folded is not None else _ruled(call, self.rules.get(name, unknown))

    def _opaque(self, node: fx.Node) -> bool:
        """Whether an argument is a tensor whose shape depends on data."""
        values = [argument.meta.get("val") for argument in node.all_input_nodes]
        return any(
            not isinstance(size, int)
            for value in pytree.tree_leaves(values)
            if isinstance(value, Tensor)
            for size in value.shape
        )

    def _bound(self, node: fx.Node, name: str) -> Call:
        """The node as a call with charges for tensors."""
        results: Any = node.meta.get("val")
        several = isinstance(results, (tuple, list))
        items = [item for item in (results if several else (results,)) if isinstance(item, Tensor)]
        arguments = fx.node.map_arg(dict(named_arguments(node)), self._argument)
        reads = (
            [user.args[1] for user in node.users if operation_name(user.target) == "getitem"]
            if several
            else [0]
        )
        return Call(
            self.equations,
            name,
            cast("Callable[..., Any]", node.target),
            arguments,
            tuple(tuple(item.shape) for item in items),
            tuple(item.dtype for item in items),
            frozenset(number for number in reads if isinstance(number, int)),
            where_of(node, name),
            several,
        )

    def _argument(self, node: fx.Node) -> Any:
        """What stands for a node: a number read from a tensor does not change, as its source is pinned."""
        found = self.charges.get(node.name)
        number = node.meta.get("val")
        return Charge(()) if found is None and not isinstance(number, (Tensor, type(None))) else found


def _first_columns(columns: Tensor) -> Tensor:
    """The variable of the first column, for each group of a grouped convolution."""
    axis = next(axis for axis in range(1, columns.dim()) if columns.shape[axis] > 1)
    return distinct(columns.narrow(axis, 0, 1))


def known(value: Tensor) -> Charge:
    """The charge of a constant of the graph."""
    value = value.detach().cpu()
    return Charge(tuple(value.shape), zero=not bool(value.any()), value=value)


def _alive(graph: fx.Graph, outputs: set[str]) -> set[fx.Node]:
    """The nodes on which these outputs depend."""
    alive = {node for node in graph.nodes if node.name in outputs}
    for node in reversed(list(graph.nodes)):
        if node in alive:
            alive.update(node.all_input_nodes)
    return alive


def _without_gauge(terms: list[Tensor]) -> None:
    """Leave out variables that terms before can do the work of, in place.

    A function of (i, j) + one of (j, k) + … is written in one way if the variable of a term at an index is
    left out wherever all axes at which the index is not 0 belong to a term before.
    """
    spans = [{axis for axis, size in enumerate(ids.shape) if size > 1} for ids in terms]
    for number, ids in enumerate(terms):
        for earlier in range(number):
            outside = spans[number] - spans[earlier]
            chosen = tuple(0 if axis in outside else slice(None) for axis in range(ids.dim()))
            ids[chosen] = NOTHING


def _ruled(call: Call, rule: Rule) -> Result:
    """What the rule says; if it fails on unforeseen arguments, the operation counts as unknown.

    Equations that it stated before it failed only make the group smaller.
    """
    try:
        result = rule(call)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, StopIteration) as error:
        return unknown(replace(call, where=f"{call.where} ({type(error).__name__} in its rule: {error})"))
    results = result if isinstance(result, tuple) else (result,)
    for number, (charge, shape) in enumerate(zip(results, call.shapes, strict=True)):
        if charge is None:
            if number in call.used:
                return unknown(call)
        elif charge.shape != shape or any(ids.shape != shape for _, ids in charge.terms):
            return unknown(replace(call, where=f"{call.where} (its rule gave another shape)"))
        elif not (call.dtypes[number].is_floating_point or call.dtypes[number].is_complex):
            call.still(charge, "whole numbers have no factor")
    return result


def _folded(call: Call, node: fx.Node) -> Charge | None:
    """The constant that an operation on constants returns, if it is one and not too large."""
    if call.several or any(charge.value is None for charge in call.charges):
        return None
    tags = getattr(node.target, "tags", ())
    random = torch.Tag.nondeterministic_seeded in tags
    if random or "empty" in call.name or math.prod(call.shapes[0]) > _FOLDED:
        return None
    return known(call.run(**{key: _values(value) for key, value in call.arguments.items()}))


def _values(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_values(item) for item in value)
    return value.value if isinstance(value, Charge) else value

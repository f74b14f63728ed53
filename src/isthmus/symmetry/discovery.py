"""Finding the symmetry of a module: trace, run on labels, solve, verify."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from isthmus.errors import SymmetryError, SymmetryWarning
from isthmus.layout import Layout
from isthmus.network import Network
from isthmus.symmetry import axes as assembly
from isthmus.symmetry import verify as proof
from isthmus.symmetry.export import Inputs, Trace, evaluation_copy, trace, undisturbed_generators
from isthmus.symmetry.group import Symmetry
from isthmus.symmetry.labels import Label, along, along_blocks, constant, of_constant, of_input, pin
from isthmus.symmetry.orbits import solve
from isthmus.symmetry.rules import IGNORED, RULES, Call, Result, Rule, arithmetic, unknown
from isthmus.symmetry.units import Units
from isthmus.weights import Weights

_NORMS = ("batch_norm", "instance_norm")
_FOLDED = 1 << 24
_SEED = 2023
# Every control is a forward pass in float64: with more of them, proof would cost more than discovery.
_CONTROLS = 8


def discover(
    module: nn.Module | Network,
    example_inputs: Inputs,
    outputs: Sequence[str | int] | None = None,
    freeze: Iterable[str | tuple[str, int]] = (),
    *,
    rules: Mapping[str, Rule] | None = None,
    verify: bool = True,
) -> Symmetry:
    """Find which hidden units of a module may be reordered without changing what it computes.

    The module is traced in evaluation mode on a deep copy; it, its training flag and the state of every
    random generator stay as they are. What no rule explains is pinned, never guessed.

    Args:
        module: any module that `torch.export` can trace, or the `Network` of one.
        example_inputs: a tensor, a tuple of tensors, or a dict of keyword tensors; only shapes, dtypes and
            Python values matter.
        outputs: the outputs whose values must stay, by number or by name (a key such as `logits`, a path such
            as `hidden.2`); None for all.
        freeze: parameters, or (parameter, axis) pairs, that may not move.
        rules: further rules, operation name (`aten::cumsum`) -> rule; they go before the built-in ones.
        verify: whether to prove the result numerically (see `Verification`).

    Returns:
        The symmetry, with its verification.

    Raises:
        SymmetryError: the module cannot be copied or traced, an output or a frozen parameter does not exist,
            or verification is impossible.

    Warns:
        SymmetryWarning: verification had to pin an axis, which is a defect of a rule.

    Limits: permutations only; sound for one traced graph, that is, for inputs that take the same branches.
    Statistics that only norms read move with their units; every other buffer counts as a constant with the
    value it has in this module.
    Cost: two to five times `torch.export`, most of it spent there and in the forward passes of the proof; the
    labels themselves take milliseconds an operation. Memory: two copies of the module.

    Source: Ainsworth, Hayase & Srinivasa 2023 (arXiv 2209.04836), section 2, for the symmetry; the inference
    is this library's own.
    """
    module = module.module if isinstance(module, Network) else module
    with undisturbed_generators():
        twin = evaluation_copy(module)
        traced = trace(twin, example_inputs)
        start = Weights.from_module(twin)
        wanted = _chosen_outputs(traced, outputs)
        run = _Execution(traced, start, dict(RULES) | dict(rules or {}), _other_names(twin))
        run.freeze(freeze)
        run.execute({node for _, node in wanted})
        orbits = solve(run.units)
        found, pinned = assembly.assemble(run.units, orbits, run.leaves)
        buffers = {name: tuple(buffer.shape) for name, buffer in start.buffers.items()}
        symmetry = Symmetry(start.layout, buffers, found, pinned)
        if not verify:
            return symmetry
        names = None if outputs is None else [name for name, _ in wanted]
        return _proved(symmetry, proof.Probe(module, example_inputs, names, _SEED))


def verify_symmetry(symmetry: Symmetry, module: nn.Module, example_inputs: Inputs) -> proof.Verification:
    """Check a symmetry on a module; see `Symmetry.verify`."""
    with undisturbed_generators():
        symmetry.check(Weights.from_module(module))
        known = symmetry.verification
        probe = proof.Probe(module, example_inputs, None if known is None else known.outputs, _SEED)
        return proof.verify(probe, symmetry.axes)


def _proved(symmetry: Symmetry, probe: proof.Probe) -> Symmetry:
    """The symmetry without the axes that fail numerically, and the proof of the rest."""
    axes, failed = symmetry.axes, list[str]()
    pinned = dict(symmetry.pinned)
    result = proof.verify(probe, axes, controls=_CONTROLS)
    while not result.error <= result.tolerance:
        wrong = set(proof.failing(probe, axes))
        for axis in axes:  # parents come first: what lies below a wrong axis is wrong as well
            if wrong & {name for name, _ in axis.parents}:
                wrong.add(axis.name)
        for axis in (axis for axis in axes if axis.name in wrong):
            pinned |= {(p.parameter, p.dim): "moving it changed the outputs" for p in axis.places}
        axes = tuple(axis for axis in axes if axis.name not in wrong)
        failed += sorted(wrong)
        result = proof.verify(probe, axes, failed, _CONTROLS)
    if failed:
        warnings.warn(
            f"moving {', '.join(failed)} changed the outputs, so they are pinned: a rule of isthmus is "
            "wrong for this module; please report it",
            SymmetryWarning,
            stacklevel=3,
        )
    return replace(symmetry, axes=axes, pinned=pinned, verification=result)


def _chosen_outputs(traced: Trace, outputs: Sequence[str | int] | None) -> list[tuple[str, str]]:
    """The (name, node) pairs of the outputs that matter."""
    if outputs is None:
        return list(traced.outputs)
    if isinstance(outputs, (str, int)):
        outputs = [outputs]
    chosen = []
    for wanted in outputs:
        if isinstance(wanted, int) and -len(traced.outputs) <= wanted < len(traced.outputs):
            chosen.append(traced.outputs[wanted])
            continue
        named = [pair for pair in traced.outputs if pair[0] == wanted or pair[0].startswith(f"{wanted}.")]
        if not named:
            raise SymmetryError(
                f"the module has no output {wanted!r}; its outputs are "
                f"{', '.join(name for name, _ in traced.outputs)}"
            )
        chosen += named
    return chosen


def _other_names(module: nn.Module) -> dict[str, list[str]]:
    """For the buffers of shared modules: each name's other names."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, buffer in module.named_buffers(remove_duplicate=False):
        names[id(buffer)].append(name)
    return {name: [n for n in group if n != name] for group in names.values() for name in group}


class _Opaque(Enum):
    """What has no label, since data decide its shape. All that feeds it is pinned, so it stays as it is."""

    SCALAR = "a number that is read from a tensor"
    TENSOR = "a tensor whose shape depends on data"


class _Execution:
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
        self.labels: dict[str, Any] = {}
        self._leaf_labels = self._make_leaves(start.layout)

    def _make_leaves(self, layout: Layout) -> dict[str, Label]:
        """Units for every axis of every parameter, and of the buffers that norms alone use."""
        shapes = dict(zip(layout.names, layout.shapes, strict=True))
        movable = {self.traced.buffers[n.name] for n in self._placeholders() if self._is_statistic(n)}
        grouped = self._grouped()
        shapes |= {name: tuple(self.start.buffers[name].shape) for name in sorted(movable)}
        labels = {}
        for name, shape in shapes.items():
            slots = []
            for dim, size in enumerate(shape):
                if size > 1:
                    blocks = grouped.get(name, 1) if dim == 1 else 1
                    ids = self.units.fresh(size * blocks)
                    names = [name, *self.others.get(name, ())]
                    self.leaves += [assembly.Leaf(n, dim, ids, name in movable, blocks) for n in names]
                    slots.append(along_blocks(ids, shape, blocks) if blocks > 1 else along(ids, shape, dim))
            labels[name] = Label(tuple(slots), constant(shape), name)
        aliases = {other: labels[name] for other, name in layout.aliases if name in labels}
        return labels | aliases

    def _placeholders(self) -> list[fx.Node]:
        return [node for node in self.traced.graph.nodes if node.op == "placeholder"]

    def _is_statistic(self, node: fx.Node) -> bool:
        """Whether a buffer is read by norms only, as their stored statistics."""
        return (
            node.name in self.traced.buffers
            and bool(node.users)
            and all(any(norm in _name(user) for norm in _NORMS) for user in node.users)
        )

    def _grouped(self) -> dict[str, int]:
        """Weights that convolutions of one number of groups alone read, and that number.

        Every group has its own order of the channels along axis 1.
        """
        groups: dict[str, set[int]] = defaultdict(set)
        for node in self._placeholders():
            for user in node.users if node.name in self.traced.parameters else ():
                arguments = dict(_named_arguments(user)) if "conv" in _name(user) else {}
                weight = arguments.get("weight") is node
                groups[self.traced.parameters[node.name]].add(arguments["groups"] if weight else 1)
        position = self.start.layout.index
        return {self.start.layout.names[position[n]]: min(g) for n, g in groups.items() if len(g) == 1}

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
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.labels[node.name] = self._placeholder(node)
                if node.users:
                    read.add(self.traced.parameters.get(node.name))
            elif node.op == "call_function":
                self.labels[node.name] = self._call(node)
        for name, node_name in self.traced.outputs:
            label = self.labels.get(node_name)
            if node_name in outputs and isinstance(label, Label):
                pin(self.units, label, f"the output {name}: its units have an order")
        known = {self.start.layout.names[self.start.layout.index[n]] for n in read if n in self._leaf_labels}
        for leaf in self.leaves:
            if not leaf.buffer and leaf.name not in known:
                self.units.pin(leaf.ids, "the traced graph does not read this parameter")

    def _placeholder(self, node: fx.Node) -> Any:
        traced = self.traced
        name = traced.parameters.get(node.name) or traced.buffers.get(node.name)
        if name in self._leaf_labels:
            return self._leaf_labels[name]
        if name is not None:
            return of_constant(self.start.buffers[name], f"the constant {name}")
        if node.name in traced.constants:
            return of_constant(traced.constants[node.name], "a constant of the graph")
        value = node.meta.get("val")
        return of_input(value.shape, f"the input {node.name}") if isinstance(value, Tensor) else value

    def _call(self, node: fx.Node) -> Any:
        name = _name(node)
        if name == "getitem":
            source, number = cast("tuple[fx.Node, int]", node.args)
            items = self.labels[source.name]
            return items[number] if isinstance(items, (tuple, list)) else items
        if name in IGNORED:
            return None
        results = node.meta.get("val")
        shapes = [tuple(item.shape) for item in pytree.tree_leaves(results) if isinstance(item, Tensor)]
        opaque = _Opaque.TENSOR if shapes else _Opaque.SCALAR
        if not shapes or any(not isinstance(size, int) for shape in shapes for size in shape):
            self._pin_arguments(node, f"{_where(node, name)}: it gives {opaque.value}")
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
        arguments = dict(_named_arguments(node))
        arguments = fx.node.map_arg(arguments, lambda n: self.labels.get(n.name))
        reads = [user.args[1] for user in node.users if _name(user) == "getitem"] if several else [0]
        used = frozenset(number for number in reads if isinstance(number, int))
        run = cast("Callable[..., Any]", node.target)
        return Call(self.units, name, run, arguments, shapes, used, _where(node, name), several)


def _ruled(call: Call, rule: Rule) -> Result:
    """What the rule says; if it fails on unforeseen arguments, the operation counts as unknown.

    Facts that it stated before it failed only make the group smaller.
    """
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
    if isinstance(value, (list, tuple)):
        return type(value)(_values(item) for item in value)
    return value.value if isinstance(value, Label) else value


def _named_arguments(node: fx.Node) -> Iterable[tuple[str, Any]]:
    """All arguments under the names of the operation's schema, defaults included."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        yield from ((str(number), value) for number, value in enumerate(node.args))
        yield from node.kwargs.items()
        return
    for number, argument in enumerate(schema.arguments):
        if number < len(node.args):
            yield argument.name, node.args[number]
        elif argument.name in node.kwargs:
            yield argument.name, node.kwargs[argument.name]
        elif argument.has_default_value():
            yield argument.name, argument.default_value


def _name(node: fx.Node) -> str:
    """The name of a node's operation, without overload and in-place underscore."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(getattr(node.target, "__name__", node.target))
    name = str(schema.name)
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _where(node: fx.Node, name: str) -> str:
    """The operation and the module that calls it, in words."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return f"{name.removeprefix('aten::')} in {path}" if path else name.removeprefix("aten::")

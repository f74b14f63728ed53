"""Tracing a module: the only file that touches `torch.export`.

A graph that changes tensors in place is made functional: where a tensor that nothing else views is changed,
its later readers read the result; otherwise by `run_decompositions({})`, which costs two exports more.

Source: PyTorch, `torch.export` (ATen graph).
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from isthmus.errors import SymmetryError
from isthmus.symmetry.nodes import operation_name

# Loggers that print a traceback of their own for an error that is reported here as a sentence.
_LOUD = ("torch.export", "torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")

# Regions of the graph that change how their inside is computed, not what.
_REGIONS = ("wrap_with_autocast", "wrap_with_set_grad_enabled", "hints_wrapper")
# Operations made of others that never return a view of what they read.
_COMPOSITE = """
    linear matmul conv1d conv2d conv3d batch_norm layer_norm rms_norm group_norm instance_norm bilinear
    scaled_dot_product_attention max_pool1d max_pool2d max_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d softmax log_softmax cat stack square multiply divide subtract relu6 selu outer
"""
_FRESH = frozenset(f"aten::{name}" for name in _COMPOSITE.split())

_DROPOUTS = {"aten::dropout", "aten::feature_dropout", "aten::alpha_dropout"}
# Operations that may return a view, or write, although their schema does not say so.
_SILENT = {"aten::einsum", "aten::meshgrid", "aten::instance_norm"}
_UNSAFE = {"aten::unsafe_split", "aten::unsafe_split_with_sizes", "aten::unsafe_chunk"}
_STATISTICS = {"aten::batch_norm", "aten::instance_norm"}
_RUNNING, _TRAINING = 3, 5
# Operations that read no more of a tensor than its shape and type.
_SHAPED = {
    f"aten::{kind}" for kind in ("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like")
}
# Constants of more elements than this are not computed.
_COMPUTED = 1 << 24

Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Trace:
    """A module as a graph of ATen operations.

    Attributes:
        graph: the nodes in order.
        parameters: placeholder -> the parameter's name.
        buffers: placeholder -> the buffer's name, for those that the state dict holds.
        constants: placeholder -> value, for other buffers and lifted constants.
        inputs: placeholder -> the input's name.
        outputs: (name, node name) of every tensor that comes out.
        computed: node name -> value, of constants that the graph computes by changing them in place.
    """

    graph: fx.Graph
    parameters: Mapping[str, str]
    buffers: Mapping[str, str]
    constants: Mapping[str, Tensor]
    inputs: Mapping[str, str]
    outputs: tuple[tuple[str, str], ...]
    computed: Mapping[str, Tensor] = field(default_factory=dict)

    def chosen(self, outputs: Sequence[str | int] | None) -> list[tuple[str, str]]:
        """The (name, node name) pairs of the outputs that matter, by number or name; None for all.

        Raises:
            SymmetryError: there is no such output; the message names those that there are.
        """
        if outputs is None:
            return list(self.outputs)
        found = []
        for wanted in [outputs] if isinstance(outputs, (str, int)) else outputs:
            if isinstance(wanted, int) and -len(self.outputs) <= wanted < len(self.outputs):
                found.append(self.outputs[wanted])
                continue
            named = [pair for pair in self.outputs if pair[0] == wanted or pair[0].startswith(f"{wanted}.")]
            if not named:
                raise SymmetryError(
                    f"the module has no output {wanted!r}; its outputs are "
                    f"{', '.join(name for name, _ in self.outputs)}"
                )
            found += named
        return found


@contextmanager
def undisturbed_generators() -> Iterator[None]:
    """Put the state of torch's global generators back afterwards, those of CUDA included once CUDA is in use.

    `fork_rng` would start CUDA where nothing uses it yet, and warn where there are several devices.
    """
    used = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if used else []):
        yield


def positional(example_inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as positional and keyword arguments.

    Raises:
        SymmetryError: the inputs are neither a tensor, nor a tuple, nor a mapping with string keys.
    """
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping) and all(isinstance(key, str) for key in example_inputs):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    raise SymmetryError(
        "the example inputs must be a tensor, a tuple of tensors or a dict of keyword tensors, "
        f"but they are of type {type(example_inputs).__name__}"
    )


def beside(example_inputs: Inputs, module: nn.Module) -> Inputs:
    """The example inputs; on the meta device, if the module's parameters are there."""
    if not any(parameter.is_meta for parameter in module.parameters()):
        return example_inputs
    moved: Inputs = pytree.tree_map_only(Tensor, lambda tensor: tensor.to("meta"), example_inputs)
    return moved


def evaluation_copy(module: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode without gradients; the user's module is never touched.

    Raises:
        SymmetryError: the module cannot be copied.
    """
    try:
        twin = copy.deepcopy(module)
    except Exception as error:
        raise SymmetryError(
            f"{type(module).__name__} cannot be copied, so that it cannot be examined without changing it: "
            f"{_first_line(error)}"
        ) from error
    return twin.eval().requires_grad_(False)


def trace(module: nn.Module, example_inputs: Inputs, known: Container[str]) -> Trace:
    """Trace a module that is in evaluation mode.

    Args:
        module: the module.
        example_inputs: what it is traced with.
        known: names of the operations that need not be taken apart (`aten::linear`); others are, if torch
            knows what they are made of.

    Raises:
        SymmetryError: `torch.export` cannot trace it; the message says where and what to do.
    """
    args, kwargs = positional(example_inputs)
    levels = {logger: logger.level for logger in map(logging.getLogger, _LOUD)}
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL)
        # torch.export itself uses deprecated parts of torch's pytree (torch 2.13): its warnings are not ours.
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, args, kwargs, strict=False)
            _inline_regions(program.graph_module)
            _drop_identities(program.graph)
            computed = _computed(program)
            taken_apart = computed is None or _decompositions(program, known)
            if computed is not None and not taken_apart and _made_functional(program.graph, computed):
                return replace(_read(program), computed=computed)
            program = torch.export.export(module, args, kwargs, strict=False)
            program = _functional(program)
            if table := _decompositions(program, known):
                program = program.run_decompositions(table)
            return _read(program)
    except Exception as error:
        raise SymmetryError(
            f"{type(module).__name__} cannot be traced: torch.export stopped with "
            f"{type(error).__name__}: {_first_line(error)}. Most often the forward pass branches on the "
            "values of tensors, or the example inputs do not fit it; make the branch depend on shapes or "
            "settings only, or wrap the part of the model that can be traced"
        ) from error
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _read(program: torch.export.ExportedProgram) -> Trace:
    """Sort the placeholders of an exported program by kind."""
    parameters: dict[str, str] = {}
    buffers: dict[str, str] = {}
    constants: dict[str, Tensor] = {}
    inputs: dict[str, str] = {}
    for spec in program.graph_signature.input_specs:
        name, target = spec.arg.name, spec.target or ""
        if spec.kind is InputKind.PARAMETER:
            parameters[name] = target
        elif spec.kind is InputKind.BUFFER and spec.persistent:
            buffers[name] = target
        elif spec.kind in (InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            constants[name] = program.constants[target]
        else:
            inputs[name] = name
    return Trace(program.graph, parameters, buffers, constants, inputs, _outputs(program))


def _decompositions(
    program: torch.export.ExportedProgram, known: Container[str]
) -> dict[Any, Callable[..., Any]]:
    """For the graph's operations that are not known: what they are made of, as far as torch knows it.

    What is computed from constants alone need not be known: its value will be.
    """
    open_kinds = (InputKind.PARAMETER, InputKind.USER_INPUT)
    varying = {s.arg.name for s in program.graph_signature.input_specs if s.kind in open_kinds}
    unknown = set()
    for node in program.graph.nodes:
        if node.op == "call_function" and any(argument.name in varying for argument in node.all_input_nodes):
            varying.add(node.name)
            if hasattr(node.target, "_schema") and operation_name(node.target) not in known:
                unknown.add(node.target)
    if not unknown:
        return {}
    table = torch.export.default_decompositions()
    return {target: table[target] for target in unknown if target in table}


def _inline_regions(module: fx.GraphModule) -> None:
    """Put the operations of autocast and grad-mode regions in the place of the regions."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or getattr(node.target, "__name__", "") not in _REGIONS:
            continue
        place = next(number for number, argument in enumerate(node.args) if _is_module(argument))
        source = cast("fx.Node", node.args[place])
        inside = getattr(module, str(source.target))
        _inline_regions(inside)
        holes = [hole for hole in inside.graph.nodes if hole.op == "placeholder"]
        copies = dict(zip(holes, cast("tuple[fx.Node, ...]", node.args[place + 1 :]), strict=True))
        with graph.inserting_before(node):
            results: Any = graph.graph_copy(inside.graph, copies)
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
        if not source.users:
            graph.erase_node(source)


def _drop_identities(graph: fx.Graph) -> None:
    """Leave out dropout that drops nothing: it returns its very input, in place or not."""
    for node in list(graph.nodes):
        if operation_name(node.target) in _DROPOUTS and node.args[2:3] == (False,):
            node.replace_all_uses_with(cast("fx.Node", node.args[0]))
            graph.erase_node(node)


def _is_module(argument: object) -> bool:
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


def _computed(program: torch.export.ExportedProgram) -> dict[str, Tensor] | None:
    """The values of what the graph computes from nothing but constants, if it changes any of it in place.

    Such are the masks of shifted windows, which are filled slice by slice. They are computed as they stand,
    with real views. None if something is read before it is changed: then the values would be wrong.
    """
    graph = program.graph
    if not any(_changes(node) for node in graph.nodes):
        return {}
    values: dict[str, Tensor] = {}
    read: set[int] = set()
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.CONSTANT_TENSOR:
            values[spec.arg.name] = program.constants[cast("str", spec.target)].clone()
    for node in graph.nodes:
        shaped = operation_name(node.target) in _SHAPED
        known = all(argument.name in values for argument in node.all_input_nodes)
        if node.op == "call_function" and (known or shaped) and _computable(node):
            given = {n: _blank(n) if shaped else values[n.name] for n in node.all_input_nodes}
            arguments, keywords = fx.node.map_arg((node.args, node.kwargs), given.__getitem__)
            result = cast("Callable[..., Tensor]", node.target)(*arguments, **keywords)
            if _changes(node) and _storage(result) in read:
                return None
            values[node.name] = result
        else:
            read |= {_storage(values[item.name]) for item in node.all_input_nodes if item.name in values}
    return values


def _changes(node: fx.Node) -> bool:
    """Whether a node writes into one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and (schema.is_mutable or _writes_statistics(node))


def _writes_statistics(node: fx.Node) -> bool:
    """Whether a norm updates its running statistics, of which its schema says nothing."""
    if operation_name(node.target) not in _STATISTICS or len(node.args) <= _TRAINING:
        return False
    return bool(node.args[_TRAINING]) and isinstance(node.args[_RUNNING], fx.Node)


def _silent_aliases(graph: fx.Graph) -> dict[Any, Callable[..., Any]]:
    """What operations are made of that may return a view although their schema does not say so.

    They must be taken apart where tensors are changed in place, lest the change be lost.
    """
    if not any(_changes(node) for node in graph.nodes):
        return {}
    table = torch.export.default_decompositions()
    targets = {node.target for node in graph.nodes if operation_name(node.target) in _SILENT}
    return {target: table[target] for target in targets if target in table}


def _functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without changes in place.

    Raises:
        RuntimeError: it changes tensors that an operation may view which says nothing of it.
    """
    graph = program.graph
    if any(map(_changes, graph.nodes)) and any(operation_name(n.target) in _UNSAFE for n in graph.nodes):
        raise RuntimeError("it changes in place what an unsafe split or chunk may view")
    functional: torch.export.ExportedProgram = program.run_decompositions(_silent_aliases(graph))
    return functional


def _computable(node: fx.Node) -> bool:
    """Whether a node gives one tensor of moderate size, the same one each time."""
    value, tags = node.meta.get("val"), getattr(node.target, "tags", (torch.Tag.nondeterministic_seeded,))
    return (
        isinstance(value, Tensor)
        and all(isinstance(size, int) for size in value.shape)
        and value.numel() <= _COMPUTED
        and torch.Tag.nondeterministic_seeded not in tags
    )


def _blank(node: fx.Node) -> Tensor:
    """A tensor of a node's shape and type: all that is read of it where a new one is made like it."""
    value = cast("Tensor", node.meta["val"])
    return torch.empty(tuple(value.shape), dtype=value.dtype)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _made_functional(graph: fx.Graph, computed: Mapping[str, Tensor]) -> bool:
    """Let later readers of a tensor that is changed in place read the result; False if views forbid that."""
    order = {node: place for place, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if not _changes(node) or node.name in computed:
            continue
        changed = node.args[0] if node.args else None
        if not isinstance(changed, fx.Node) or changed.op != "call_function" or not _owns(changed):
            return False
        if _writes_statistics(node) or (changed.name in computed and _changes(changed)):
            return False
        if any(not _owns(user) and order[user] < order[node] for user in changed.users):
            return False
        for user in list(changed.users):
            if order[user] > order[node]:
                user.replace_input_with(changed, node)
    return True


def _owns(node: fx.Node) -> bool:
    """Whether what a node returns surely shares no memory with anything that it does not write to.

    The schema tells of basic operations; of those that are made of others it may be silent.
    """
    schema = getattr(node.target, "_schema", None)
    if node.op == "output":
        return True
    if schema is None:
        return False
    if schema.is_mutable:
        return True
    if any(result.alias_info is not None for result in schema.returns):
        return False
    overload = f"{schema.name}.{schema.overload_name}".removesuffix(".")
    made_of_others = torch._C._dispatch_has_kernel_for_dispatch_key(overload, "CompositeImplicitAutograd")
    return not made_of_others or schema.name in _FRESH


def _outputs(program: torch.export.ExportedProgram) -> tuple[tuple[str, str], ...]:
    """Names and nodes of the outputs, named as their place in the module's result."""
    returned = cast("tuple[Any, ...]", program.graph.output_node().args[0])
    kinds = [spec.kind for spec in program.graph_signature.output_specs]
    nodes = [
        item.name if isinstance(item, fx.Node) else ""
        for item, kind in zip(returned, kinds, strict=True)
        if kind is OutputKind.USER_OUTPUT
    ]
    structure = pytree.tree_unflatten(list(range(len(nodes))), program.call_spec.out_spec)
    return tuple((path, nodes[number]) for path, number in named_leaves(structure))


def named_leaves(structure: Any) -> list[tuple[str, Any]]:
    """The leaves of a module's result, named by their path (`logits`, `hidden.2`); a lone one is `output`."""
    leaves, _ = pytree.tree_flatten_with_path(structure)
    return [(".".join(_key(part) for part in path) or "output", leaf) for path, leaf in leaves]


def _key(part: Any) -> str:
    """One step of a path in words."""
    for attribute in ("key", "idx", "name"):
        if hasattr(part, attribute):
            return str(getattr(part, attribute))
    return str(part)


def _first_line(error: Exception) -> str:
    """The first line of an error's message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__

"""Making a traced graph free of changes in place, at the least cost.

Where a tensor that nothing else views is changed, its later readers read the result. Constants that are
filled in place, such as the masks of shifted windows, are computed as they stand. Everything else is left to
`run_decompositions`, which costs two exports more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from isthmus.symmetry.nodes import operation_name

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


def inline_regions(module: fx.GraphModule) -> None:
    """Put the operations of autocast and grad-mode regions in the place of the regions."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or getattr(node.target, "__name__", "") not in _REGIONS:
            continue
        place = next(number for number, argument in enumerate(node.args) if _is_module(argument))
        source = cast("fx.Node", node.args[place])
        inside = getattr(module, str(source.target))
        inline_regions(inside)
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


def drop_identities(graph: fx.Graph) -> None:
    """Leave out dropout that drops nothing: it returns its very input, in place or not."""
    for node in list(graph.nodes):
        if operation_name(node.target) in _DROPOUTS and node.args[2:3] == (False,):
            node.replace_all_uses_with(cast("fx.Node", node.args[0]))
            graph.erase_node(node)


def _is_module(argument: object) -> bool:
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


def computed_constants(program: torch.export.ExportedProgram) -> dict[str, Tensor] | None:
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


def functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
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


def made_functional(graph: fx.Graph, computed: Mapping[str, Tensor]) -> bool:
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

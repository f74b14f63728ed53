"""Where the channels of a traced tensor come from: moves are run on numbered elements.

A move (view, transpose, slice, cat, …) puts elements elsewhere and changes none, so that running it on
integers that number the elements of its source tells where each went, whatever the operation's arguments.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from isthmus.symmetry.nodes import named_arguments, operation_name

_MOVES = """
    view reshape _unsafe_view transpose permute select slice narrow split split_with_sizes chunk unbind
    unsqueeze squeeze expand expand_as repeat contiguous clone alias flatten unflatten t movedim swapaxes
    swapdims cat stack detach index_select view_as unfold tile mT
"""
MOVES = frozenset(f"aten::{name}" for name in _MOVES.split())
CASTS = frozenset(("aten::to", "aten::_to_copy", "aten::type_as", "aten::alias"))
SCALED = frozenset(("aten::mul", "aten::div"))
IDLE = frozenset(("aten::_assert_tensor_metadata", "aten::_assert_async", "aten::sym_size"))


def name_of(node: fx.Node) -> str:
    """The node's operation; `getitem` for picking from a tuple."""
    if node.op != "call_function":
        return node.op
    return "getitem" if node.target is operator.getitem else operation_name(node.target)


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of a node's tensor; None if it gives no tensor."""
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else None


def keeps(node: fx.Node) -> bool:
    """Whether the node's elements are those of its first argument, in place: casts, idle dropout, factors.

    A factor must be a plain number: it commutes with every linear map.
    """
    name = name_of(node)
    if name in CASTS:
        value = node.meta.get("val")
        return isinstance(value, Tensor) and value.is_floating_point()
    if name == "aten::dropout":
        return dict(named_arguments(node)).get("train") is False
    if node.kwargs.get("rounding_mode"):
        return False
    return name in SCALED and len(node.all_input_nodes) == 1 and not isinstance(node.args[1], fx.Node)


def is_move(node: fx.Node) -> bool:
    """Whether the node moves elements, or keeps them."""
    return name_of(node) in MOVES or name_of(node) == "getitem" or keeps(node)


def moved(node: fx.Node, values: Callable[[fx.Node], Any]) -> Any:
    """A move run on other tensors (or tuples of them) in place of its arguments."""
    if name_of(node) in ("aten::clone", "aten::contiguous"):  # a later view needs the strides
        return values(node.all_input_nodes[0]).contiguous()
    if keeps(node):
        return values(node.all_input_nodes[0])
    if name_of(node) in ("aten::view", "aten::_unsafe_view") and isinstance(node.args[1], (list, tuple)):
        return values(node.all_input_nodes[0]).reshape(node.args[1])  # the numbers' strides are their own
    args: Any = fx.map_arg(node.args, values)
    kwargs = {n: fx.map_arg(v, values) for n, v in node.kwargs.items() if n != "memory_format"}
    assert callable(node.target)
    return node.target(*args, **kwargs)


def origin(node: fx.Node) -> tuple[fx.Node, Tensor]:
    """The node behind a chain of moves, and for each element the number of the source's element."""
    chain = []
    while is_move(node) and len(node.all_input_nodes) == 1:
        chain.append(node)
        node = node.all_input_nodes[0]
    shape = shape_of(node)
    value: Any = torch.arange(int(torch.Size(shape or ()).numel())).view(shape or ())
    for step in reversed(chain):
        value = moved(step, _always(value))
    return node, value


def _always(value: Any) -> Callable[[fx.Node], Any]:
    return lambda _: value


def uses(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Every (user, operand) where what comes from a node ends up behind chains of moves."""
    for user in node.users:
        if name_of(user) in IDLE:
            continue
        if is_move(user) and len(user.all_input_nodes) == 1:
            yield from uses(user)
        else:
            yield user, node

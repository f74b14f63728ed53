"""What becomes of hidden units: which operations sum over them, squash them, or write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from isthmus.layout import Layout
from isthmus.symmetry.action import Axis
from isthmus.symmetry.export import Trace
from isthmus.symmetry.group import Symmetry
from isthmus.symmetry.nodes import named_arguments, operation_name
from isthmus.symmetry.rules.contraction import index_notation

_NONLINEAR = """
    relu relu6 gelu silu mish elu selu celu leaky_relu prelu _prelu_kernel rrelu hardtanh hardswish
    hardsigmoid hardshrink softshrink sigmoid tanh softplus softsign log_sigmoid threshold clamp clamp_min
    clamp_max erf sin cos exp square pow abs glu
"""
_NONLINEARITIES = frozenset(f"aten::{name}" for name in _NONLINEAR.split())
# For each operand of a product the dimension that is summed over, from the end; convolutions sum over dim 1.
_SUMMED: Mapping[str, Mapping[str, int]] = {
    "linear": {"input": -1},
    "matmul": {"self": -1, "input": -1, "other": -2, "mat2": -2, "tensor": -2},
    "mm": {"self": -1, "mat2": -2},
    "bmm": {"self": -1, "mat2": -2},
    "mv": {"self": -1, "vec": -1},
    "addmm": {"mat1": -1, "mat2": -2},
    "baddbmm": {"batch1": -1, "batch2": -2},
    "scaled_dot_product_attention": {"query": -1, "key": -1},
    "conv1d": {"input": -2},
    "conv2d": {"input": -3},
    "conv3d": {"input": -4},
    "conv_transpose1d": {"input": -2},
    "conv_transpose2d": {"input": -3},
    "conv_transpose3d": {"input": -4},
}
# operation -> (names of weight and bias; the dimension of the weight that it writes; that of its output).
_WRITERS: Mapping[str, tuple[str, str, int, int]] = {
    "linear": ("weight", "bias", 0, -1),
    "addmm": ("mat2", "self", 1, -1),
    "conv1d": ("weight", "bias", 0, -2),
    "conv2d": ("weight", "bias", 0, -3),
    "conv3d": ("weight", "bias", 0, -4),
    "batch_norm": ("weight", "bias", 0, 1),
    "group_norm": ("weight", "bias", 0, 1),
    "instance_norm": ("weight", "bias", 0, 1),
    "layer_norm": ("weight", "bias", 0, -1),
}
NORMS = frozenset({"batch_norm", "group_norm", "instance_norm", "layer_norm"})


@dataclass(frozen=True)
class Writer:
    """A layer that writes hidden units: an affine map of a node's input, unit by unit of its output.

    Attributes:
        node: the node of the traced graph.
        operation: such as `linear` or `batch_norm`.
        weight: the parameter that is multiplied with.
        dim: the dimension of the weight that its outputs lie along.
        bias: the parameter that is added; None if there is none.
        channel: the dimension of the node's output that they lie along, from 0.
        axes: the names of the hidden axes that lie along it.
        whole: whether every one of its outputs is a hidden unit.
        shared: whether another operation reads the weight or the bias, too.
        normed: whether only norms read what it writes: they undo any change of its scale.
    """

    node: str
    operation: str
    weight: str
    dim: int
    bias: str | None
    channel: int
    axes: tuple[str, ...]
    whole: bool
    shared: bool
    normed: bool


def contracted(user: fx.Node, node: fx.Node) -> list[int]:
    """The dimensions of a node's output that a product, as its reader, sums over."""
    name = operation_name(user.target).removeprefix("aten::")
    tensor = node.meta.get("val")
    if not isinstance(tensor, Tensor):
        return []
    arguments = dict(named_arguments(user))
    if name == "einsum":
        return _summed_in_einsum(arguments, node)
    rank = tensor.dim()
    summed = _SUMMED.get(name, {})
    found = [dim + rank for operand, dim in summed.items() if arguments.get(operand) is node]
    # A matrix product with a vector sums over the vector's only dimension.
    return [max(dim, 0) for dim in found]


def _summed_in_einsum(arguments: Mapping[str, Any], node: fx.Node) -> list[int]:
    tensors = arguments["tensors"]
    ranks = [operand.meta["val"].dim() for operand in tensors]
    terms, result = index_notation(str(arguments["equation"]), ranks)
    own = [term for term, operand in zip(terms, tensors, strict=True) if operand is node]
    return [dim for term in own for dim, index in enumerate(term) if index not in result]


def is_nonlinear(user: fx.Node, node: fx.Node) -> bool:
    """Whether a reader is a nonlinearity of this node."""
    return operation_name(user.target) in _NONLINEARITIES and bool(user.args) and user.args[0] is node


def writers_of(traced: Trace, layout: Layout, symmetry: Symmetry) -> list[Writer]:
    """The layers whose outputs are hidden units."""
    along: dict[tuple[str, int], list[Axis]] = {}
    for axis in symmetry.axes:
        for place in axis.places:
            along.setdefault((place.parameter, place.dim), []).append(axis)
    named = {
        name: layout.names[layout.index[p]] for name, p in traced.parameters.items() if p in layout.index
    }
    users: dict[str, int] = {}
    for node in traced.graph.nodes:
        if node.name in named:
            users[named[node.name]] = users.get(named[node.name], 0) + len(node.users)
    found = []
    for node in traced.graph.nodes:
        operation = operation_name(node.target).removeprefix("aten::") if node.op == "call_function" else ""
        if operation not in _WRITERS:
            continue
        weight, bias, dim, channel = _WRITERS[operation]
        arguments = dict(named_arguments(node))
        names = {key: named.get(getattr(arguments.get(key), "name", "")) for key in (weight, bias)}
        owner = names[weight]
        axes = along.get((owner, dim), []) if owner else []
        output = node.meta.get("val")
        computed = isinstance(arguments.get(bias), fx.Node) and names[bias] is None  # nothing to fold into
        if not owner or not axes or computed or not isinstance(output, Tensor):
            continue
        size = output.shape[channel]
        shared = any(users[name] > 1 for name in names.values() if name)
        found.append(
            Writer(
                node.name,
                operation,
                owner,
                dim,
                names[bias],
                channel % output.dim(),
                tuple(axis.name for axis in axes),
                _carried(axes, owner, dim) == size,
                shared,
                _only_norms_read(node),
            )
        )
    return found


def _carried(axes: list[Axis], name: str, dim: int) -> int:
    """How many positions along a dimension of a parameter are hidden units."""
    positions = [
        place.index.reshape(-1).tolist()
        for axis in axes
        for place in axis.places
        if (place.parameter, place.dim) == (name, dim)
    ]
    return len({position for each in positions for position in each})


def _only_norms_read(node: fx.Node) -> bool:
    """Whether all readers of a node are norms, which normalise it in the same channels or all together."""
    names = [operation_name(user.target).removeprefix("aten::") for user in node.users]
    return bool(names) and all(name in NORMS for name in names)

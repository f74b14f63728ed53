"""The linear layers and embeddings of a traced graph, with the parameters that they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from isthmus.symmetry.export import Trace
from isthmus.symmetry.linear.flow import name_of, shape_of, uses
from isthmus.symmetry.nodes import named_arguments


@dataclass(frozen=True)
class Layer:
    """A node that is linear in its input, with parameters as its coefficients.

    Attributes:
        input: the node that it reads; None for an embedding.
        weight: its weight's name.
        reads: the axis of the weight along its input's channels; None if it has none of its own.
        writes: the axis of the weight along its output's channels.
        bias: its bias's name, or None.
        channel: the axis of its output that holds the channels.
    """

    input: fx.Node | None
    weight: str
    reads: int | None
    writes: int
    bias: str | None
    channel: int = -1


class Parameters:
    """Which nodes are parameters, by their canonical names, and how often each is used, moved or not."""

    def __init__(self, traced: Trace, aliases: Mapping[str, str]) -> None:
        self._names = {node: aliases.get(name, name) for node, name in traced.parameters.items()}
        self.users: dict[str, int] = {}
        for node in traced.graph.nodes:
            if node.name in self._names:
                name = self._names[node.name]
                self.users[name] = self.users.get(name, 0) + len(list(uses(node)))

    def name(self, node: object) -> str | None:
        """The parameter that a node is; None if it is none."""
        return self._names.get(node.name) if isinstance(node, fx.Node) else None

    def layer(self, node: fx.Node) -> Layer | None:
        """The layer that a node is; None if it is none, or computes its weight or bias."""
        name, arguments = name_of(node), dict(named_arguments(node))
        if name == "aten::embedding":
            weight = self.name(arguments["weight"])
            return None if weight is None else Layer(None, weight, None, 1, None)
        if name == "aten::linear":
            return self._layer(arguments["input"], arguments["weight"], arguments["bias"], flip=True)
        if name == "aten::addmm" and arguments["beta"] == arguments["alpha"] == 1:
            return self._layer(arguments["mat1"], arguments["mat2"], arguments["self"])
        if name in ("aten::mm", "aten::matmul"):
            return self._layer(node.args[0], node.args[1], None)
        if name in ("aten::conv1d", "aten::conv2d", "aten::conv3d"):
            weight, bias = self.name(arguments["weight"]), arguments["bias"]
            if weight is None or (bias is not None and self.name(bias) is None):
                return None
            return Layer(arguments["input"], weight, None, 0, self.name(bias), 1)
        return None

    def _layer(self, source: object, weight: object, bias: object, flip: bool = False) -> Layer | None:
        while isinstance(weight, fx.Node) and self.name(weight) is None and _transposes(weight):
            weight, flip = weight.args[0], not flip
        name = self.name(weight)
        if name is None or not isinstance(weight, fx.Node) or not isinstance(source, fx.Node):
            return None
        known = bias is None or self.name(bias) is not None
        if len(shape_of(weight) or ()) != 2 or not known or len(shape_of(source) or ()) < 2:
            return None
        return Layer(source, name, int(flip), 1 - int(flip), self.name(bias))


def _transposes(node: fx.Node) -> bool:
    """Whether a node swaps the two axes of a matrix."""
    if len(shape_of(node) or ()) != 2:
        return False
    if name_of(node) in ("aten::t", "aten::mT", "aten::numpy_T"):
        return True
    return name_of(node) == "aten::transpose" and {int(d) % 2 for d in node.args[1:3]} == {0, 1}  # type: ignore[arg-type]

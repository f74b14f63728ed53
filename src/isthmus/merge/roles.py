"""How the next operation reads each dimension of a parameter: does it sum over it, or not.

A unit's incoming weights lie along a dimension that survives (the rows of a linear layer, a norm's scale, the
columns of an embedding); its outgoing weights lie along one that a product sums over (the columns of the
next layer). Transport treats the two differently, as soon as widths differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, fx, nn

from isthmus.symmetry import Symmetry
from isthmus.symmetry.execution import Execution, other_names
from isthmus.symmetry.experts import dense_experts
from isthmus.symmetry.export import Inputs, beside, evaluation_copy, trace, undisturbed_generators
from isthmus.symmetry.labels import Label, core, varying
from isthmus.symmetry.nodes import named_arguments, operation_name
from isthmus.symmetry.partitions import distinct
from isthmus.symmetry.reading import contracted
from isthmus.symmetry.rules import IGNORED, RULES
from isthmus.symmetry.sites import Seen, frozen_by, located, seen_in
from isthmus.weights import Weights

Dimension = tuple[str, int]
# For products with a weight: the weight's dimensions that they sum over.
_WEIGHTS = {"linear": (1,), "conv1d": (1,), "conv2d": (1,), "conv3d": (1,), "bilinear": (1, 2)}
_WEIGHTS |= {f"conv_transpose{rank}d": (0,) for rank in (1, 2, 3)}
_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
_MATRIX = 2


@dataclass(frozen=True)
class Roles:
    """What becomes of the dimensions of the parameters.

    Attributes:
        summed: (parameter, dim) pairs that every reader sums over: along them lie outgoing weights.
        tied: pairs that one reader sums over and another does not, as with an embedding that is the head,
            too.
        paired: names of axes whose units are summed over in a product of two activations: the units of
            queries and keys.
    """

    summed: frozenset[Dimension]
    tied: frozenset[Dimension]
    paired: frozenset[str]


def roles_of(module: nn.Module, example: Inputs, symmetry: Symmetry) -> Roles:
    """The roles of a network's parameters.

    Args:
        module: the network; it is not changed.
        example: inputs for tracing it.
        symmetry: its symmetry.

    Limits: a sum over units that is not a product (a mean over channels, or a product that is written as an
    elementwise one and a sum) counts for none.
    """
    with undisturbed_generators():
        twin = evaluation_copy(module)
        with dense_experts(twin):
            traced = trace(twin, beside(example, twin), RULES.keys() | IGNORED)
        run = Execution(traced, Weights.from_module(twin), RULES, other_names(twin))
        labels: dict[str, Label] = {}
        run.observe = lambda node, label: labels.update({node.name: label})
        run.freeze(frozen_by(symmetry))
        run.execute({node for _, node in traced.outputs})
    return _Reading(run, labels).roles(symmetry)


class _Reading:
    """The edges of a graph that was run on labels."""

    def __init__(self, run: Execution, labels: dict[str, Label]) -> None:
        self.run, self.labels = run, labels
        self.moving = set(run.traced.inputs)
        for node in run.traced.graph.nodes:
            if any(argument.name in self.moving for argument in node.all_input_nodes):
                self.moving.add(node.name)
        self.owner: dict[int, Dimension] = {}
        for leaf in run.leaves:
            for number in leaf.ids.tolist():
                self.owner.setdefault(number, (leaf.name, leaf.dim))

    def roles(self, symmetry: Symmetry) -> Roles:
        """The roles, from what the operations on activations read."""
        summed, kept = set[Dimension](), set[Dimension]()
        pairs: list[list[tuple[str, frozenset[int]]]] = []
        for node in self.run.traced.graph.nodes:
            if node.op != "call_function" or node.name not in self.moving:
                continue
            contractions = []
            for operand in node.all_input_nodes:
                dims = _summed_over(node, operand)
                if operand.name in self.moving:
                    contractions += [(operand.name, frozenset(dims))] if dims else []
                    continue
                for found, along in self._dimensions(operand):
                    (summed if along & set(dims) else kept).add(found)
            if len(contractions) > 1:
                pairs.append(contractions)
        return Roles(frozenset(summed - kept), frozenset(summed & kept), self._paired(pairs, symmetry))

    def _dimensions(self, operand: fx.Node) -> Iterable[tuple[Dimension, frozenset[int]]]:
        """The parameters' dimensions within what is made of parameters alone, and where they lie there."""
        traced, layout = self.run.traced, self.run.start.layout
        if (name := traced.parameters.get(operand.name)) in layout.index:
            own = layout.names[layout.index[str(name)]]
            yield from (
                ((own, leaf.dim), frozenset([leaf.dim])) for leaf in self.run.leaves if leaf.name == own
            )
        elif operand.name in self.labels:
            for slot in self.labels[operand.name].slots:
                owners = {self.owner[number] for number in distinct(core(slot).reshape(-1)).tolist()}
                yield from ((owner, varying(slot)) for owner in owners)

    def _paired(self, pairs: list[list[tuple[str, frozenset[int]]]], symmetry: Symmetry) -> frozenset[str]:
        """The axes that lie along the dimension over which two activations are multiplied and summed."""
        names = {name for pair in pairs for name, _ in pair}
        seen: dict[str, list[Seen]] = {
            name: found for name in names if name in self.labels and (found := seen_in(self.labels[name]))
        }
        axes: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
        for site in located(self.run, seen, symmetry):
            axes.setdefault(site.node, []).append((site.axis, site.dims))
        return frozenset(
            axis
            for pair in pairs
            for name, dims in pair
            for axis, along in axes.get(name, ())
            if dims & set(along)
        )


def _summed_over(user: fx.Node, operand: fx.Node) -> list[int]:
    """The dimensions of an operand that its reader sums over, weights of layers included."""
    name = operation_name(user.target).removeprefix("aten::")
    arguments = dict(named_arguments(user))
    value = operand.meta.get("val")
    if arguments.get("weight") is operand and name in _WEIGHTS:
        return list(_WEIGHTS[name])
    if name in _RECURRENT and isinstance(value, Tensor):
        weights = arguments.get("params") or ()
        return [1] if any(each is operand for each in weights) and value.dim() == _MATRIX else []
    return contracted(user, operand)

"""Where the hidden units of a network appear in its activations, and a run that looks at them there.

The traced graph is run on labels (see `isthmus.symmetry.labels`); after the group is solved, every label
says along which dimensions of a node's output the units of an axis lie. So nothing has to be known of the
module's parts: residual streams, heads, functional calls and parameters used twice are all seen alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from isthmus.errors import SymmetryError
from isthmus.symmetry.execution import Execution, other_names
from isthmus.symmetry.experts import dense_experts
from isthmus.symmetry.export import (
    Inputs,
    Trace,
    evaluation_copy,
    positional,
    trace,
    undisturbed_generators,
)
from isthmus.symmetry.group import Symmetry
from isthmus.symmetry.labels import Label
from isthmus.symmetry.nodes import operation_name
from isthmus.symmetry.reading import Writer, contracted, is_nonlinear, writers_of
from isthmus.symmetry.rules import IGNORED, RULES
from isthmus.symmetry.sites import Seen, Site, frozen_by, located, seen_in
from isthmus.weights import Weights

__all__ = ["Activations", "Lane", "Site", "Writer", "trace_activations"]

Visit = Callable[[str, list[Tensor]], Sequence[Tensor] | None]
"""Called with a node's name and its output in every lane; what it returns takes the outputs' place."""


@dataclass(frozen=True, eq=False)
class Lane:
    """One run among several that go through the graph side by side.

    Attributes:
        weights: the parameters and buffers that it runs with.
        inputs: what the module takes: a tensor, a tuple or a mapping, of the traced shapes.
    """

    weights: Weights
    inputs: Inputs


@dataclass(frozen=True, eq=False)
class Activations:
    """A traced network whose activations can be looked at, unit by unit.

    Attributes:
        sites: where the units of each axis appear, in the order of the graph.
        writers: the layers that write hidden units, in the order of the graph.
        batch: the size of the batches that it runs on; the graph holds sizes as numbers.
        reference: the traced module's weights; buffers that a lane's weights lack are taken from here.
    """

    sites: tuple[Site, ...]
    writers: tuple[Writer, ...]
    batch: int
    reference: Weights
    _trace: Trace = field(repr=False)

    def run(
        self, lanes: Sequence[Lane], visit: Visit | None = None, nodes: frozenset[str] = frozenset()
    ) -> list[dict[str, Tensor]]:
        """Run the graph in every lane, operation by operation side by side.

        Args:
            lanes: weights and inputs; the inputs must have the shapes that were traced.
            visit: called after each of `nodes` with its output in every lane.
            nodes: the names of nodes to visit.

        Returns:
            The outputs of each lane, by name.

        Memory: of each lane, what later operations still read.
        """
        graph = list(self._trace.graph.nodes)
        held = [self._placeholders(lane) for lane in lanes]
        devices = [lane.weights.vector.device for lane in lanes]
        last = _last_readers(self._trace)
        with torch.no_grad():
            for node in graph:
                if node.op != "call_function" or operation_name(node.target) in IGNORED:
                    continue
                for values, device in zip(held, devices, strict=True):
                    values[node.name] = self._called(node, values, device)
                if visit is not None and node.name in nodes:
                    found = visit(node.name, [values[node.name] for values in held])
                    for values, tensor in zip(held, found or (), strict=bool(found)):
                        values[node.name] = tensor
                for name in last.get(node.name, ()):
                    for values in held:
                        values.pop(name, None)
        return [{name: values[node] for name, node in self._trace.outputs} for values in held]

    def _placeholders(self, lane: Lane) -> dict[str, Any]:
        """The values that the graph starts from."""
        traced, layout = self._trace, self.reference.layout
        if lane.weights.layout.names != layout.names:
            raise SymmetryError("these weights are not of the network whose activations were traced")
        device = lane.weights.vector.device
        buffers = {**self.reference.buffers, **lane.weights.buffers}
        values: dict[str, Any] = {}
        for name, parameter in traced.parameters.items():
            position = layout.index.get(parameter)
            if position is None:  # an integer parameter travels with the buffers
                values[name] = buffers[parameter].to(device)
            else:
                values[name] = lane.weights[layout.names[position]].to(device, layout.dtypes[position])
        values |= {name: buffers[buffer].to(device) for name, buffer in traced.buffers.items()}
        values |= {name: tensor.to(device) for name, tensor in traced.constants.items()}
        leaves = pytree.tree_leaves(positional(lane.inputs))
        expected = len(traced.inputs)
        if len(leaves) != expected:
            raise SymmetryError(f"the network was traced with {expected} inputs, but got {len(leaves)}")
        return values | dict(zip(traced.inputs, leaves, strict=True))

    def _called(self, node: fx.Node, values: Mapping[str, Any], device: torch.device) -> Any:
        if node.name in self._trace.computed:
            return self._trace.computed[node.name].to(device)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n.name])
        args, kwargs = pytree.tree_map_only(torch.device, lambda _: device, (args, kwargs))
        assert callable(node.target)
        return node.target(*args, **kwargs)


def trace_activations(
    module: nn.Module, inputs: Inputs, symmetry: Symmetry, outputs: Sequence[str | int] | None = None
) -> Activations:
    """Find where the hidden units of a network appear in its activations.

    Args:
        module: the network, whose symmetry is known; it is not changed.
        inputs: one batch of the size that it will be run on: sizes are traced as numbers.
        symmetry: its symmetry, from `discover`.
        outputs: those that `discover` was told to keep; by default what the symmetry was verified with.

    Raises:
        SymmetryError: the module cannot be traced, or has no such output.

    Limits: an axis that the same module, traced with these inputs, does not have (as units were frozen, say)
    has no sites.
    """
    with undisturbed_generators():
        twin = evaluation_copy(module)
        with dense_experts(twin):
            traced = trace(twin, inputs, RULES.keys() | IGNORED)
        start = Weights.from_module(twin)
        run = Execution(traced, start, RULES, other_names(twin))
        seen: dict[str, list[Seen]] = {}

        def observe(node: fx.Node, label: Label) -> None:
            if found := seen_in(label):
                seen[node.name] = found

        run.observe = observe
        run.freeze(frozen_by(symmetry))
        if outputs is None and symmetry.verification is not None:
            outputs = list(symmetry.verification.outputs) or None
        run.execute({node for _, node in traced.chosen(outputs)})
        varying = _varying(traced)
        sites = [site for site in located(run, seen, symmetry) if site.node in varying]
    return Activations(
        tuple(_with_readers(traced, sites)),
        tuple(writers_of(traced, start.layout, symmetry)),
        _batch_of(inputs),
        start,
        traced,
    )


def _batch_of(inputs: Inputs) -> int:
    tensors = [leaf for leaf in pytree.tree_leaves(positional(inputs)) if isinstance(leaf, Tensor)]
    return tensors[0].shape[0] if tensors and tensors[0].dim() else 1


def _varying(traced: Trace) -> set[str]:
    """The nodes that depend on the inputs, and are numbers a gradient could flow through."""
    varying = set(traced.inputs)
    for node in traced.graph.nodes:
        if any(argument.name in varying for argument in node.all_input_nodes):
            varying.add(node.name)
    kinds = {node.name: node.meta.get("val") for node in traced.graph.nodes}
    return {name for name in varying if _is_number(kinds.get(name))} - set(traced.inputs)


def _is_number(value: object) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _with_readers(traced: Trace, sites: Sequence[Site]) -> list[Site]:
    """The sites, each with what becomes of its units."""
    named = {node.name: node for node in traced.graph.nodes}
    found = []
    for site in sites:
        node = named[site.node]
        read = squashed = False
        for user in node.users:
            read |= bool(set(contracted(user, node)) & set(site.dims))
            squashed |= is_nonlinear(user, node)
        found.append(site.reading(read, squashed))
    return found


def _last_readers(traced: Trace) -> dict[str, list[str]]:
    """For each node, those that it is the last one to read."""
    last: dict[str, str] = {}
    for node in traced.graph.nodes:
        last |= {argument.name: node.name for argument in node.all_input_nodes}
    kept = {node for _, node in traced.outputs}
    done: dict[str, list[str]] = defaultdict(list)
    for name, reader in last.items():
        if name not in kept:
            done[reader].append(name)
    return done

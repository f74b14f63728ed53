"""Tracing a module with `torch.export`, and what came of it as data.

Source: PyTorch, `torch.export` (ATen graph).
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from isthmus.errors import SymmetryError
from isthmus.symmetry.inplace import (
    computed_constants,
    drop_identities,
    functional,
    inline_regions,
    made_functional,
)
from isthmus.symmetry.nodes import operation_name

# Loggers that print a traceback of their own for an error that is reported here as a sentence.
_LOUD = ("torch.export", "torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")

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
        # Nor is the half-made graph that it prints on standard error when it stops (torch 2.13).
        with warnings.catch_warnings(), torch.no_grad(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.export.export(module, args, kwargs, strict=False)
            inline_regions(program.graph_module)
            drop_identities(program.graph)
            computed = computed_constants(program)
            taken_apart = computed is None or _decompositions(program, known)
            if computed is not None and not taken_apart and made_functional(program.graph, computed):
                return replace(_read(program), computed=computed)
            program = torch.export.export(module, args, kwargs, strict=False)
            program = functional(program)
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

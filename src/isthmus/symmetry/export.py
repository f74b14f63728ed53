"""Tracing a module: the only file that touches `torch.export`.

Source: PyTorch, `torch.export` (ATen graph, functionalised by `run_decompositions({})`).
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from isthmus.errors import SymmetryError

# Loggers that print a traceback of their own for an error that is reported here as a sentence.
_LOUD = ("torch.export", "torch._subclasses.fake_tensor")

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
    """

    graph: fx.Graph
    parameters: Mapping[str, str]
    buffers: Mapping[str, str]
    constants: Mapping[str, Tensor]
    inputs: Mapping[str, str]
    outputs: tuple[tuple[str, str], ...]


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


def trace(module: nn.Module, example_inputs: Inputs) -> Trace:
    """Trace a module that is in evaluation mode.

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
            program = torch.export.export(module, args, kwargs, strict=False).run_decompositions({})
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


def _outputs(program: torch.export.ExportedProgram) -> tuple[tuple[str, str], ...]:
    """Names and nodes of the outputs, named as their place in the module's result."""
    nodes = [
        spec.arg.name for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT
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

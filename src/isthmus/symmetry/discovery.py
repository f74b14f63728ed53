"""Finding the symmetry of a module: trace, run on labels, solve, verify."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from isthmus.errors import SymmetryWarning
from isthmus.network import Network
from isthmus.symmetry import axes as assembly
from isthmus.symmetry import verify as proof
from isthmus.symmetry.execution import Execution, other_names
from isthmus.symmetry.experts import dense_experts
from isthmus.symmetry.export import (
    Inputs,
    beside,
    evaluation_copy,
    positional,
    trace,
    undisturbed_generators,
)
from isthmus.symmetry.group import Symmetry
from isthmus.symmetry.orbits import solve
from isthmus.symmetry.rules import IGNORED, RULES, Rule
from isthmus.weights import Weights

_SEED = 2023
# Every control is a forward pass in float64: with more of them, proof would cost more than discovery.
_CONTROLS, _CONTROLS_IF_LARGE, _LARGE = 4, 2, 1 << 24


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
        verify: whether to prove the result numerically (see `Verification`); weights on the meta device have
            no values, so that nothing can be proved of them.

    Returns:
        The symmetry, with its verification.

    Raises:
        SymmetryError: the module cannot be copied or traced, an output or a frozen parameter does not exist,
            or verification is impossible.

    Warns:
        SymmetryWarning: verification had to pin an axis, which is a defect of a rule; or the example is a
            single token.

    Limits: permutations only; sound for one traced graph, that is, for inputs that take the same branches
    and, as sizes are traced as numbers, for inputs at which constants computed from sizes tell the same
    units apart: give at least two tokens, so that positions differ.
    Statistics that only norms read move with their units; every other buffer counts as a constant with the
    value it has in this module.
    Cost: one and a half to four times `torch.export` at the median of some 250 public architectures (see
    docs/symmetry.md), most of it the trace and the proof's forward passes in float64, which count for more on
    large networks. Memory: two copies of the module, one in float64; labels are of size 1 along axes on which
    they do not depend (GPT-2 at 2,304 tokens: 3.2 GB).

    Source: Ainsworth, Hayase & Srinivasa 2023 (arXiv 2209.04836), section 2, for the symmetry; the inference
    is this library's own.
    """
    module = module.module if isinstance(module, Network) else module
    with undisturbed_generators():
        twin = evaluation_copy(module)
        table = dict(RULES) | dict(rules or {})
        _warn_of_single_tokens(example_inputs)
        with dense_experts(twin):
            traced = trace(twin, beside(example_inputs, twin), table.keys() | IGNORED)
        start = Weights.from_module(twin)
        wanted = traced.chosen(outputs)
        run = Execution(traced, start, table, other_names(twin))
        run.freeze(freeze)
        run.execute({node for _, node in wanted})
        orbits = solve(run.units)
        found, pinned = assembly.assemble(run.units, orbits, run.leaves)
        buffers = {name: tuple(buffer.shape) for name, buffer in start.buffers.items()}
        symmetry = Symmetry(start.layout, buffers, found, pinned, unread=run.unread)
        if not verify or start.vector.is_meta:
            return symmetry
        names = None if outputs is None else [name for name, _ in wanted]
        return _proved(symmetry, proof.Probe(module, example_inputs, names, _SEED))


def _warn_of_single_tokens(example_inputs: Inputs) -> None:
    """Warn where the example has one token, as units that positions tell apart look alike at one position."""
    tensors = [leaf for leaf in pytree.tree_leaves(positional(example_inputs)) if isinstance(leaf, Tensor)]
    single = [x for x in tensors if x.dtype in (torch.int64, torch.int32) and 1 in x.shape[1:]]
    if single:
        warnings.warn(
            f"an example input of shape {tuple(single[0].shape)} holds a single token: units that positions "
            "tell apart in longer inputs may count as free; give an example of at least two tokens",
            SymmetryWarning,
            stacklevel=3,
        )


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
    controls = _CONTROLS if symmetry.layout.numel < _LARGE else _CONTROLS_IF_LARGE
    result = proof.verify(probe, axes, controls=controls)
    while not result.error <= result.tolerance:
        wrong = set(proof.failing(probe, axes))
        for axis in axes:  # parents come first: what lies below a wrong axis is wrong as well
            if wrong & {name for name, _ in axis.parents}:
                wrong.add(axis.name)
        for axis in (axis for axis in axes if axis.name in wrong):
            pinned |= {(p.parameter, p.dim): "moving it changed the outputs" for p in axis.places}
        axes = tuple(axis for axis in axes if axis.name not in wrong)
        failed += sorted(wrong)
        result = proof.verify(probe, axes, failed, controls)
    if failed:
        warnings.warn(
            f"moving {', '.join(failed)} changed the outputs, so they are pinned: a rule of isthmus is "
            "wrong for this module; please report it",
            SymmetryWarning,
            stacklevel=3,
        )
    return replace(symmetry, axes=axes, pinned=pinned, verification=result)

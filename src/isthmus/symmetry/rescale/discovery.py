"""Finding the rescalings of a module: trace, run on charges, solve, verify."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import nn

from isthmus.errors import SettingError, SymmetryWarning
from isthmus.network import Network
from isthmus.symmetry.execution import other_names
from isthmus.symmetry.experts import dense_experts
from isthmus.symmetry.export import Inputs, evaluation_copy, trace, undisturbed_generators
from isthmus.symmetry.rescale.call import Rule
from isthmus.symmetry.rescale.charges import NOTHING
from isthmus.symmetry.rescale.execution import Execution
from isthmus.symmetry.rescale.factors import Exponents, Factor
from isthmus.symmetry.rescale.group import Kind, Rescaling
from isthmus.symmetry.rescale.proof import RescalingProbe, place_name, prove, wrong_coordinates
from isthmus.symmetry.rescale.reasons import reasons_of
from isthmus.symmetry.rescale.solver import assembled, independent, solve
from isthmus.symmetry.rescale.table import RULES
from isthmus.symmetry.rules import IGNORED
from isthmus.symmetry.verify import Verification
from isthmus.weights import Weights

_SEED = 2023


def discover_rescalings(
    module: nn.Module | Network,
    example_inputs: Inputs,
    outputs: Sequence[str | int] | None = None,
    freeze: Iterable[str | tuple[str, int]] = (),
    *,
    kind: Kind = "positive",
    rules: Mapping[str, Rule] | None = None,
    verify: bool = True,
) -> Rescaling:
    """Find by which factors the units of a module may be multiplied without changing what it computes.

    For one hidden unit of a ReLU network these are f(x) = v relu(w x + b) = (v / a) relu(a w x + a b), a > 0;
    for one of a tanh network v tanh(w x + b) = (-v) tanh(-w x - b). The module is traced in evaluation mode
    on a deep copy; it, its training flag and the state of every random generator stay as they are. What no
    rule explains keeps the factor 1, never a guess.

    Args:
        module: any module that `torch.export` can trace, or the `Network` of one.
        example_inputs: a tensor, a tuple of tensors, or a dict of keyword tensors; only shapes, dtypes and
            Python values matter.
        outputs: the outputs whose values must stay, by number or by name; None for all. Parameters on which
            none of them depends keep the factor 1.
        freeze: parameters, or (parameter, axis) pairs, that keep the factor 1.
        kind: `positive` for factors above 0, `sign` for factors 1 and -1.
        rules: further rules, operation name (`aten::cumsum`) -> rule; they go before the built-in ones.
        verify: whether to prove the result numerically.

    Returns:
        The group, with its verification.

    Raises:
        SettingError: `kind` is unknown.
        SymmetryError: the module cannot be copied or traced, an output or a frozen parameter does not exist,
            or verification is impossible.

    Warns:
        SymmetryWarning: verification had to pin a coordinate, which is a defect of a rule.

    Example:
        >>> net = nn.Sequential(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 5))
        >>> discover_rescalings(net, torch.zeros(1, 7), kind="sign").dimension
        16
        >>> discover_rescalings(net, torch.zeros(1, 7)).dimension
        0

    Limits: factors of rows, columns and other axes of a parameter (of every element, where it is small and
    only added or multiplied); the positions in the kernel of a convolution have one factor. Scales before a
    norm that adds a small ε are not exact, hence not found. Units that are computed but read by nothing can
    be scaled freely, and count. Sound for one traced graph.
    Cost: one or two times `torch.export`, and two (scales) or ten (signs) forward passes in float64.

    Source: the freedom of scale of ReLU networks is in Neyshabur, Salakhutdinov & Srebro 2015 (arXiv
    1506.02617), section 2; the sign flips of tanh networks in Chen, Lu & Hecht-Nielsen 1993, "On the geometry
    of feedforward neural network error surfaces"; the inference on traced graphs is this library's own.
    """
    if kind not in get_args(Kind):
        raise SettingError(f"the kind of rescaling must be 'positive' or 'sign', but it is {kind!r}")
    module = module.module if isinstance(module, Network) else module
    with undisturbed_generators():
        twin = evaluation_copy(module)
        table = dict(RULES) | dict(rules or {})
        with dense_experts(twin):
            traced = trace(twin, example_inputs, table.keys() | IGNORED)
        start = Weights.from_module(twin)
        wanted = {node: name for name, node in traced.chosen(outputs)}
        run = Execution(traced, start, other_names(twin), kind == "sign", wanted, table)
        run.freeze(freeze)
        run.execute()
        run.fix_gauges()
        group = _solved(run, start, kind)
        if not verify:
            return group
        names = None if outputs is None else list(wanted.values())
        return _proved(group, RescalingProbe(module, example_inputs, names, _SEED))


def verify_rescaling(group: Rescaling, module: nn.Module, example_inputs: Inputs) -> Verification:
    """Check a rescaling on a module; see `Rescaling.verify`."""
    with undisturbed_generators():
        group.check(Weights.from_module(module))
        known = group.verification
        outputs = None if known is None else known.outputs
        return prove(RescalingProbe(module, example_inputs, outputs, _SEED), group)


def _solved(run: Execution, start: Weights, kind: Kind) -> Rescaling:
    """Solve the equations, and read off what they leave to the parameters and buffers."""
    modulus = 2 if kind == "sign" else 0
    equations = assembled(run.equations.blocks, run.equations.count)
    solution = solve(equations, modulus)
    mine = np.unique(
        np.concatenate([[NOTHING], *(ids.reshape(-1) for x in run.leaves for ids in x.variables)])
    )
    matrix = csr_array(solution.matrix[mine])
    # What is free but belongs to no parameter may act alike, or not at all.
    others = np.flatnonzero(~np.isin(solution.free, mine))
    kept = np.union1d(
        np.flatnonzero(np.isin(solution.free, mine)),
        others[independent(csr_array(matrix[:, others]), modulus)],
    )
    kept = kept[solution.free[kept] != NOTHING]
    matrix = csr_array(matrix[:, kept])
    matrix, rows = _distinct(_ordered(matrix, modulus))
    factors = []
    for leaf in run.leaves:
        for ids in leaf.variables:
            numbers = torch.from_numpy(rows[np.searchsorted(mine, ids.numpy())])
            if bool(numbers.any()):
                factors.append(Factor(leaf.name, numbers.contiguous()))
    buffers = {name: tuple(buffer.shape) for name, buffer in start.buffers.items()}
    pinned = reasons_of(run, equations, solution)
    return Rescaling(kind, start.layout, buffers, tuple(factors), Exponents.of(matrix), pinned)


def _ordered(matrix: csr_array, modulus: int) -> csr_array:
    """Coordinates in the order in which they first occur, where they count as positive."""
    columns = matrix.tocsc()
    columns.sort_indices()
    filled = np.diff(columns.indptr) > 0
    first = np.full(matrix.shape[1], matrix.shape[0])
    first[filled] = columns.indices[columns.indptr[:-1][filled]]
    sign = np.ones(matrix.shape[1], np.int64)
    if not modulus:
        sign[filled] = np.sign(columns.data[columns.indptr[:-1][filled]])
    order = np.argsort(first, kind="stable")
    columns = columns[:, order]
    columns.data = columns.data * np.repeat(sign[order], np.diff(columns.indptr))
    return csr_array(columns)


def _distinct(matrix: csr_array) -> tuple[csr_array, np.ndarray]:
    """The matrix with an empty row before the rows that are not empty, and where each row went."""
    used = np.flatnonzero(np.diff(matrix.indptr))
    place = np.zeros(matrix.shape[0], np.int64)
    place[used] = np.arange(1, len(used) + 1)
    indptr = np.concatenate([[0], matrix.indptr[:1], matrix.indptr[used + 1]])
    return csr_array((matrix.data, matrix.indices, indptr), shape=(len(used) + 1, matrix.shape[1])), place


def _proved(group: Rescaling, probe: RescalingProbe) -> Rescaling:
    """The group without the coordinates that fail numerically, and the proof of the rest."""
    failed: list[str] = []
    pinned = dict(group.pinned)
    result = prove(probe, group)
    while not result.error <= result.tolerance:
        wrong = wrong_coordinates(probe, group)
        failed += [place_name(group, number) for number in wrong]
        for number in wrong:
            pinned |= {(n, axis): "scaling it changed the outputs" for n, axis, _ in group.carriers[number]}
        kept = torch.tensor([n for n in range(group.dimension) if n not in set(wrong)], dtype=torch.int64)
        group = replace(group, exponents=group.exponents.restricted(kept), pinned=pinned)
        result = prove(probe, group, tuple(failed))
    if failed:
        warnings.warn(
            f"scaling {', '.join(failed[:8])} changed the outputs, so the factor stays 1: a rule of isthmus "
            "is wrong for this module; please report it",
            SymmetryWarning,
            stacklevel=3,
        )
    return replace(group, verification=result)

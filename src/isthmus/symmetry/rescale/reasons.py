"""Why a unit has no factor of its own: the nearest equation that says so."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from isthmus.symmetry.partitions import distinct
from isthmus.symmetry.rescale.charges import NOTHING
from isthmus.symmetry.rescale.execution import Execution
from isthmus.symmetry.rescale.solver import Solution

_ROUNDS = 200
_UNKNOWN = "the equations leave it no freedom"


def reasons_of(run: Execution, equations: csr_array, solution: Solution) -> dict[tuple[str, int], str]:
    """(parameter, axis) -> why some of its units have no factor.

    An equation of one variable says that it is 0; from there the reason is passed on through the equations of
    variables that are 0, to each variable from the nearest one.
    """
    still = np.diff(solution.matrix.indptr) == 0
    reason = _spread(equations, _numbers(run), still)
    texts = [*run.equations.reasons, "the equations that it is part of were too hard to solve"]
    reason[solution.abandoned[solution.abandoned < len(reason)]] = len(texts) - 1
    found: dict[tuple[str, int], str] = {}
    for leaf in run.leaves:
        for ids in leaf.variables:
            numbers = distinct(ids).numpy()
            numbers = numbers[numbers != NOTHING]
            pinned = numbers[still[numbers]]
            causes = reason[pinned]
            if not pinned.size or (leaf.name in run.rowwise and ids is leaf.variables[-1]):
                continue
            known = causes[causes >= 0]
            text = texts[int(np.bincount(known).argmax())] if known.size else _UNKNOWN
            if pinned.size < numbers.size:
                text = f"{pinned.size} of {numbers.size} units: {text}"
            for axis in [axis for axis, size in enumerate(ids.shape) if size > 1] or [0]:
                found.setdefault((leaf.name, axis), text)
    return found


def _numbers(run: Execution) -> np.ndarray:
    """The number of the reason of each equation."""
    blocks = run.equations.blocks
    sizes = [len(block.variables) for block in blocks]
    return np.repeat(np.array([block.reason for block in blocks], dtype=np.int64), sizes)


def _spread(equations: csr_array, numbers: np.ndarray, still: np.ndarray) -> np.ndarray:
    """For each variable that is 0 the number of a reason, or -1."""
    reason = np.full(len(still), -1)
    moving = csr_array(abs(equations)) @ (~still).astype(np.int64)
    sizes = np.diff(equations.indptr)
    kept = np.flatnonzero((moving == 0) & (sizes > 0))
    equations, numbers, sizes = csr_array(equations[kept]), numbers[kept], sizes[kept]
    if not kept.size:
        return reason
    single = np.flatnonzero(sizes == 1)
    reason[equations.indices[equations.indptr[single]]] = numbers[single]
    starts = equations.indptr[:-1]
    for _ in range(_ROUNDS):
        known = np.repeat(np.maximum.reduceat(reason[equations.indices], starts), sizes)
        new = (reason[equations.indices] < 0) & (known >= 0)
        if not new.any():
            break
        reason[equations.indices[new]] = known[new]
    rest = reason[equations.indices] < 0
    reason[equations.indices[rest]] = np.repeat(numbers, sizes)[rest]
    return reason

"""Discrete optimal transport between two sets of units: the only file that imports POT.

Source: Peyré & Cuturi 2019, "Computational Optimal Transport" (arXiv 1803.00567), sections 2.3 and 4.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from isthmus.errors import SettingError

Method = Literal["exact", "sinkhorn"]
_EXACT_STEPS, _SINKHORN_STEPS = 1_000_000, 1_000
_TOLERANCE = 1e-7
_MISSED = 0.05  # of the mass, when it stops: what is less is spread


@dataclass(frozen=True)
class PlanSolver:
    """How a transport plan is found; see `transport_plan`.

    Attributes:
        method: "exact" (network simplex) or "sinkhorn" (entropic).
        regularisation: the weight of the entropy, as a share of the mean cost; of "sinkhorn" alone.

    Raises:
        SettingError: an unknown method, or a regularisation that is not above 0.
    """

    method: Method = "exact"
    regularisation: float = 0.01

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise SettingError(
                f"the plan must be one of {', '.join(map(repr, get_args(Method)))}, got {self.method!r}"
            )
        if not 0 < self.regularisation < math.inf:
            raise SettingError(f"the regularisation of a plan must be above 0, got {self.regularisation}")

    def __call__(self, cost: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """The plan for these costs and marginals."""
        return transport_plan(cost, first, second, self.method, self.regularisation)


def transport_plan(
    cost: Tensor, first: Tensor, second: Tensor, method: Method = "exact", regularisation: float = 0.01
) -> Tensor:
    """The plan T ≥ 0 that minimises Σ cost[i, j] T[i, j] with row sums `first` and column sums `second`.

    "sinkhorn" adds ε Σ T log T with ε = `regularisation` × the mean cost, in log space; what is left over
    when it stops is then spread so that the sums are exact.

    Args:
        cost: shape (n, m), finite.
        first: shape (n,), above 0.
        second: shape (m,), above 0, of the same sum.
        method: "exact" or "sinkhorn".
        regularisation: see above.

    Returns:
        float64 of shape (n, m). With n = m and equal marginals the exact plan is a permutation matrix / n
        (times the sum): a vertex of the Birkhoff polytope.

    Raises:
        SettingError: the costs or marginals are not of these shapes or ranges.

    Example:
        >>> import torch
        >>> half = torch.tensor([0.5, 0.5])
        >>> transport_plan(torch.tensor([[3.0, 1.0], [1.0, 3.0]]), half, half).tolist()
        [[0.0, 0.5], [0.5, 0.0]]

    Cost: about O(n³ log n) exactly; O(n m) a step of Sinkhorn, at most 1,000 steps.

    Source: Cuturi 2013 (arXiv 1306.0895) for the entropic plan; Altschuler, Weed & Rigollet 2017 (arXiv
    1705.09634), algorithm 2, for the exact sums.
    """
    PlanSolver(method, regularisation)  # refuses what is out of range
    cost, first, second = (t.detach().cpu().double() for t in (cost, first, second))
    if cost.shape != (len(first), len(second)) or not bool(torch.isfinite(cost).all()):
        raise SettingError(
            f"a transport plan needs finite costs of shape [{len(first)}, {len(second)}], got "
            f"{list(cost.shape)}" + ("" if bool(torch.isfinite(cost).all()) else " with values that are not")
        )
    marginals = torch.cat([first, second])
    if not (len(first) and len(second) and bool(((marginals > 0) & marginals.isfinite()).all())):
        raise SettingError("the marginals of a transport plan must be above 0, finite, and one at least")
    cost = cost - cost.min()  # which changes no plan, and keeps the entropy's weight above 0
    second = second * (first.sum() / second.sum())
    if len(first) == 1 or len(second) == 1:
        return torch.outer(first, second) / first.sum()
    if method == "sinkhorn":
        return _entropic(cost, first, second, regularisation)
    return _exact(cost, first, second)


def _exact(cost: Tensor, first: Tensor, second: Tensor) -> Tensor:
    import ot

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            plan = ot.emd(first.numpy(), second.numpy(), cost.numpy(), numItermax=_EXACT_STEPS)
        except UserWarning as error:
            raise SettingError(
                f"the exact transport plan of {len(first)} × {len(second)} units was not found ({error}); "
                "use plan='sinkhorn'"
            ) from error
    return torch.as_tensor(plan, dtype=torch.float64)


def _entropic(cost: Tensor, first: Tensor, second: Tensor, regularisation: float) -> Tensor:
    import ot

    strength = regularisation * max(float(cost.mean()), torch.finfo(torch.float64).tiny)
    plan = ot.sinkhorn(
        first.numpy(), second.numpy(), cost.numpy(), strength, method="sinkhorn_log",
        numItermax=_SINKHORN_STEPS, stopThr=_TOLERANCE, warn=False,
    )  # fmt: skip
    missed = float(abs(plan.sum(0) - second.numpy()).sum() + abs(plan.sum(1) - first.numpy()).sum())
    if not missed < _MISSED * float(first.sum()):
        raise SettingError(
            f"the entropic plan of {len(first)} × {len(second)} units is not found in {_SINKHORN_STEPS:,} "
            f"steps (its sums are off by {missed / float(first.sum()):.1%}): take a larger regularisation, "
            "or plan='exact'"
        )
    return _with_sums(torch.as_tensor(plan, dtype=torch.float64), first, second)


def _with_sums(plan: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The plan with exact row and column sums: what is too much is cut, what is missing spread."""
    tiny = torch.finfo(plan.dtype).tiny
    plan = plan * (first / plan.sum(1).clamp_min(tiny)).clamp_max(1)[:, None]
    plan = plan * (second / plan.sum(0).clamp_min(tiny)).clamp_max(1)
    rows, columns = (first - plan.sum(1)).clamp_min(0), (second - plan.sum(0)).clamp_min(0)
    if float(rows.sum()) > 0 and float(columns.sum()) > 0:
        plan = plan + torch.outer(rows, columns) / rows.sum()
    return plan

"""Transport of units within units: plans of axes, parents and those below them solved together.

A unit of a parent axis (a head, a group, an expert) is compared by what lies in it: an inner plan for each
pair of parent units gives what the pair costs; the plan of the units below is the parents' plan times these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from isthmus.errors import SymmetryError
from isthmus.symmetry import Axis
from isthmus.symmetry.action import members_of, owner_of

Solver = Callable[[Tensor, Tensor, Tensor], Tensor]
Pairs = Sequence[tuple[Axis, Axis]]


def families(axes: Sequence[Axis]) -> list[list[int]]:
    """The numbers of axes that are solved together: one without an owner, and all that it owns."""
    named = {axis.name: axis for axis in axes}
    top: dict[str, str] = {}
    found: dict[str, list[int]] = {}
    for number, axis in enumerate(axes):
        owner = owner_of(axis, named, named)
        top[axis.name] = axis.name if owner is None else top[owner]
        found.setdefault(top[axis.name], []).append(number)
    return list(found.values())


def solve_family(
    family: Pairs,
    named: Mapping[str, Axis],
    costs: Mapping[str, Tensor],
    shares: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    solver: Solver,
    known: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The plans of a family of axes.

    Args:
        family: pairs (axis of A, axis of B), parents first.
        named: all axes of B.
        costs: axis name -> (units of A, units of B).
        shares: axis name -> importance of the units, of A and of B.
        solver: from costs and marginals to a plan.
        known: plans of other families, for an axis that lies below several of them.
    """
    owners = {new.name: owner_of(new, named, named) for _, new in family}
    costs = {old.name: costs[old.name].clone() for old, _ in family}
    inner: dict[str, dict[tuple[int, int], Tensor]] = {}
    for old, new in reversed(family):
        owner = owners[new.name]
        if owner is not None:
            inner[new.name] = _inner(old, new, costs, owner, shares, solver)
    plans: dict[str, Tensor] = {}
    for old, new in family:
        owner = owners[new.name]
        if owner is not None:
            plans[new.name] = _below(old, new, owner, plans[owner], inner[new.name])
        elif new.parents:
            plans[new.name] = _following(old, new, costs[new.name], shares, solver, known)
        else:
            marginals = (share[new.name] / share[new.name].sum() for share in shares)
            plans[new.name] = solver(costs[new.name], *marginals)
    return plans


def _inner(
    old: Axis,
    new: Axis,
    costs: dict[str, Tensor],
    owner: str,
    shares: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    solver: Solver,
) -> dict[tuple[int, int], Tensor]:
    """For each pair of the owner's units the plan of the units below; their costs are added to the owner's.

    A plan has sum 1; for so many units its cost counts as often as there are units, so that with equal
    numbers it is the sum of the pairs' costs.
    """
    left, right = _cells(old, owner), _cells(new, owner)
    first, second = (share[new.name] for share in shares)
    found = {}
    for p, units in left.items():
        for q, images in right.items():
            block = costs[new.name][units[:, None], images]
            plan = solver(block, first[units] / first[units].sum(), second[images] / second[images].sum())
            found[p, q] = plan
            costs[owner][p, q] += float((plan * block).sum()) * (len(units) + len(images)) / 2
    return found


def _below(
    old: Axis, new: Axis, owner: str, above: Tensor, inner: Mapping[tuple[int, int], Tensor]
) -> Tensor:
    """The plan of an axis from its owner's and the inner ones."""
    left, right = _cells(old, owner), _cells(new, owner)
    plan = torch.zeros(old.size, new.size, dtype=torch.float64)
    for (p, q), part in inner.items():
        if above[p, q] > 0:
            plan[left[p][:, None], right[q]] = above[p, q] * part
    return plan


def _cells(axis: Axis, owner: str) -> dict[int, Tensor]:
    """For each unit of the owner the units below it."""
    at = dict(axis.parents)[owner]
    return {int(at[units[0]]): units for units in members_of(axis)}


def _following(
    old: Axis,
    new: Axis,
    cost: Tensor,
    shares: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    solver: Solver,
    known: Mapping[str, Tensor],
) -> Tensor:
    """The plan of an axis below several others: for each pair of cells the product of their plans' shares."""
    first, second = (share[new.name] for share in shares)
    plan = torch.zeros(old.size, new.size, dtype=torch.float64)
    for units in members_of(old):
        for images in members_of(new):
            weight = math.prod(
                float(known[name][at[units[0]], to[images[0]]])
                for (name, at), (_, to) in zip(old.parents, new.parents, strict=True)
            )
            if weight > 0:
                part = solver(
                    cost[units[:, None], images],
                    first[units] / first[units].sum(),
                    second[images] / second[images].sum(),
                )
                plan[units[:, None], images] = weight * part
    if not (bool((plan.sum(0) > 0).all()) and bool((plan.sum(1) > 0).all())):
        raise SymmetryError(
            f"the units of {new.name} lie below several axes, whose plans leave no place for some of them"
        )
    return plan / plan.sum()

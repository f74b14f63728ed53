"""Model fusion by optimal transport: A is carried to B's units and widths, and averaged with B.

Source: Singh & Jaggi 2020, "Model Fusion via Optimal Transport" (arXiv 1910.05653), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from isthmus.errors import SettingError, SymmetryError
from isthmus.match.transport import Method, PlanSolver
from isthmus.merge.grounds import Shown, WeightGround, compare_activations, importance
from isthmus.merge.nested import families, solve_family
from isthmus.merge.roles import roles_of
from isthmus.merge.softmap import Incoming, SoftMap
from isthmus.network import Network
from isthmus.symmetry import Axis, Symmetry, discover
from isthmus.symmetry.export import Inputs
from isthmus.weights import Weights

Cost = Literal["weights", "activations"]
Marginals = Literal["uniform", "importance"]
Model = nn.Module | Network


def fuse(
    a: Weights,
    b: Weights,
    network_a: Model,
    network_b: Model,
    example: Inputs,
    *,
    share: float = 0.5,
    plan: Method = "exact",
    regularisation: float = 0.01,
    cost: Cost = "weights",
    marginals: Marginals = "uniform",
    incoming: Incoming = "split",
    sweeps: int = 0,
    data: Inputs | None = None,
) -> Weights:
    """Fuse two models, of one structure but maybe of different widths, into one of B's shape.

    θ = (1 - share) T(θ_A) + share θ_B, where T carries A to B's units (see `transport_map`). Outputs and all
    else that has an order is not transported: the last layer's rows are averaged as they stand.

    Args:
        a: weights of A.
        b: weights of B.
        network_a: A's network.
        network_b: B's network; it may be the same object.
        example: inputs of both networks, for tracing: two examples at least.
        share: B's share, in [0, 1].
        plan: "exact", or "sinkhorn" for entropic plans.
        regularisation: of "sinkhorn": the entropy's weight as a share of the mean cost.
        cost: "weights": distances between weights; "activations": between activations on `data`.
        marginals: "uniform", or "importance": by the norms of the units' weights, or of their activations.
        incoming: how outgoing weights are carried: "split" or "published" (see `transport_map`).
        sweeps: how often every axis is solved again when all others have plans.
        data: inputs of some hundreds of examples, for "activations".

    Returns:
        Weights of B's layout. Running statistics are averaged like the weights; measure them anew with
        `Landscape(...).settled([weights])`, since those of an average belong to neither network.

    Raises:
        SettingError: a setting is unknown or outside its range.
        SymmetryError: the weights are not of the networks, or the networks differ in more than widths.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> w = Weights.from_module(net)
        >>> bool(fuse(w, w, net, net, torch.zeros(2, 2)).vector.allclose(w.vector))
        True

    Source: Singh & Jaggi 2020 (arXiv 1910.05653), algorithm 1.
    """
    _require_share(share)
    soft = transport_map(
        a, b, network_a, network_b, example, plan=plan, regularisation=regularisation, cost=cost,
        marginals=marginals, incoming=incoming, sweeps=sweeps, data=data,
    )  # fmt: skip
    return averaged(soft.apply(a), b, share)


def averaged(carried: Weights, b: Weights, share: float = 0.5) -> Weights:
    """(1 - share) carried + share B, with float buffers averaged likewise and all others as in B.

    Args:
        carried: in B's layout, as `SoftMap.apply` gives it.
        b: weights of B.
        share: B's share, in [0, 1].
    """
    _require_share(share)
    vector = (1 - share) * carried.vector.to(b.vector) + share * b.vector
    buffers = {
        name: torch.lerp(carried.buffers[name].to(value), value, share)
        if value.is_floating_point()
        and name in carried.buffers
        and not torch.equal(carried.buffers[name], value)
        else value
        for name, value in b.buffers.items()
    }
    return Weights(b.layout, vector, buffers)


def transport_map(
    a: Weights,
    b: Weights,
    network_a: Model,
    network_b: Model,
    example: Inputs,
    *,
    plan: Method = "exact",
    regularisation: float = 0.01,
    cost: Cost = "weights",
    marginals: Marginals = "uniform",
    incoming: Incoming = "split",
    sweeps: int = 0,
    data: Inputs | None = None,
) -> SoftMap:
    """Find which share of each of A's hidden units goes to which of B's.

    Every axis of the networks' symmetries gets one plan T ≥ 0 with Σ_j T_ij = α_i and Σ_i T_ij = β_j that
    minimises Σ T_ij C_ij. By weights, C_ij is the squared distance of A's slice at unit i, carried along
    the axes that have plans already, and of B's at unit j, summed over the parameters (biases, norms and
    shared streams included) that can be compared so; axes whose slices can be compared best come first, which
    is layer by layer from the input in a plain network. Units of heads, groups and experts get the plan of
    their parents times an inner plan, whose cost is their parents'.

    B's unit j takes the mean Σ_i T_ij / β_j of A's incoming weights, biases, norms' scales and statistics.
    Outgoing weights: with "split" each of A's units splits its own among its images, T_ij / α_i, which keeps
    the function where units are copied or equal units joined. "published" takes their mean as well, T_ij /
    β_j, which is n_B / n_A times as much at uniform marginals; the two agree at equal widths.

    A dimension that is read both ways (an embedding that is the head, too) is mixed. Units of queries and
    keys are scaled by (d_A / d_B)^¼ with "split", d their number a head, for scores divided by √d.

    Args: see `fuse`.

    Returns:
        The soft map. With equal widths, uniform marginals and exact plans it is a group element:
        `SoftMap.alignment`.

    Raises:
        SettingError: a setting is unknown or outside its range.
        SymmetryError: the weights are not of the networks, or the networks differ in more than widths.

    Limits: a mean or sum over units that no product does, and norms over units that are not copied equally
    often, keep no function at different widths; with unequal marginals no plan is one to one. Stacks of
    matrices whose columns are axes of pairs (expert, unit) do not count in the costs by weights.

    Cost: two discoveries and traces, one plan an axis; for axes in others one plan for each pair of parents.

    Source: Singh & Jaggi 2020 (arXiv 1910.05653), algorithm 1; split outgoing weights, nested and shared axes
    and `sweeps` are our own.
    """
    _require_known(cost=(cost, Cost), marginals=(marginals, Marginals), incoming=(incoming, Incoming))
    solver = PlanSolver(plan, regularisation)
    if sweeps < 0:
        raise SettingError(f"sweeps must be 0 or more, got {sweeps}")
    if cost == "activations" and data is None:
        raise SettingError("cost='activations' needs data: inputs of some hundreds of examples")
    modules = (module_of(network_a), module_of(network_b))
    pair = symmetries_of(modules, example)
    pair[0].check(a)
    pair[1].check(b)
    require_same_structure(*pair)
    shown = (
        compare_activations(a, b, modules, pair, data) if cost == "activations" and data is not None else None
    )
    start = SoftMap(*pair, {}, {}, roles_of(modules[1], example, pair[1]), incoming)
    shares = _shares(a, b, pair, shown, marginals)
    return _Search(start, WeightGround(a, b, pair[1]), shown, shares, solver).found(sweeps)


@dataclass(frozen=True)
class _Search:
    """The order in which axes are solved."""

    start: SoftMap
    ground: WeightGround
    shown: Shown | None
    shares: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
    solver: PlanSolver

    def found(self, sweeps: int) -> SoftMap:
        """The map: each family once, the best comparable first, then all again as often as asked."""
        axes = self.start.target.axes
        waiting = families(axes)
        order: list[list[int]] = []
        soft = self.start
        while waiting:
            chosen = max(
                waiting,
                key=lambda family: (
                    self._follows(family, soft),
                    self.ground.anchored([axes[number] for number in family], soft.plans),
                ),
            )
            waiting.remove(chosen)
            order.append(chosen)
            soft = self._solved(soft, chosen, again=False)
        for _ in range(sweeps if self.shown is None else 0):
            for family in order:
                soft = self._solved(soft, family, again=True)
        return soft

    def _follows(self, family: Sequence[int], soft: SoftMap) -> bool:
        """Whether all axes outside a family that it lies below have plans."""
        axes = [soft.target.axes[number] for number in family]
        own = {axis.name for axis in axes}
        return all(name in soft.plans or name in own for axis in axes for name, _ in axis.parents)

    def _solved(self, soft: SoftMap, family: Sequence[int], again: bool) -> SoftMap:
        pairs = [(soft.source.axes[number], soft.target.axes[number]) for number in family]
        costs = {new.name: self._cost(soft, old, new, again) for old, new in pairs}
        named = {axis.name: axis for axis in soft.target.axes}
        plans = solve_family(pairs, named, costs, self.shares, self.solver, soft.plans)
        return soft.with_plans(plans, {name: float((p * costs[name]).sum()) for name, p in plans.items()})

    def _cost(self, soft: SoftMap, old: Axis, new: Axis, again: bool) -> Tensor:
        if self.shown is None:
            return self.ground.costs(new, old, soft, again)
        if new.name in self.shown.costs:
            return self.shown.costs[new.name]
        if not new.places:  # told by the axes below it
            return torch.zeros(old.size, new.size, dtype=torch.float64)
        return self.ground.costs(new, old, soft, again)


def require_same_structure(source: Symmetry, target: Symmetry) -> None:
    """Refuse networks that differ in more than widths.

    Raises:
        SymmetryError: naming the first difference.
    """
    for name, other in zip_longest(source.layout.names, target.layout.names):
        if name != other:
            first, second = (f"the parameter {each}" if each else "no further one" for each in (name, other))
            raise _different(f"where A has {first}, B has {second}")
    for old, new in zip_longest(source.axes, target.axes):
        if old is None or new is None or old.name != new.name:
            first, second = (f"the axis {axis.name}" if axis else "no further axis" for axis in (old, new))
            raise _different(
                f"where A has {first} of hidden units, B has {second} (a single unit makes no axis, and "
                "cannot be carried)"
            )
        _require_same_axis(old, new)
    movable = {(p.parameter, p.dim) for axis in target.axes for p in axis.places}
    for name, left, right in zip(
        source.layout.names, source.layout.shapes, target.layout.shapes, strict=True
    ):
        sizes = list(zip_longest(left, right))
        for dim, (size, other) in enumerate(sizes):
            if size != other and (name, dim) not in movable:
                raise _different(
                    f"{name}[{dim}] has {size} in A and {other} in B, and none of it is a hidden axis"
                )


def _require_same_axis(old: Axis, new: Axis) -> None:
    if [name for name, _ in old.parents] != [name for name, _ in new.parents]:
        raise _different(f"the units of {old.name} lie within other units in A than in B")
    for place, image in zip_longest(old.places, new.places):
        first, second = (f"{p.parameter}[{p.dim}]" if p else "nothing more" for p in (place, image))
        if place is None or image is None or first != second:
            raise _different(f"the hidden axis {old.name} lies along {first} in A, but along {second} in B")
        if place.index.shape[1] != image.index.shape[1]:
            raise _different(
                f"each unit of {old.name} takes {place.index.shape[1]} positions of {first} in A, but "
                f"{image.index.shape[1]} in B"
            )


def _different(how: str) -> SymmetryError:
    return SymmetryError(f"A and B can be fused only if their networks differ in widths alone, but {how}")


def _shares(
    a: Weights, b: Weights, pair: tuple[Symmetry, Symmetry], shown: Shown | None, marginals: Marginals
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    if marginals == "uniform":
        first, second = (
            {axis.name: torch.ones(axis.size, dtype=torch.float64) for axis in symmetry.axes}
            for symmetry in pair
        )
        return first, second
    left, right = (None, None) if shown is None else (shown.left, shown.right)
    return importance(a, pair[0], left), importance(b, pair[1], right)


def symmetries_of(modules: tuple[nn.Module, nn.Module], example: Inputs) -> tuple[Symmetry, Symmetry]:
    """The symmetries of two networks; the same object twice if they are one network."""
    first = discover(modules[0], example)
    return first, first if modules[0] is modules[1] else discover(modules[1], example)


def module_of(model: Model) -> nn.Module:
    """The module of a network."""
    return model.module if isinstance(model, Network) else model


def _require_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise SettingError(f"the share of B must lie in [0, 1], got {share}")


def _require_known(**settings: tuple[str, object]) -> None:
    for name, (value, kinds) in settings.items():
        if value not in get_args(kinds):
            raise SettingError(
                f"{name} must be one of {', '.join(map(repr, get_args(kinds)))}, got {value!r}"
            )

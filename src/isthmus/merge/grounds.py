"""Ground costs of transport between units, by their weights or their activations, and their importance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from isthmus.errors import DataError
from isthmus.match.places import roots_of
from isthmus.match.slices import real
from isthmus.merge.softmap import SoftMap
from isthmus.symmetry import Axis, Symmetry
from isthmus.symmetry.action import Place
from isthmus.symmetry.activations import Activations, Lane, Site, trace_activations
from isthmus.symmetry.export import Inputs, positional
from isthmus.weights import Weights

_BATCH = 100
_FLOOR = 1e-3
_Key = tuple[str, str, int]


class WeightGround:
    """Squared distances between slices of A, carried along the axes that are settled, and of B.

    Args:
        a: weights of A.
        b: weights of B.
        symmetry: of B's network.
    """

    def __init__(self, a: Weights, b: Weights, symmetry: Symmetry) -> None:
        self.a, self.b = a, b
        self.axes = {axis.name: axis for axis in symmetry.axes}
        self.roots = roots_of(symmetry.axes)
        self.along: dict[str, list[tuple[Axis, Place]]] = {}
        for axis in symmetry.axes:
            for place in axis.places:
                self.along.setdefault(place.parameter, []).append((axis, place))

    def counted(self, axis: Axis, settled: Collection[str], again: bool) -> list[int]:
        """The numbers of an axis' places whose slices can be compared.

        Args:
            axis: of B.
            settled: the axes that have plans.
            again: whether the axis itself and those solved with it have plans, which are taken as known.
        """
        family = self.roots[axis.name]
        found = []
        for number, place in enumerate(axis.places):
            if place.parameter not in self.b:
                continue
            # A stack of matrices: the slice of a unit lies in one of them, whichever that is.
            stack = place.blocks > 1 and place.blocks == self.b[place.parameter].shape[0]
            beside = [
                (o, p)
                for o, p in self.along[place.parameter]
                if p.dim != place.dim and not (stack and p.dim == 0)
            ]
            ready = all(
                other.name in settled
                and (not self.roots[other.name] & family or (again and max(place.blocks, p.blocks) == 1))
                for other, p in beside
            )
            if ready:
                found.append(number)
        return found

    def anchored(self, family: Sequence[Axis], settled: Collection[str]) -> float:
        """The share of the numbers in a family's slices that can be compared."""
        known = total = 0
        for axis in family:
            sizes = [self.b[p.parameter].numel() if p.parameter in self.b else 0 for p in axis.places]
            known += sum(sizes[number] for number in self.counted(axis, settled, False))
            total += sum(sizes)
        return known / max(total, 1)

    def costs(self, axis: Axis, old: Axis, soft: SoftMap, again: bool) -> Tensor:
        """The costs (units of A, units of B) of one axis, `old` in A, with the plans of a map settled."""
        total = torch.zeros(old.size, axis.size, dtype=torch.float64)
        settled = set(soft.plans)
        for number in self.counted(axis, settled, again):
            place, image = old.places[number], axis.places[number]
            name, dim = image.parameter, image.dim
            carried = soft.carry(name, self.a[name], settled, keep=dim)
            left = _slices(carried, place) * soft.scale(name, dim, axis.name)
            right = _slices(self.b[name], image)
            total += squared_distances(left, right)
        return total


def _slices(tensor: Tensor, place: Place) -> Tensor:
    """A row for each unit, shape (units, numbers), float64, in one order whatever the memory's."""
    dim = place.dim
    if place.blocks > 1:
        tensor = tensor.reshape(place.blocks, -1, *tensor.shape[1:]).movedim(dim + 1, 1).flatten(0, 1)
        dim = 0
    rows = real(tensor.movedim(dim, 0)[place.index])
    return rows.reshape(rows.shape[0], -1).cpu().double()


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """‖x - y‖² for all rows x of `left` and y of `right`."""
    ones = (left**2).sum(1)[:, None] + (right**2).sum(1)
    return (ones - 2 * left @ right.T).clamp_min(0)


@dataclass(frozen=True)
class Shown:
    """What activations say of the units of two networks.

    Attributes:
        costs: axis name -> mean squared distances (units of A, units of B), summed over the nodes.
        left: axis name -> mean squared activation of A's units, likewise.
        right: axis name -> that of B's.
    """

    costs: Mapping[str, Tensor]
    left: Mapping[str, Tensor]
    right: Mapping[str, Tensor]


def compare_activations(
    a: Weights,
    b: Weights,
    modules: tuple[nn.Module, nn.Module],
    pair: tuple[Symmetry, Symmetry],
    data: Inputs,
) -> Shown:
    """Compare the activations of A's and B's units on the same examples.

    They are taken where a nonlinearity reads the units (their preactivations); where none does, where the
    next layer sums over them; else wherever they appear. An axis that no activation shows is not there.

    Args:
        a: weights of A.
        b: weights of B.
        modules: their networks.
        pair: their symmetries.
        data: inputs of some hundreds of examples.

    Memory: the chosen activations of one batch of A.
    """
    batches = _batches(data)
    first, second = (
        trace_activations(module, batches[0], symmetry)
        for module, symmetry in zip(modules, pair, strict=True)
    )
    chosen = _chosen(second, {(site.node, site.axis) for site in first.sites})
    costs, left, right = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
    for batch in batches:
        rows: dict[_Key, Tensor] = {}
        _visit(first, a, batch, chosen, rows.__setitem__)

        def compare(key: _Key, found: Tensor, rows: Mapping[_Key, Tensor] = rows) -> None:
            other, axis, parts = rows[key], key[1], found.shape[1] * len(batches)
            _add(costs, axis, squared_distances(other, found) / parts)
            _add(left, axis, (other**2).sum(1) / parts)
            _add(right, axis, (found**2).sum(1) / parts)

        _visit(second, b, batch, chosen, compare)
    return Shown(costs, left, right)


def _add(totals: dict[str, Tensor], name: str, value: Tensor) -> None:
    totals[name] = totals[name] + value if name in totals else value


def _batches(data: Inputs) -> list[Inputs]:
    """The examples in equal batches; a few may be left out at the end."""
    leaves, structure = pytree.tree_flatten(data)
    sizes = {leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()}
    if len(sizes) != 1 or not positional(data):
        raise DataError(
            "data must be inputs of one number of examples, along the first dimension of each tensor; "
            f"got tensors of {', '.join(map(str, sorted(sizes))) or 'no'} examples"
        )
    count = sizes.pop()
    if not count:
        raise DataError("data must hold at least one example, got none")
    pieces = -(-count // _BATCH)
    size = count // pieces
    return [
        pytree.tree_unflatten(
            [
                leaf[k * size : (k + 1) * size] if isinstance(leaf, Tensor) and leaf.dim() else leaf
                for leaf in leaves
            ],
            structure,
        )
        for k in range(pieces)
    ]


def _chosen(shown: Activations, both: Collection[tuple[str, str]]) -> dict[str, set[str]]:
    """Axis -> the nodes at which its units are compared: preactivations before sums before all others."""
    sites: dict[str, list[Site]] = {}
    for site in shown.sites:
        if (site.node, site.axis) in both:
            sites.setdefault(site.axis, []).append(site)
    return {
        axis: {
            site.node for site in [s for s in found if s.squashed] or [s for s in found if s.read] or found
        }
        for axis, found in sites.items()
    }


def _visit(
    shown: Activations,
    weights: Weights,
    batch: Inputs,
    chosen: Mapping[str, set[str]],
    take: Callable[[_Key, Tensor], None],
) -> None:
    """Run a network on a batch, and give the rows of the chosen sites to a function."""
    at: dict[str, list[tuple[_Key, Site]]] = {}
    for site in shown.sites:
        if site.node in chosen.get(site.axis, ()):
            here = at.setdefault(site.node, [])
            here.append(((site.node, site.axis, len(here)), site))

    def visit(node: str, outputs: list[Tensor]) -> None:
        for key, site in at[node]:
            take(key, site.rows(outputs[0]).cpu().double())

    shown.run([Lane(weights, batch)], visit, frozenset(at))


def importance(
    weights: Weights, symmetry: Symmetry, squares: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """How much each unit matters, of mean 1: the norm of its slices, or of its activations, if given.

    A unit of no importance counts a thousandth of the mean, so that every unit has a share.

    Args:
        weights: of the network.
        symmetry: of the network.
        squares: axis name -> mean squared activation of each unit.
    """
    found: dict[str, Tensor] = {}
    for axis in symmetry.axes:
        total = torch.zeros(axis.size, dtype=torch.float64)
        if squares is not None and axis.name in squares:
            total += squares[axis.name]
        else:
            for place in axis.places:
                if place.parameter in weights:
                    total += (_slices(weights[place.parameter], place) ** 2).sum(1)
        found[axis.name] = total
    for axis in reversed(symmetry.axes):
        for name, at in axis.parents:
            found[name] = found[name].index_add(0, at, found[axis.name])
    norms = {name: total.sqrt() for name, total in found.items()}
    return {
        name: norm / norm.mean() + _FLOOR if float(norm.sum()) > 0 else torch.ones_like(norm)
        for name, norm in norms.items()
    }

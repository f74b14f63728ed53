"""Matching two transformers up to changes of basis: rotations of the residual stream, maps within heads.

Coordinate descent on ‖A' - B'‖², where A' and B' have their norms folded: each residual stream takes the
rotation that solves the orthogonal Procrustes problem on all tensors that carry it; each layer's heads are
assigned by what they are worth after the best map within the pair, and its hidden units as in weight
matching; then each head's circuits take their best map. No step is taken that does not lower the objective.

Source: the alternation of permutations with an orthogonal residual map follows Theus et al. 2025,
"Generalized Linear Mode Connectivity for Transformers" (arXiv 2506.22712); Procrustes: Schönemann 1966. That
heads are assigned by nuclear norms, the value of the best orthogonal map, is our own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from isthmus.errors import DataError, SettingError
from isthmus.match.assignment import maximising_assignment
from isthmus.match.circuits import best_map, pair_values
from isthmus.match.weight import match_weights
from isthmus.network import Network
from isthmus.symmetry import Alignment, Axis, Outcome, Symmetry, discover
from isthmus.symmetry.action import nearest
from isthmus.symmetry.export import Inputs
from isthmus.symmetry.linear import Basis, LinearSymmetry, discover_bases
from isthmus.weights import Weights

CircuitMaps = Literal["orthogonal", "invertible", "none"]
Step = Alignment | Mapping[str, Tensor]

# A step must gain more than rounding, a share of ‖A'‖² + ‖B'‖²; a sweep what is worth another, of ‖A' - B'‖².
_GAIN = 1e-15
_WORTH = 1e-5


@dataclass(frozen=True, eq=False, repr=False)
class BasisAlignment:
    """How one model is brought into the basis of another.

    Attributes:
        symmetry: the bases that were used, with what is folded for them.
        permutations: the permutation group of the network.
        steps: what is done to the folded B, in order: permutations, and maps by basis.
        circuits: which maps were allowed within heads.
        objective: ‖A' - B'‖², the squared distance of the folded A to the folded, aligned B.
        outcome: how the matching ended.
        history: the objective at the start and after every sweep, of the start that was kept.
    """

    symmetry: LinearSymmetry
    permutations: Symmetry
    steps: tuple[Step, ...]
    circuits: CircuitMaps
    objective: float
    outcome: Outcome
    history: tuple[float, ...]

    def __repr__(self) -> str:
        return (
            f"BasisAlignment({len(self.symmetry.bases)} bases, {len(self.steps)} steps, "
            f"objective {self.objective:.6g})"
        )

    @property
    def folded(self) -> tuple[str, ...]:
        """What is folded where in both models, in words."""
        return self.symmetry.folding

    def anchor(self, weights_a: Weights) -> Weights:
        """A with its norms folded as B's are: the same function, to be averaged with `apply(b)`.

        Raises:
            SymmetryError: the weights have another layout.
        """
        return _narrow(self.symmetry.fold(_wide(weights_a)), weights_a)

    def apply(self, weights_b: Weights) -> Weights:
        """B folded and brought to A's basis: the same function, in the original architecture.

        Raises:
            SymmetryError: the weights have another layout.
        """
        return _narrow(self.applied(self.symmetry.fold(_wide(weights_b))), weights_b)

    def applied(self, weights: Weights) -> Weights:
        """The steps applied to weights that are folded already."""
        for step in self.steps:
            weights = step.apply(weights) if isinstance(step, Alignment) else self.symmetry.act(step, weights)
        return weights


def match_bases(
    a: Weights,
    b: Weights,
    module: nn.Module | Network,
    example_inputs: Inputs,
    symmetry: Symmetry | None = None,
    *,
    circuits: CircuitMaps = "orthogonal",
    residual: bool = True,
    heads: bool = True,
    sweeps: int = 50,
    bases: LinearSymmetry | None = None,
) -> BasisAlignment:
    """Align a transformer with another up to permutations and changes of basis.

    Three starts are tried and the best end is kept: B as it comes; the rotation that the tensors alone give
    which neither heads nor hidden units touch (embeddings, positions, the head); and weight matching.

    Args:
        a: the weights that stay; average `alignment.anchor(a)` with `alignment.apply(b)`.
        b: the weights that are brought to them.
        module: their network.
        example_inputs: a few short sequences, for tracing it.
        symmetry: its permutations; discovered by default.
        circuits: the maps within heads: rotations, any invertible matrices, or permutations only.
        residual: whether residual streams are rotated (and their norms folded).
        heads: whether heads (and other units that have units of their own) may change places.
        sweeps: the limit of sweeps.
        bases: its changes of basis; discovered by default.

    Returns:
        The alignment, with its objective, history and outcome.

    Raises:
        SettingError: `circuits` is unknown, or `sweeps` is below 1.
        SymmetryError: the module cannot be traced, or the weights do not fit it.

    Example:
        >>> from isthmus.tasks.transformer import Transformer
        >>> net, tokens = Transformer(5, context=4, width=8, heads=2, layers=1), torch.zeros(2, 4).long()
        >>> bases, a = discover_bases(net, tokens), Weights.from_module(net)
        >>> b = bases.act(bases.random(torch.Generator().manual_seed(0), spread=1.0), bases.fold(a))
        >>> match_bases(a, b, net, tokens, bases=bases).objective < 1e-6 * a.dot(a)
        True

    Limits: a local optimum of a distance, which is not the barrier. A smaller distance by invertible maps is
    no better model: they may bring B to a badly conditioned basis.
    Cost: two traces; a sweep costs one SVD a stream, and for a layer of h heads h² of the head's size.
    """
    if circuits not in get_args(CircuitMaps) or sweeps < 1:
        raise SettingError(
            f"circuits must be one of {', '.join(map(repr, get_args(CircuitMaps)))} and sweeps at least 1, "
            f"got {circuits!r} and {sweeps}"
        )
    found = bases if bases is not None else discover_bases(module, example_inputs)
    used = [basis for basis in found.bases if (residual if basis.kind == "residual" else circuits != "none")]
    group = replace(found, bases=tuple(used), folds=found.folds if residual else ())
    permutations = symmetry if symmetry is not None else discover(_module(module), example_inputs)
    fixed, moving = (group.fold(_wide(weights)) for weights in (a, b))
    state = State(group, permutations, circuits, heads, fixed, moving)
    starts: list[tuple[Step, ...]] = [(), state.anchored()]
    if heads:  # weight matching knows no heads that stay
        starts.append((match_weights(fixed, moving, permutations),))
    ends = [_descended(state, start, sweeps) for start in starts]
    best = min(ends, key=lambda end: end.objective)
    if circuits != "invertible":
        return best
    further = _descended(state, best.steps, sweeps, invertible=True)
    return replace(further, history=best.history + further.history[1:])


def _descended(
    state: State, start: tuple[Step, ...], sweeps: int, invertible: bool = False
) -> BasisAlignment:
    """Sweeps from one start until none lowers the objective by enough."""
    state = state.copy()
    for step in start:
        state.take(step, anyway=True)
    history = [state.objective]
    outcome = Outcome.SWEEP_LIMIT
    for _ in range(sweeps):
        state.sweep(invertible)
        history.append(state.objective)
        if history[-2] - history[-1] <= _WORTH * history[-1]:
            outcome = Outcome.CONVERGED
            break
    return BasisAlignment(
        state.group,
        state.permutations,
        tuple(state.steps),
        state.circuits,
        state.objective,
        outcome,
        tuple(history),
    )


def resumed(alignment: BasisAlignment, a: Weights, b: Weights) -> State:
    """The state of a matching that ended with this alignment, to go on from there."""
    fixed, moving = (alignment.symmetry.fold(_wide(weights)) for weights in (a, b))
    state = State(alignment.symmetry, alignment.permutations, alignment.circuits, True, fixed, moving)
    state.take(*alignment.steps, anyway=True)
    return state


class State:
    """A', the present B', and the steps that led there."""

    def __init__(
        self,
        group: LinearSymmetry,
        permutations: Symmetry,
        circuits: CircuitMaps,
        heads: bool,
        fixed: Weights,
        moving: Weights,
    ) -> None:
        self.group, self.permutations, self.circuits = group, permutations, circuits
        self.fixed, self.moving = fixed, moving
        self.scale = fixed.dot(fixed) + moving.dot(moving)
        self.steps: list[Step] = []
        self.streams = [basis for basis in group.bases if basis.kind == "residual"]
        self.inner = [basis for basis in group.bases if basis.kind != "residual"]
        taken = {channel for basis in group.bases for place in basis.places for channel in place.channels}
        self.free = [axis for axis in permutations.axes if axis.places and not _within(axis, taken)]
        self.slots = _slots(permutations.axes, self.inner)
        self.parents = {name for axis in permutations.axes for name, _ in axis.parents}
        self.heads = heads
        self.objective = self._distance(moving)

    def copy(self) -> State:
        """The same state, to go another way from here."""
        twin = object.__new__(State)
        twin.__dict__ = dict(self.__dict__) | {"steps": list(self.steps)}
        return twin

    def _distance(self, moving: Weights) -> float:
        gap = self.fixed - moving
        return gap.dot(gap)

    def take(self, *steps: Step, anyway: bool = False) -> bool:
        """Go some steps if together they lower the objective."""
        moving = self.moving
        for step in steps:
            moving = step.apply(moving) if isinstance(step, Alignment) else self.group.act(step, moving)
        objective = self._distance(moving)
        if not anyway and not self.objective - objective > _GAIN * self.scale:
            return False
        self.moving, self.objective = moving, objective
        self.steps += steps
        return True

    # -- starts ---------------------------------------------------------------------------------

    def anchored(self) -> tuple[Step, ...]:
        """Rotations by the tensors that no permutation and no circuit touches."""
        busy = {place.parameter for axis in self.free for place in axis.places}
        busy |= {place.parameter for basis in self.inner for place in basis.places}
        maps = {}
        for basis in self.streams:
            quiet = tuple(place for place in basis.places if place.parameter not in busy)
            if quiet:
                maps[basis.name] = best_map(replace(basis, places=quiet), self.fixed, self.moving)
        return (maps,) if maps else ()

    # -- steps ----------------------------------------------------------------------------------

    def sweep(self, invertible: bool) -> None:
        """Rotate the streams, assign heads and hidden units, map the circuits."""
        for basis in self.streams:
            self.take({basis.name: best_map(basis, self.fixed, self.moving)})
        for root in self._roots():
            self._assign(root)
        if maps := self._maps(self.moving, invertible):
            self.take(maps)

    def assign_units(self) -> None:
        """Assign hidden units anew, and not heads."""
        twin = self.copy()
        twin.heads = False
        for root in twin._roots():
            twin._assign(root)
        self.moving, self.objective, self.steps = twin.moving, twin.objective, twin.steps

    def _maps(self, moving: Weights, invertible: bool) -> dict[str, Tensor]:
        return {basis.name: best_map(basis, self.fixed, moving, invertible) for basis in self.inner}

    def _roots(self) -> Iterator[set[str]]:
        """Sets of axes that are assigned together: an axis without parents and what lies below it."""
        below: dict[str, set[str]] = {}
        for axis in self.permutations.axes:
            roots = {root for name, _ in axis.parents for root, names in below.items() if name in names}
            for root in roots or {axis.name}:
                below.setdefault(root, set()).add(axis.name)
        yield from below.values()

    def _assign(self, names: set[str]) -> None:
        """The best assignment of one family, its circuits mapped anew after it."""
        scores = self._scores(names)
        if not scores:
            return
        still = {axis.name: torch.arange(axis.size) for axis in self.permutations.axes}
        free = still.keys() - (set() if self.heads else self.parents)
        chosen = nearest(self.permutations.axes, scores, maximising_assignment, still, free)
        step = Alignment(self.permutations, chosen, outcome=Outcome.PROJECTED)
        if not any(step.moved.values()):
            return
        moving = step.apply(self.moving)
        touched = {name for family in self.slots.values() for each in family for name in each.values()}
        maps = {name: m for name, m in self._maps(moving, False).items() if name in touched}
        self.take(step, maps) if maps else self.take(step)

    def _scores(self, names: set[str]) -> dict[str, Tensor]:
        """scores[i, j]: what it is worth to bring B's unit j to A's place i."""
        scores: dict[str, Tensor] = {}
        for axis in self.free:
            held = axis.name in self.parents and not self.heads
            if axis.name in names and not held and all(place.blocks == 1 for place in axis.places):
                scores[axis.name] = sum(
                    (
                        _slices(self.fixed, axis, n) @ _slices(self.moving, axis, n).T
                        for n in range(len(axis.places))
                    ),
                    torch.zeros(axis.size, axis.size, dtype=torch.float64),
                )
        for parent, families in self.slots.items():
            if parent not in names or not self.heads:
                continue
            size = next(axis.size for axis in self.permutations.axes if axis.name == parent)
            total = scores.get(parent, torch.zeros(size, size, dtype=torch.float64))
            for family in families:
                units = torch.tensor(sorted(family))
                members = [self._basis(family[unit]) for unit in sorted(family)]
                total[units[:, None], units] += pair_values(members, self.fixed, self.moving)
            scores[parent] = total
        return scores

    def _basis(self, name: str) -> Basis:
        return next(basis for basis in self.inner if basis.name == name)


def _slots(axes: Sequence[Axis], inner: Sequence[Basis]) -> dict[str, list[dict[int, str]]]:
    """Axis of heads -> for each kind of circuit, which one belongs to which head."""
    slots: dict[str, dict[tuple[object, ...], dict[int, str]]] = {}
    for basis in inner:
        place = next((place for place in basis.places if len(place.index) == 1), None)
        if place is None:
            continue
        for axis in axes:
            units = _units(axis, place.parameter, place.dim, place.index[0])
            for name, parent in axis.parents if units is not None else ():
                heads = set(parent[units].tolist())
                if len(heads) == 1:
                    shape = tuple((p.parameter, p.dim, p.index.shape, p.dual) for p in basis.places)
                    slots.setdefault(name, {}).setdefault(shape, {})[heads.pop()] = basis.name
    return {name: list(families.values()) for name, families in slots.items()}


def _units(axis: Axis, parameter: str, dim: int, channels: Tensor) -> Tensor | None:
    """The units of an axis that lie at these positions of a parameter; None if not all are units."""
    for place in axis.places:
        if (place.parameter, place.dim, place.blocks) == (parameter, dim, 1):
            at = {position: unit for unit, row in enumerate(place.index.tolist()) for position in row}
            if all(channel in at for channel in channels.tolist()):
                return torch.tensor([at[channel] for channel in channels.tolist()])
    return None


def _within(axis: Axis, taken: set[tuple[str, int, int]]) -> bool:
    """Whether an axis orders channels whose basis is free, so that a permutation adds nothing."""
    return any(
        (place.parameter, place.dim, at) in taken
        for place in axis.places
        for at in place.index.flatten().tolist()
    )


def _slices(weights: Weights, axis: Axis, number: int) -> Tensor:
    """The slices of one place's parameter at each unit, as rows."""
    place = axis.places[number]
    if place.parameter not in weights:
        return torch.zeros(axis.size, 1, dtype=torch.float64)
    return weights[place.parameter].movedim(place.dim, 0)[place.index].flatten(1)


def _module(module: nn.Module | Network) -> nn.Module:
    return module.module if isinstance(module, Network) else module


def _wide(weights: Weights) -> Weights:
    """The weights in float64, in main memory: matrices of one head's size gain nothing elsewhere."""
    if not bool(weights.vector.isfinite().all()):
        raise DataError("the weights hold values that are not finite, which no basis can be matched to")
    return Weights(weights.layout, weights.vector.cpu().double(), weights.buffers)


def _narrow(weights: Weights, like: Weights) -> Weights:
    """The weights as their owner's dtypes hold them."""
    return Weights(weights.layout, weights.vector.to(like.vector), weights.buffers).rounded()


__all__ = ["BasisAlignment", "CircuitMaps", "match_bases"]

"""Many models in one frame: all to one, each to the mean of the others, or all jointly to a universe.

Whatever the method, one group element g a model is found, and the pairs follow: g_B⁻¹ g_A brings A to B. So
the steps from A to B and from B to C make that from A to C exactly; pairs matched one by one drift.

Sources: Ainsworth, Hayase & Srinivasa 2023 (arXiv 2209.04836), appendix A.10, Algorithm 3, for MergeMany;
Crisostomi et al. 2024 (arXiv 2405.17897), eq. 4 and Algorithm 1, for the universe.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.fanout import Fanout, Serial
from isthmus.landscape import Landscape
from isthmus.match.activation import ActivationMatcher, Statistic, Where
from isthmus.match.assignment import maximising_assignment
from isthmus.match.relaxation import frank_wolfe
from isthmus.match.universe import Found, Universe, ascend
from isthmus.match.weight import match_weights
from isthmus.progress import Progress, Silent
from isthmus.seeds import seeded
from isthmus.symmetry import Alignment, Outcome, Symmetry
from isthmus.weights import Weights, combine

Method = Literal["universe", "frank-wolfe", "merge-many", "star"]
_Element = Mapping[str, Tensor]

_STEPS = 100  # of Frank-Wolfe: on perceptrons the relaxed objective rises by less than 1e-5 a step by then
_GAIN = 1e-12  # a step must gain more than the rounding of the objective


def match_many(
    models: Sequence[Weights],
    symmetry: Symmetry,
    *,
    method: Method = "universe",
    reference: int = 0,
    restarts: int = 1,
    seed: int = 0,
    max_sweeps: int = 100,
    fanout: Fanout = Serial(),  # noqa: B008 - a frozen value
    progress: Progress | None = None,
) -> list[Alignment]:
    """Align the units of several models with one another by their weights.

    All methods but `star` maximise Σ_{i<j} ⟨g_i θ_i, g_j θ_j⟩ over one group element a model:

    - `universe`: ascent over axes and models, the units of one model's axis at a time, begun from a star.
    - `frank-wolfe`: the published relaxation to doubly stochastic matrices, in which all models move at once,
      rounded to group elements, from which the ascent of `universe` goes on.
    - `merge-many`: in a random order, each model is matched to the mean of the others, until none moves.
    - `star`: each model is matched to the reference, and no attention is paid to the other pairs.

    Args:
        models: at least one, of one architecture.
        symmetry: the group of their network.
        method: see above.
        reference: the number of the model whose order of units all get: its alignment moves nothing.
        restarts: how many starting points; the first is the method's own, the others are random group
            elements; the result with the largest objective is kept.
        seed: of the random orders and starting points.
        max_sweeps: the limit of sweeps over all models and axes for each start.
        fanout: where the starts run.
        progress: shows sweeps, with the objective; silent by default, and where starts are spread.

    Returns:
        One alignment a model: use `alignments[k].apply(models[k])`. The objective of each is the whole sum
        Σ_{i<j} ⟨g_i θ_i, g_j θ_j⟩, the same for all, and so are its history over sweeps and its outcome.

    Raises:
        SettingError: there are no models, there is no such method or reference, or `restarts` or `max_sweeps`
            is below 1.
        SymmetryError: the weights do not fit the symmetry's network.

    Example:
        >>> import torch, isthmus.symmetry as s
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> group, a = s.discover(net, torch.zeros(1, 2)), Weights.from_module(net)
        >>> b = s.Alignment(group, {"0.weight[0]": torch.tensor([1, 2, 0])}).apply(a)
        >>> [found.permutations["0.weight[0]"].tolist() for found in match_many([a, b], group)]
        [[0, 1, 2], [2, 0, 1]]

    Limits: a local optimum, and which one depends on `seed`. It does not depend on the order of the list, as
    models are visited in an order of their contents; `star` and the common frame depend on the reference.

    Cost: one aligned copy a model, and for the tensors that one step reads the sum of the others.

    Source: Ainsworth et al. 2023 (arXiv 2209.04836), Algorithm 3; Crisostomi et al. 2024 (arXiv 2405.17897).
    """
    _require(len(models), reference, restarts, max_sweeps)
    if method not in get_args(Method):
        raise SettingError(
            f"the method must be one of {', '.join(map(repr, get_args(Method)))}, but it is {method!r}"
        )
    for model in models:
        symmetry.check(model)
    # For an answer that does not depend on the order of the list, the models get an order of their own.
    order = sorted(range(len(models)), key=lambda number: models[number].digest())
    shown = progress if progress is not None and fanout.workers == 1 else Silent()
    settings = _Settings(symmetry, method, restarts, seed, max_sweeps, shown)
    if method == "star":
        best = _star(settings, models, reference, restarts, fanout)
        return _in_frame(symmetry, best, range(len(models)), reference)
    starts = fanout.map(partial(_from_start, settings, [models[n] for n in order]), range(restarts))
    return _in_frame(symmetry, max(starts, key=_objective), order, reference)


def match_many_scores(
    scores: Mapping[tuple[int, int], Mapping[str, Tensor]],
    symmetry: Symmetry,
    models: int,
    *,
    reference: int = 0,
    restarts: int = 1,
    seed: int = 0,
    max_sweeps: int = 100,
) -> list[Alignment]:
    """Align the units of several models with one another by given similarities of their units.

    Maximises Σ_{i<j} Σ_axis Σ_u S_ij[axis][p_i(u), p_j(u)] with p_i the permutation of model i, from a star:
    one model after the other is given the best element for the others as they are, until none moves.

    Args:
        scores: for each pair i < j of models, axis name -> S_ij of shape (size, size): S_ij[u, v] is the
            similarity of unit u of model i and unit v of model j, as each of them comes. An axis that is
            missing counts as zeros.
        symmetry: the group of their network.
        models: how many there are, k.
        reference: as in `match_many`.
        restarts: as in `match_many`.
        seed: as in `match_many`.
        max_sweeps: as in `match_many`.

    Returns:
        One alignment a model, as from `match_many`; the objective is the maximised sum.

    Raises:
        SettingError: a pair is missing, or is no pair i < j below k; an axis is unknown, or its matrix has
            another shape than (size, size).

    Limits: exact for each model in turn where every axis has at most one parent; jointly a local optimum.
    """
    _require(models, reference, restarts, max_sweeps)
    both = _both_ways(scores, symmetry, models)
    found = [
        _by_scores(both, symmetry, models, reference, (seed, start), max_sweeps) for start in range(restarts)
    ]
    return _in_frame(symmetry, max(found, key=_objective), range(models), reference)


def match_many_activations(
    models: Sequence[Weights],
    symmetry: Symmetry,
    landscape: Landscape,
    *,
    statistic: Statistic = "correlation",
    where: Where = "activation",
    examples: int | None = 5000,
    reference: int = 0,
    restarts: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Alignment]:
    """Align the units of several models with one another by what they do on training data.

    All models run side by side through the data once; the scores of all their pairs are maximised jointly, as
    by `match_many_scores`.

    Args:
        models: at least one, of the landscape's network.
        symmetry: its group.
        landscape: gives the network and the training data.
        statistic: as in `match_activations`.
        where: as in `match_activations`.
        examples: as in `match_activations`.
        reference: as in `match_many`.
        restarts: as in `match_many`.
        seed: as in `match_many`.
        progress: shows the batches.

    Returns:
        One alignment a model, as from `match_many`; the objective is the sum over pairs, axes and units.

    Cost: a forward pass of every model; memory for one matrix for each pair of models and place of an axis.
    """
    scores = ActivationMatcher(symmetry, landscape, statistic, where, examples).scores(models, progress)
    return match_many_scores(scores, symmetry, len(models), reference=reference, restarts=restarts, seed=seed)


def mean_of(
    models: Sequence[Weights], alignments: Sequence[Alignment], landscape: Landscape | None = None
) -> Weights:
    """The mean of aligned models: one model of the same architecture.

    Args:
        models: as given to `match_many`.
        alignments: one for each.
        landscape: measures batch-norm statistics anew, by its policy; without it the mean has no buffers.

    Raises:
        SettingError: there are not as many alignments as models, or none.
        SymmetryError: a model does not fit its alignment's network.
    """
    if not models or len(models) != len(alignments):
        raise SettingError(
            f"expected an alignment for each model, got {len(models)} models and {len(alignments)} alignments"
        )
    aligned = [each.apply(model) for each, model in zip(alignments, models, strict=True)]
    mean = combine([1 / len(aligned)] * len(aligned), aligned)
    return mean if landscape is None else landscape.settled([mean])


# -- by weights -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Settings:
    """What every start of a matching by weights is told."""

    symmetry: Symmetry
    method: Method
    restarts: int
    seed: int
    max_sweeps: int
    progress: Progress


def _from_start(settings: _Settings, models: Sequence[Weights], start: int) -> Found:
    """What one starting point leads to."""
    symmetry, generator = settings.symmetry, seeded(settings.seed, "many", start)
    name = f"matching {len(models)} models" + (f", start {start + 1}" if settings.restarts > 1 else "")
    still = [symmetry.identity().permutations for _ in models]
    first: Sequence[_Element] = [symmetry.random(generator).permutations for _ in models] if start else still
    if settings.method == "frank-wolfe":
        first = frank_wolfe(symmetry, models, first, _STEPS, settings.progress, f"{name}, relaxed")
    if settings.method == "universe" and not start:
        first = _star(settings, models, 0, 1, Serial()).permutations
    universe = Universe(symmetry, models, first)
    if not start and universe.objective < (as_given := Universe(symmetry, models, still)).objective:
        universe = as_given
    whole = settings.method == "merge-many"
    return ascend(universe, settings.max_sweeps, generator, settings.progress, name, whole)


def _star(
    settings: _Settings, models: Sequence[Weights], centre: int, restarts: int, fanout: Fanout
) -> Found:
    """Every model matched to one of them."""
    symmetry = settings.symmetry
    found = [symmetry.identity()] * len(models)
    with settings.progress.bar(f"matching to model {centre + 1}", len(models)) as bar:
        for number, model in enumerate(models):
            if number != centre:
                found[number] = match_weights(
                    models[centre], model, symmetry, restarts=restarts, seed=settings.seed,
                    max_sweeps=settings.max_sweeps, fanout=fanout,
                )  # fmt: skip
            bar(number + 1)
    permutations = [each.permutations for each in found]
    objective = Universe(symmetry, models, permutations).objective
    limited = any(each.outcome is Outcome.SWEEP_LIMIT for each in found)
    outcome = Outcome.SWEEP_LIMIT if limited else Outcome.CONVERGED
    return Found(permutations, objective, outcome, (objective,))


# -- by scores ------------------------------------------------------------------------------------


def _both_ways(
    scores: Mapping[tuple[int, int], Mapping[str, Tensor]], symmetry: Symmetry, models: int
) -> dict[tuple[int, int], dict[str, Tensor]]:
    """The scores of every ordered pair, in float64, after making sure that they fit."""
    pairs = {(i, j) for j in range(models) for i in range(j)}
    if scores.keys() != pairs:
        odd = sorted(scores.keys() ^ pairs)[0]
        raise SettingError(
            f"expected scores for the {len(pairs)} pairs i < j of {models} models, but the pair {odd} is "
            f"{'missing' if odd in pairs else 'none of them'}"
        )
    sizes = {axis.name: axis.size for axis in symmetry.axes}
    both: dict[tuple[int, int], dict[str, Tensor]] = {}
    for (i, j), found in scores.items():
        for name, matrix in found.items():
            if name not in sizes or matrix.shape != (sizes[name], sizes[name]):
                wanted = f"[{sizes[name]}, {sizes[name]}]" if name in sizes else "none: there is no such axis"
                raise SettingError(
                    f"the scores of models {i} and {j} for the axis {name!r} have shape "
                    f"{list(matrix.shape)}, expected {wanted}"
                )
        both[i, j] = {name: matrix.double() for name, matrix in found.items()}
        both[j, i] = {name: matrix.T for name, matrix in both[i, j].items()}
    return both


def _by_scores(
    both: Mapping[tuple[int, int], Mapping[str, Tensor]],
    symmetry: Symmetry,
    models: int,
    centre: int,
    seed: tuple[int, int],
    max_sweeps: int,
) -> Found:
    """Ascent over the models from one starting point."""
    generator = seeded(seed[0], "many", "scores", seed[1])
    elements: list[_Element] = [symmetry.identity().permutations for _ in range(models)]
    if seed[1]:
        elements = [symmetry.random(generator).permutations for _ in range(models)]
    elif _worth(both, star := _star_of_scores(both, symmetry, elements, centre)) > _worth(both, elements):
        elements = star
    scale = math.fsum(float(m.abs().amax(1).sum()) for found in both.values() for m in found.values())
    waiting = set(range(models)) if models > 1 else set[int]()
    history = [_worth(both, elements)]
    while waiting and len(history) <= max_sweeps:
        for member in torch.randperm(models, generator=generator).tolist():
            if member not in waiting:
                continue
            waiting.discard(member)
            total = _towards(both, elements, member, set(range(models)) - {member})
            step = symmetry.nearest(total, maximising_assignment).permutations
            if _chosen(total, step) - _chosen(total, elements[member]) > _GAIN * scale:
                elements[member] = step
                waiting |= set(range(models)) - {member}
        history.append(_worth(both, elements))
    outcome = Outcome.SWEEP_LIMIT if waiting else Outcome.CONVERGED
    return Found(elements, history[-1], outcome, tuple(history))


def _star_of_scores(
    both: Mapping[tuple[int, int], Mapping[str, Tensor]],
    symmetry: Symmetry,
    still: Sequence[_Element],
    centre: int,
) -> list[_Element]:
    return [
        element
        if number == centre
        else symmetry.nearest(_towards(both, still, number, {centre}), maximising_assignment).permutations
        for number, element in enumerate(still)
    ]


def _towards(
    both: Mapping[tuple[int, int], Mapping[str, Tensor]],
    elements: Sequence[_Element],
    member: int,
    others: Collection[int],
) -> dict[str, Tensor]:
    """Axis name -> scores[u, v]: what it is worth to bring the member's unit v to place u."""
    total: dict[str, Tensor] = {}
    for other in sorted(others):
        for name, matrix in both[member, other].items():
            worth = matrix[:, elements[other][name]].T
            total[name] = total[name] + worth if name in total else worth
    return total


def _worth(both: Mapping[tuple[int, int], Mapping[str, Tensor]], elements: Sequence[_Element]) -> float:
    """Σ_{i<j} Σ_axis Σ_u S_ij[p_i(u), p_j(u)]."""
    return math.fsum(
        float(matrix[elements[i][name], elements[j][name]].sum())
        for (i, j), found in both.items()
        if i < j
        for name, matrix in found.items()
    )


def _chosen(scores: Mapping[str, Tensor], element: _Element) -> float:
    """The sum of the scores that an element picks."""
    return math.fsum(
        float(matrix[torch.arange(len(matrix)), element[name]].sum()) for name, matrix in scores.items()
    )


# -- of both --------------------------------------------------------------------------------------


def _require(models: int, reference: int, restarts: int, max_sweeps: int) -> None:
    if models < 1:
        raise SettingError("there are no models to match; give at least one")
    if not 0 <= reference < models:
        raise SettingError(
            f"the reference must be the number of a model, from 0 to {models - 1}, but it is {reference}"
        )
    if restarts < 1 or max_sweeps < 1:
        raise SettingError(
            f"restarts and max_sweeps must be at least 1, but they are {restarts} and {max_sweeps}"
        )


def _objective(found: Found) -> float:
    return found.objective


def _in_frame(symmetry: Symmetry, found: Found, order: Sequence[int], reference: int) -> list[Alignment]:
    """The alignments in the order of the list, all turned so that the reference's moves nothing."""
    elements = dict(zip(order, found.permutations, strict=True))
    back = {name: p.argsort() for name, p in elements[reference].items()}
    return [
        Alignment(
            symmetry,
            {name: p[back[name]] for name, p in elements[number].items()},
            found.objective,
            found.outcome,
            found.history,
        )
        for number in range(len(order))
    ]

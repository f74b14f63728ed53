"""Activation matching: units are alike that do alike on data.

One pass of the data serves all axes and all models: the networks run side by side, operation by operation,
and wherever hidden units appear (see `isthmus.symmetry.activations`) their moments are merged into one
matrix an axis. No activation outlives the operations that read it.

Source: Li et al. 2015, "Convergent Learning" (arXiv 1511.07543); Tatro et al. 2020 (arXiv 2009.02439),
section 3; Ainsworth et al. 2023 (arXiv 2209.04836), section 3.1; Jordan et al. 2023 (arXiv 2211.08403).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor

from isthmus.errors import DataError, SettingError
from isthmus.landscape import Landscape
from isthmus.landscape.dataset import Batch, to_device
from isthmus.match.abstract import AbstractMatcher
from isthmus.match.assignment import maximising_assignment
from isthmus.progress import Progress, Silent
from isthmus.repair.batchnorm import batchnorm_layers
from isthmus.stats import CrossMoments
from isthmus.symmetry import Alignment, Outcome, Symmetry
from isthmus.symmetry.activations import Activations, Lane, Site, trace_activations
from isthmus.symmetry.export import Inputs
from isthmus.weights import Weights

Statistic = Literal["correlation", "covariance", "product"]
Where = Literal["activation", "preactivation"]

PUBLISHED: Mapping[str, tuple[Statistic, Where]] = MappingProxyType(
    {
        "Tatro et al. 2020": ("correlation", "activation"),
        "Jordan et al. 2023": ("correlation", "activation"),
        "Ainsworth et al. 2023": ("product", "activation"),
    }
)
"""The published settings: (statistic, where)."""

# Two orders of units are equally good if their scores differ by less than the rounding of single precision.
_TIE = 1e-7


def match_activations(
    a: Weights,
    b: Weights,
    symmetry: Symmetry,
    landscape: Landscape,
    *,
    statistic: Statistic = "correlation",
    where: Where = "activation",
    examples: int | None = 5000,
    progress: Progress | None = None,
) -> Alignment:
    """Align the units of one model with those of another by what they do on training data.

    Of every axis the scores s_ij say how unit i of A and unit j of B vary together over examples (and pixels
    or tokens), summed over the tensors that carry the axis: a residual stream counts wherever it is read.
    The group element that maximises Σ_i s_i,p(i) is exact where axes have one parent at most: one assignment
    an axis, no sweeps, no seed. An axis without tensors of its own (attention heads) is decided by what lies
    below it (the heads' outputs, queries and keys).

    Args:
        a: the weights that stay.
        b: the weights that are to be brought to `a`: use `alignment.apply(b)`.
        symmetry: the group of their network.
        landscape: gives the network and the training data; its batch is the size of a step.
        statistic: "correlation" (standardised: every unit counts alike), "covariance" (centred), or
            "product" (neither). `PUBLISHED` names what the papers use.
        where: "activation" is what the next layer reads; "preactivation" is what the nonlinearities read (on
            an axis without any, as a residual stream between norms is, also what the next layer reads).
        examples: how many training examples, a fixed random subset; None for all. An incomplete last batch
            is left out.
        progress: shows the batches.

    Returns:
        The alignment. Its objective is Σ over axes and units of the chosen scores; the identity is kept if
        no other element is better.

    Raises:
        SettingError: `statistic` or `where` is unknown, or `examples` is below 2.
        SymmetryError: the weights do not fit, or the network cannot be traced on its data.
        DataError: the training split has too few examples.

    Limits: padded tokens count as samples.

    Cost: a forward pass of both models, and products of (n × samples) matrices. Memory: the activations of
    one batch, and 8 n² bytes for each place of an axis of n units, whatever the number of examples.

    Source: Li et al. 2015 (arXiv 1511.07543) for the matching; Tatro et al. 2020, section 3, for residual
    streams.
    """
    return ActivationMatcher(symmetry, landscape, statistic, where, examples).match(a, b, progress)


@dataclass(frozen=True)
class ActivationMatcher(AbstractMatcher):
    """Activation matching with its settings; see `match_activations`."""

    symmetry: Symmetry
    landscape: Landscape
    statistic: Statistic = "correlation"
    where: Where = "activation"
    examples: int | None = 5000

    def __post_init__(self) -> None:
        for value, kind in ((self.statistic, Statistic), (self.where, Where)):
            if value not in get_args(kind):
                known = ", ".join(map(repr, get_args(kind)))
                raise SettingError(f"activation matching knows {known}, got {value!r}")
        if self.examples is not None and self.examples < 2:
            raise SettingError(f"activation matching needs 2 examples at least, got {self.examples}")

    def match(self, fixed: Weights, moving: Weights, progress: Progress | None = None) -> Alignment:
        """The element of the group that brings the most similar units together."""
        scores = self.scores([fixed, moving], progress)[0, 1]
        found = self.symmetry.nearest(scores, maximising_assignment)
        still = self.symmetry.identity()
        start, reached = (value_of(element, scores) for element in (still, found))
        best = found if reached > start + _TIE * max(abs(reached), abs(start)) else still
        value = max(start, reached) if best is found else start
        return Alignment(self.symmetry, best.permutations, value, Outcome.ASSIGNED, (start, value))

    def scores(
        self, models: Sequence[Weights], progress: Progress | None = None
    ) -> dict[tuple[int, int], dict[str, Tensor]]:
        """For each pair of models (i < j) and each axis, how units of i and units of j vary together.

        All models run side by side through the data once.

        Returns:
            (i, j) -> axis name -> float64 scores, shape (size, size), a row for each unit of model i. Axes
            that appear in no activation are left out.
        """
        for model in models:
            self.symmetry.check(model)
        found = cross_moments(models, self.symmetry, self.landscape, self.where, self.examples, progress)
        return {
            pair: {
                axis: sum_of(getattr(each, self.statistic) for each in sites) for axis, sites in axes.items()
            }
            for pair, axes in found.items()
        }


def value_of(element: Alignment, scores: Mapping[str, Tensor]) -> float:
    """Σ over axes and units i of scores[axis][i, p(i)]."""
    return math.fsum(
        float(matrix[torch.arange(len(matrix)), element.permutations[axis]].sum())
        for axis, matrix in scores.items()
    )


def sum_of(matrices: Iterable[Tensor]) -> Tensor:
    """The sum of matrices of one shape."""
    first, *others = matrices
    for other in others:
        first = first + other
    return first.cpu()


def cross_moments(
    models: Sequence[Weights],
    symmetry: Symmetry,
    landscape: Landscape,
    where: Where = "activation",
    examples: int | None = 5000,
    progress: Progress | None = None,
) -> dict[tuple[int, int], dict[str, list[CrossMoments]]]:
    """For each pair of models the joint moments of their units, wherever an axis appears.

    Args:
        models: weights of the landscape's network.
        symmetry: its group.
        landscape: gives the network and the training data.
        where: see `match_activations`.
        examples: see `match_activations`.
        progress: shows the batches.

    Returns:
        (i, j) with i < j -> axis -> the moments at each place, in the order of the graph.
    """
    models = [with_statistics(model, landscape).to(landscape.network.device) for model in models]
    pairs = list(itertools.combinations(range(len(models)), 2))
    held = _Held(pairs)
    split = landscape.task.split("train")
    total = split.steps_per_epoch(landscape.batch) + 1
    total = min(total, -(-examples // landscape.batch)) if examples else total
    traced: Activations | None = None
    with (progress or Silent()).bar("activations", total) as bar:
        for number, batch in enumerate(split.even_batches(landscape.batch, examples), start=1):
            inputs = inputs_of(batch)
            if traced is None:  # where the task's own module is; the run is where the models are
                traced = trace_activations(landscape.task.traceable, inputs, symmetry)
                for site in chosen_sites(traced, symmetry, where):
                    held.sites.setdefault(site.node, []).append(site)
            inputs = to_device(inputs, landscape.network.device)
            traced.run([Lane(model, inputs) for model in models], held.look, frozenset(held.sites))
            bar(number)
    if any(moments.first.count < 2 for moments in held.moments.values()):
        raise DataError("activations of one example tell nothing: activation matching needs 2 at least")
    if broken := held.unseen():
        raise DataError(
            f"the activations of the axis {broken} are nowhere finite in one of the models: look for weights "
            "or inputs that are not"
        )
    joint: dict[tuple[int, int], dict[str, list[CrossMoments]]] = {pair: {} for pair in pairs}
    for (i, j, axis, *_), moments in held.moments.items():
        joint[i, j].setdefault(axis, []).append(moments)
    return joint


@dataclass
class _Held:
    """What is kept of the activations: the joint moments of each pair of models at each site."""

    pairs: Sequence[tuple[int, int]]
    sites: dict[str, list[Site]] = field(default_factory=dict)
    moments: dict[tuple[int, int, str, str, tuple[int, ...]], CrossMoments] = field(default_factory=dict)
    seen: dict[tuple[str, str, tuple[int, ...]], bool] = field(default_factory=dict)

    def look(self, node: str, tensors: list[Tensor]) -> None:
        """Take in one batch's outputs of a node, one a model."""
        for site in self.sites[node]:
            rows = [site.rows(_real(tensor)) for tensor in tensors]
            where = (site.axis, node, site.dims)
            found = {(i, j): CrossMoments.of_rows(rows[i], rows[j]) for i, j in self.pairs}
            finite = all(bool(each.cross.isfinite().all()) for each in found.values())
            self.seen[where] = self.seen.get(where, False) or finite
            if not finite:  # logits under a mask, say: what is infinite tells nothing
                known = torch.stack([each.isfinite() for each in rows]).all(0)
                self.seen[where] |= bool(known.any())
                rows = [each.where(known, 0) for each in rows]
                found = {(i, j): CrossMoments.of_rows(rows[i], rows[j]) for i, j in self.pairs}
            for (i, j), moments in found.items():
                key = (i, j, *where)
                self.moments[key] = self.moments[key].merge(moments) if key in self.moments else moments

    def unseen(self) -> str | None:
        """The first axis that has a place, and is not finite at any of them."""
        found: dict[str, bool] = {}
        for (axis, *_), seen in self.seen.items():
            found[axis] = found.get(axis, False) or seen
        return next((axis for axis, seen in found.items() if not seen), None)


def chosen_sites(traced: Activations, symmetry: Symmetry, where: Where) -> list[Site]:
    """The sites that count for each axis; all of them where none is read or squashed."""
    found: list[Site] = []
    for axis in symmetry.axes:
        own = [site for site in traced.sites if site.axis == axis.name]
        read = [site for site in own if site.read]
        squashed = [site for site in own if site.squashed]
        preferred = squashed or read if where == "preactivation" else read or squashed
        found += preferred or _without_copies(own)
    return found


def _without_copies(sites: Sequence[Site]) -> list[Site]:
    """Of sites that nothing singles out, the first and the last: the rest moves data between."""
    return [sites[0], sites[-1]] if len(sites) > 1 else list(sites)


def _real(tensor: Tensor) -> Tensor:
    """Real numbers of single precision at least; the parts of complex ones are further samples."""
    if tensor.is_complex():
        return torch.view_as_real(tensor.resolve_conj())
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def with_statistics(model: Weights, landscape: Landscape) -> Weights:
    """The model, its batch-norm statistics measured if it has none of its own."""
    layers = batchnorm_layers(landscape.network.module)
    if all(f"{name}.running_mean".lstrip(".") in model.buffers for name in layers):
        return model
    return landscape.settled([model])


def inputs_of(batch: Batch) -> Inputs:
    """What the model takes of a batch."""
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if name != "labels"}
    return tuple(batch[:-1])

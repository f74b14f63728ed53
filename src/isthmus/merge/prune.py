"""Pruning by fusion: a wide network is carried into its own narrow version, and averaged with it.

Source: Singh & Jaggi 2020, "Model Fusion via Optimal Transport" (arXiv 1910.05653), section 5.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isthmus.errors import SettingError, SymmetryError
from isthmus.merge.fusion import Model, fuse, module_of, require_same_structure, symmetries_of
from isthmus.merge.grounds import importance
from isthmus.merge.roles import Roles
from isthmus.merge.softmap import SoftMap
from isthmus.symmetry import Axis
from isthmus.symmetry.action import members_of
from isthmus.symmetry.export import Inputs
from isthmus.weights import Weights


def prune_by_fusion(
    a: Weights, network_a: Model, network_b: Model, example: Inputs, *, share: float = 0.5, **settings: Any
) -> Weights:
    """A narrow network from a wide one: its most important units, fused with what all of A is carried to.

    (1 - share) T(θ_A) + share θ_N, where N keeps the units of A with the largest norms (see `narrowed`) and T
    carries A to N's units (see `fuse`).

    Args:
        a: weights of the wide network.
        network_a: the wide network.
        network_b: the narrow one; only its shapes matter.
        example: inputs of both, for tracing.
        share: the share of the narrow version, in [0, 1]; 1 is plain pruning.
        settings: as for `fuse`.

    Raises:
        SettingError: a setting is unknown or outside its range, or an axis is wider in the narrow network.
        SymmetryError: the networks differ in more than widths.

    Source: Singh & Jaggi 2020 (arXiv 1910.05653), section 5.3.
    """
    narrow = narrowed(a, network_a, network_b, example)
    return fuse(a, narrow, network_a, network_b, example, share=share, **settings)


def narrowed(a: Weights, network_a: Model, network_b: Model, example: Inputs) -> Weights:
    """The units of A with the largest norms, in their order, as weights of a narrower network.

    The norm of a unit is that of all its slices, incoming and outgoing. Of units in heads or groups, whole
    heads are kept first, and then the units with the largest norms in each. Nothing is rescaled.

    Args:
        a: weights of the wide network.
        network_a: the wide network.
        network_b: the narrow one; only its shapes matter.
        example: inputs of both, for tracing.

    Raises:
        SettingError: an axis is wider in the narrow network.
        SymmetryError: the networks differ in more than widths.
    """
    source, target = symmetries_of((module_of(network_a), module_of(network_b)), example)
    source.check(a)
    require_same_structure(source, target)
    norms = importance(a, source)
    kept: dict[str, Tensor] = {}
    for old, new in zip(source.axes, target.axes, strict=True):
        kept[new.name] = _largest(old, new, norms[old.name], kept)
    plans = {
        old.name: torch.zeros(old.size, new.size, dtype=torch.float64).index_put_(
            (kept[new.name], torch.arange(new.size)), torch.tensor(1.0, dtype=torch.float64)
        )
        / new.size
        for old, new in zip(source.axes, target.axes, strict=True)
    }
    nothing = Roles(frozenset(), frozenset(), frozenset())
    return SoftMap(source, target, plans, {}, nothing, "published").apply(a)


def _largest(old: Axis, new: Axis, norms: Tensor, kept: dict[str, Tensor]) -> Tensor:
    """For each of the narrow network's units one of the wide one's."""
    if old.size < new.size:
        raise SettingError(
            f"{new.name} has {new.size} units, more than the {old.size} that it should be cut from"
        )
    chosen = torch.empty(new.size, dtype=torch.int64)
    cells = {tuple(int(at[units[0]]) for _, at in old.parents): units for units in members_of(old)}
    for places in members_of(new):
        above = tuple(int(kept[name][at[places[0]]]) for name, at in new.parents)
        units = cells.get(above)
        if units is None or len(units) < len(places):
            raise SymmetryError(
                f"{old.name} has fewer units in one of the units that hold them than {new.name}"
            )
        best = units[norms[units].argsort(descending=True, stable=True)[: len(places)]]
        chosen[places] = best.sort().values
    return chosen

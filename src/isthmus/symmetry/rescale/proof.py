"""Numerical proof that rescalings leave a network's function as it is, with a control.

As `isthmus.symmetry.verify`: on a float64 copy whose constant parameters are drawn afresh, random elements
are applied and the outputs compared. A network is an analytic function of positive scales on each piece, so
that one random element tells a wrong group almost surely; of sign flips one random element tells it with a
chance of one half at least, and ten are drawn. The control applies one coordinate, leaves one touched
parameter (or, where there is only one, half of its elements) out, and expects the outputs to change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from isthmus.symmetry.rescale.group import Rescaling
from isthmus.symmetry.verify import Control, Probe, Verification, larger

_DRAWS = {"positive": 2, "sign": 10}
# Every control is a forward pass in float64: with more of them, proof would cost more than discovery.
_CONTROLS = 8
_WRONG = 32


class RescalingProbe(Probe):
    """A float64 copy of a module whose outputs are compared before and after it is rescaled."""

    def change(self, multipliers: Mapping[str, Tensor]) -> float:
        """The relative change of the outputs when tensors are multiplied."""
        touched = {name: factor for name, factor in multipliers.items() if name in self.tensors}
        return self.change_with({name: self.originals[name] * factor for name, factor in touched.items()})


def prove(probe: RescalingProbe, group: Rescaling, failed: tuple[str, ...] = ()) -> Verification:
    """Apply random elements and compare; then at most eight controls, spread evenly over the coordinates."""
    error = 0.0
    for coordinates in _elements(group, probe.generator, torch.ones(group.dimension, dtype=torch.bool)):
        error = larger(error, _error(probe, group, coordinates))
    count = min(group.dimension, _CONTROLS)
    chosen = [number * group.dimension // count for number in range(count)]
    controls = tuple(_control(probe, group, number) for number in chosen)
    return Verification(error, probe.tolerance, tuple(probe.reference), controls, failed)


def wrong_coordinates(probe: RescalingProbe, group: Rescaling) -> list[int]:
    """The coordinates that change the outputs, by halving; all of them if there are many."""
    found: list[int] = []
    waiting = [list(range(group.dimension))]
    while waiting:
        part = waiting.pop()
        chosen = torch.zeros(group.dimension, dtype=torch.bool)
        chosen[part] = True
        elements = _elements(group, probe.generator, chosen)
        if all(_error(probe, group, element) <= probe.tolerance for element in elements):
            continue
        if len(part) == 1:
            found += part
        else:
            half = len(part) // 2
            waiting += [part[half:], part[:half]]
        if len(found) > _WRONG:
            return list(range(group.dimension))
    return sorted(found) or list(range(group.dimension))


def _elements(group: Rescaling, generator: torch.Generator, chosen: Tensor) -> Iterator[Tensor]:
    """Random elements that act by the chosen coordinates alone; the first one by all of them."""
    if not bool(chosen.any()):
        return
    for number in range(_DRAWS[group.kind] if int(chosen.sum()) > 1 else 1):
        drawn = group.random(generator).coordinates
        if group.kind == "sign" and not number:
            drawn = torch.ones_like(drawn)
        yield torch.where(chosen, drawn, torch.zeros_like(drawn))


def _error(probe: RescalingProbe, group: Rescaling, coordinates: Tensor) -> float:
    return probe.change(group.multipliers(group.element(coordinates)))


def _control(probe: RescalingProbe, group: Rescaling, number: int) -> Control:
    """Apply one coordinate without the largest tensor that it touches."""
    coordinates = torch.zeros(group.dimension, dtype=torch.float64)
    coordinates[number] = 1.0
    multipliers = group.multipliers(group.element(coordinates))
    name = place_name(group, number)
    largest = max(sorted(multipliers), key=lambda each: math.prod(probe.tensors[each].shape))
    if len(multipliers) > 1:
        del multipliers[largest]
    else:
        multipliers[largest] = _half(multipliers[largest].expand(probe.tensors[largest].shape))
    return Control(name, largest, probe.change(multipliers))


def _half(factor: Tensor) -> Tensor:
    """The factor on the first half of the elements that it changes."""
    changed = (factor != 1).reshape(-1).nonzero()[:, 0]
    kept = factor.clone().reshape(-1)
    kept[changed[changed.numel() // 2 :]] = 1
    return kept.view(factor.shape)


def place_name(group: Rescaling, number: int) -> str:
    """A coordinate by its number and the first place at which it acts."""
    parameter, axis, _ = group.carriers[number][0]
    return f"{parameter}[{axis}]#{number}"

"""Folding: a change of a layer's channels, scale · x + shift, made in the layer's own parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.merge.statistics import Layer
from isthmus.weights import Weights

_NOISE = 16
"""A channel that varies by less than so many roundings of its mean does not vary."""


@dataclass(frozen=True, eq=False)
class Change:
    """scale · x + shift for every channel x of a layer.

    Attributes:
        scale: shape (channels,), float64.
        shift: likewise.
        varies: whether the channel varied before, shape (channels,).
    """

    scale: Tensor
    shift: Tensor
    varies: Tensor

    def apply(self, output: Tensor, channel: int) -> Tensor:
        """The changed output of a layer, whose channels lie along this dimension."""
        view = [-1 if dim == channel else 1 for dim in range(output.dim())]
        return output * self.scale.to(output).view(view) + self.shift.to(output).view(view)


def varying(layer: Layer, mean: Tensor, std: Tensor) -> Tensor:
    """Which channels vary by more than rounding errors do, shape (channels,)."""
    return std > _NOISE * layer.rounding * mean.abs()


def change_of(layer: Layer, now: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> Change:
    """What takes the hidden channels of a layer from their mean and deviation to the wanted ones.

    Where the layer has no bias there is no shift, and the mean is scaled with the rest.
    A channel that does not vary keeps its scale: there is nothing that could be scaled up, and rounding
    errors must not be. One whose parents do not vary becomes constant, as theirs are.
    """
    mean, std = now
    hidden = torch.zeros(mean.shape, dtype=torch.bool)
    hidden[layer.hidden] = True
    varies = varying(layer, mean, std)
    scale = torch.where(hidden & varies, wanted[1] / torch.where(varies, std, 1), 1)
    shift = torch.where(hidden, wanted[0] - scale * mean, 0)
    if layer.writer.bias is None:
        shift = torch.zeros_like(shift)
    return Change(scale, shift, varies)


class Folded:
    """A copy of some weights, into which changes of layers are folded.

    Attributes:
        weights: the copy, with all changes so far.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = Weights(weights.layout, weights.vector.clone(), weights.buffers)

    def take(self, layer: Layer, change: Change, now: tuple[Tensor, Tensor] | None) -> None:
        """Fold a change in: the weight's slices by the scale, the bias by both.

        Args:
            layer: the layer.
            change: of its channels.
            now: the mean and deviation of its output before the change, if they were measured. A batch-norm
                layer is then given the statistics of its input, so that measuring them anew changes nothing.
        """
        writer = layer.writer
        if layer.statistics is not None and now is not None:
            self._true_statistics(layer, layer.statistics, now, change.varies)
        weight = self.weights[writer.weight]
        scale, shift = change.scale.to(weight.device), change.shift.to(weight.device)
        view = [-1 if dim == writer.dim else 1 for dim in range(weight.dim())]
        weight.copy_(weight.double() * scale.view(view))
        if writer.bias is not None:
            bias = self.weights[writer.bias]
            bias.copy_(bias.double() * scale + shift)

    def _true_statistics(self, layer: Layer, prefix: str, now: tuple[Tensor, Tensor], varies: Tensor) -> None:
        """Put the mean and variance of a batch norm's input in place of its running ones; its output stays.

        y = γ (x − m) / √(v + ε) + β is solved for the mean and variance of x, and γ and β are changed so that
        y is the same function of x.
        """
        assert layer.writer.bias is not None, "a batch-norm layer of torch.nn has both parameters or none"
        gain, offset = self.weights[layer.writer.weight], self.weights[layer.writer.bias]
        buffers = dict(self.weights.buffers)
        names = prefix + "running_mean", prefix + "running_var"
        mean, variance = (buffers[name].double() for name in names)
        output_mean, output_std, varies = (each.to(gain.device) for each in (*now, varies))
        slope = gain.double() / (variance + layer.eps).sqrt()
        safe = torch.where(varies, slope, 1)
        true = (
            torch.where(varies, mean + (output_mean - offset.double()) / safe, mean),
            torch.where(varies, (output_std / safe).square(), variance),
        )
        buffers |= {name: value.to(buffers[name].dtype) for name, value in zip(names, true, strict=True)}
        # From here on as the buffers hold them, rounding included: the function must not change.
        new_mean, new_variance = (buffers[name].double() for name in names)
        offset.copy_(offset.double() + slope * (new_mean - mean))
        gain.copy_(slope * (new_variance + layer.eps).sqrt())
        self.weights = self.weights.with_buffers(buffers)

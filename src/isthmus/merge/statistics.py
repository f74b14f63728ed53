"""Means and standard deviations of channels, for several networks on the same examples at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from isthmus.errors import DataError, SettingError
from isthmus.landscape import Landscape
from isthmus.landscape.dataset import to_device
from isthmus.match.activation import inputs_of
from isthmus.progress import Progress, Silent
from isthmus.repair.batchnorm import batchnorm_layers
from isthmus.symmetry import Symmetry, discover
from isthmus.symmetry.activations import Activations, Lane, Writer, trace_activations
from isthmus.symmetry.export import Inputs
from isthmus.symmetry.reading import NORMS
from isthmus.weights import Weights


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Means of channels, and what they vary together with the same channels of other networks.

    Attributes:
        count: samples of a channel: examples times places.
        mean: shape (networks, channels), float64, on the CPU.
        product: Σ (x_i − mean_i)(x_j − mean_j), shape (networks, networks, channels), likewise.
    """

    count: int
    mean: Tensor
    product: Tensor

    @classmethod
    def of_batch(cls, outputs: Sequence[Tensor], channel: int) -> ChannelMoments:
        """The moments of one batch.

        Args:
            outputs: of each network, of one shape.
            channel: the dimension that the channels lie along.
        """
        rows = [output.movedim(channel, 0).flatten(1).double() for output in outputs]
        means = [row.mean(1) for row in rows]
        centred = [row - mean[:, None] for row, mean in zip(rows, means, strict=True)]
        product = rows[0].new_empty(len(rows), len(rows), rows[0].shape[0])
        for i, x in enumerate(centred):
            for j, y in enumerate(centred[: i + 1]):
                product[i, j] = product[j, i] = torch.linalg.vecdot(x, y)
        return cls(rows[0].shape[1], torch.stack(means).cpu(), product.cpu())

    def merge(self, other: ChannelMoments) -> ChannelMoments:
        """The moments of both sets of samples together.

        Source: Chan, Golub, LeVeque 1983, eq. 2.1, with a product of two gaps in place of a square.
        """
        count = self.count + other.count
        gap = other.mean - self.mean
        between = gap[:, None] * gap[None] * (self.count * other.count / count)
        return ChannelMoments(
            count, self.mean + gap * (other.count / count), self.product + other.product + between
        )

    @property
    def covariance(self) -> Tensor:
        """Unbiased, shape (networks, networks, channels); zero for a single sample."""
        return self.product / max(self.count - 1, 1)

    @property
    def std(self) -> Tensor:
        """Standard deviations, shape (networks, channels)."""
        return self.covariance.diagonal().T.sqrt()

    def target(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """The means and the standard deviations, blended: each of shape (channels,)."""
        return shares @ self.mean, shares @ self.std

    def blended_std(self, shares: Tensor) -> Tensor:
        """The standard deviation of the blend of the networks' channels, shape (channels,).

        Of two, √((1−α)² σ_A² + α² σ_B² + 2 α (1−α) ρ σ_A σ_B).
        """
        variance = torch.einsum("i,ijc,j->c", shares, self.covariance, shares)
        return variance.clamp_min(0).sqrt()


def merged(parts: Sequence[ChannelMoments]) -> ChannelMoments:
    """The moments of all parts together, merged in their order."""
    return reduce(ChannelMoments.merge, parts)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that writes hidden units, as repair sees it.

    Attributes:
        writer: the layer in the traced graph.
        hidden: which of its channels are hidden units, shape (hidden,), ascending.
        statistics: the prefix of its running statistics' names, if it is a batch-norm layer that keeps any.
        eps: what such a layer adds to the variance.
        rounding: the relative rounding error of its values.
        refused: why it cannot be repaired; empty if it can.
    """

    writer: Writer
    hidden: Tensor
    rounding: float
    statistics: str | None = None
    eps: float = 0.0
    refused: str = ""


@dataclass(frozen=True, eq=False)
class Bench:
    """A network laid out for measuring: its layers, and the examples that they are measured on.

    Attributes:
        activations: the traced network.
        layers: the layers that write hidden units, in the order of the graph.
        batches: the inputs of the examples, in batches of one size.
        unwritten: the names of the axes that no such layer writes with real numbers.
    """

    activations: Activations
    layers: tuple[Layer, ...]
    batches: tuple[Inputs, ...]
    unwritten: tuple[str, ...]

    @property
    def examples(self) -> int:
        """On how many examples it measures."""
        return self.activations.batch * len(self.batches)

    def moments(
        self,
        networks: Sequence[Weights],
        layers: Sequence[Layer],
        progress: Progress | None = None,
        title: str = "measuring",
    ) -> dict[str, ChannelMoments]:
        """The moments of these layers' outputs, by their nodes: batch after batch, all networks on each.

        Memory: of one batch, whatever the number of examples.
        """
        named = {layer.writer.node: layer for layer in layers}
        found: dict[str, ChannelMoments] = {}

        def visit(node: str, outputs: list[Tensor]) -> None:
            part = ChannelMoments.of_batch(outputs, named[node].writer.channel)
            found[node] = found[node].merge(part) if node in found else part

        if not named:
            return found
        with (progress or Silent()).bar(title, len(self.batches)) as bar:
            for number, inputs in enumerate(self.batches, start=1):
                self.activations.run([Lane(each, inputs) for each in networks], visit, frozenset(named))
                bar(number)
        for node, layer in named.items():
            require_finite(layer, found[node])
        return found


def require_finite(layer: Layer, moments: ChannelMoments) -> None:
    """Refuse what has no statistics.

    Raises:
        DataError: a channel's mean or deviation is no finite number.
    """
    if not bool(moments.product.isfinite().all()):
        raise DataError(
            f"what the layer of {layer.writer.weight} gives on the training examples is not finite, so that "
            "it has no statistics; check the weights with .first_nonfinite()"
        )


def bench(landscape: Landscape, examples: int, symmetry: Symmetry | None = None) -> Bench:
    """Trace the network of a landscape, and fetch the training examples to measure on.

    Args:
        landscape: its task gives network and examples, its batch the largest batch.
        examples: how many; an incomplete last batch is dropped.
        symmetry: of the network; it is discovered if it is not given.

    Raises:
        SettingError: fewer than two examples are asked for.
        SymmetryError: the network cannot be traced.
    """
    if examples < 2:
        raise SettingError(f"statistics need at least 2 examples, got {examples}")
    task = landscape.task
    if symmetry is None:
        symmetry = discover(task.traceable, task.example)
    chosen = task.split("train").even_batches(landscape.batch, examples)
    batches = [inputs_of(batch) for batch in chosen]
    activations = trace_activations(task.traceable, batches[0], symmetry)
    layers = tuple(_layers(activations, landscape, symmetry))
    unwritten = _unwritten(layers, symmetry)
    moved = tuple(to_device(inputs, landscape.network.device) for inputs in batches)
    return Bench(activations, layers, moved, unwritten)


def _unwritten(layers: Sequence[Layer], symmetry: Symmetry) -> tuple[str, ...]:
    """The axes that no layer writes, neither their own units nor any inside them."""
    written = {name for layer in layers for name in layer.writer.axes}
    above = {axis.name: {name for name, _ in axis.parents} for axis in symmetry.axes}
    while more := {name for child in written for name in above[child]} - written:
        written |= more
    return tuple(axis.name for axis in symmetry.axes if axis.name not in written)


def _layers(activations: Activations, landscape: Landscape, symmetry: Symmetry) -> list[Layer]:
    """The layers that write hidden units, each with the reason if it cannot be repaired."""
    norms = batchnorm_layers(landscape.network.module)
    found = []
    for writer in activations.writers:
        weight = activations.reference[writer.weight]
        if weight.is_complex():  # it has no deviation that could be kept channel by channel as a real one is
            continue
        places = [
            place.index.flatten()
            for axis in symmetry.axes
            if axis.name in writer.axes
            for place in axis.places
            if (place.parameter, place.dim) == (writer.weight, writer.dim)
        ]
        hidden = torch.unique(torch.cat(places))
        owner = writer.weight.removesuffix("weight")
        norm = norms.get(owner.removesuffix(".")) if writer.operation == "batch_norm" else None
        prefix, eps = (owner, norm.eps) if norm else (None, 0.0)
        rounding = torch.finfo(weight.dtype).eps
        refused = _refused(writer, activations.reference)
        found.append(Layer(writer, hidden, rounding, prefix, eps, refused))
    return found


def _refused(writer: Writer, reference: Weights) -> str:
    """Why a layer cannot be repaired; empty if it can."""
    weight = reference[writer.weight]
    if writer.operation in NORMS and weight.dim() != 1:
        return "it normalises over several dimensions"
    if writer.bias is not None and reference[writer.bias].shape != (weight.shape[writer.dim],):
        return "its bias has not one number a channel"
    if writer.shared:
        return "its parameters are used more than once, and one change cannot suit two places"
    return "only norms read it, and are repaired in its place" if writer.normed else ""

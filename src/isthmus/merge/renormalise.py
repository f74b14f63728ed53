"""Repair: give a merged network's channels the means and standard deviations that its parents' have.

Channels of two networks that are blended are not perfectly correlated, so that the blend varies less than
either of them does:

    σ² = (1−α)² σ_A² + α² σ_B² + 2 α (1−α) ρ σ_A σ_B,

and layer after layer less. Every preactivation channel x of the merged network is replaced by
scale · x + shift, with mean (1−α) μ_A + α μ_B and standard deviation (1−α) σ_A + α σ_B. Scale and shift are
folded into the weight and the bias of the layer that writes the channel: the repaired network has the
architecture that it had.

Source: Jordan, Sedghi, Saukh, Entezari & Neyshabur 2023, "REPAIR: REnormalizing Permuted Activations for
Interpolation Repair" (arXiv 2211.08403), section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.landscape import Landscape
from isthmus.merge.folding import Folded, change_of, varying
from isthmus.merge.statistics import Bench, ChannelMoments, Layer, bench, merged, require_finite
from isthmus.progress import Progress, Silent
from isthmus.repair.batchnorm import BatchNormPolicy, batchnorm_layers
from isthmus.symmetry import Symmetry
from isthmus.symmetry.activations import Lane
from isthmus.symmetry.reading import NORMS
from isthmus.weights import Weights

Method = Literal["exact", "closed_form", "rescale"]
Done = Literal["mean and deviation", "deviation", "left as it was"]


@dataclass(frozen=True)
class LayerRepair:
    """What was done to one layer.

    Attributes:
        weight: the name of its weight.
        operation: such as `linear` or `batch_norm`.
        channels: how many of its channels are hidden units.
        done: what they were given.
        reason: why not more; empty where they were given both.
        constant: how many of them do not vary on the examples, in the merged network as it was: no scale can
            give them a standard deviation.
        before: the median over channels of the merged network's standard deviation over the wanted one.
        after: the same, of the repaired network. Both are measured; nan where no wanted one is above 0.
    """

    weight: str
    operation: str
    channels: int
    done: Done
    reason: str
    constant: int
    before: float
    after: float


@dataclass(frozen=True, eq=False, repr=False)
class Repair:
    """A repaired network, and what was done to it layer by layer.

    Attributes:
        weights: the repaired network, with its buffers.
        layers: in the order of the network.
        method: "exact", "closed_form" or "rescale".
        shares: of the parents in the merged network.
        examples: how many training examples the statistics rest on.
        unwritten: the names of hidden axes that no layer with a preactivation writes (those of embeddings and
            recurrent cells, say): nothing was repaired there.
    """

    weights: Weights
    layers: tuple[LayerRepair, ...]
    method: str
    shares: tuple[float, ...]
    examples: int
    unwritten: tuple[str, ...]

    def __repr__(self) -> str:
        changed = sum(layer.done != "left as it was" for layer in self.layers)
        return f"Repair({self.method}, {changed} of {len(self.layers)} layers, {self.examples} examples)"


def reset_batchnorm(weights: Weights, landscape: Landscape) -> Weights:
    """Measure a network's batch-norm statistics anew on training examples.

    Args:
        weights: any weights of the landscape's network, with or without buffers.
        landscape: gives the examples (`landscape.recalibration` of them); whatever its own policy is.

    Returns:
        The same coordinates, with buffers that a checkpoint can be saved with; the weights as they are if the
        network has no batch-norm layers with running statistics.

    Raises:
        DataError: a batch gives a layer a single value a channel.

    Limits: layers of `torch.nn`; a batch norm that is called as a function keeps what it has.

    Example:
        >>> import torch
        >>> from isthmus import Landscape, Task, Weights
        >>> net = torch.nn.Sequential(torch.nn.BatchNorm1d(1), torch.nn.Linear(1, 2))
        >>> data = (torch.tensor([[1.0], [3.0]]), torch.tensor([0, 1]))
        >>> landscape = Landscape(Task(model=net, train=data, test=data), batchnorm="keep")
        >>> reset_batchnorm(Weights.from_module(net), landscape).buffers["0.running_mean"]
        tensor([2.])

    Source: Jordan et al. 2023, arXiv 2211.08403, section 3; `isthmus.repair.batchnorm.recalibrate`.
    """
    if not batchnorm_layers(landscape.network.module):
        return weights
    always = replace(landscape, batchnorm=BatchNormPolicy.RECALIBRATE)
    return always.settled([weights])


def repair_activations(
    weights: Weights,
    parents: Sequence[Weights],
    landscape: Landscape,
    *,
    position: float | Sequence[float] = 0.5,
    method: Method = "exact",
    examples: int = 1000,
    symmetry: Symmetry | None = None,
    progress: Progress | None = None,
) -> Weights:
    """Give the channels of a merged network the means and deviations that its parents have (REPAIR).

    Args:
        weights: the merged network, (1−α) A + α B.
        parents: A and B, with B in A's order (`alignment.apply(b)`), as saved, buffers included; or more.
        landscape: its task gives the network and the training examples.
        position: α in [0, 1]; or one share a parent, which sum to 1.
        method: "exact" measures the merged network layer by layer, all earlier ones repaired. "closed_form"
            never runs it: it takes the channels of linear layers for the blends of the parents' channels,
            whose deviation follows from their correlation. "rescale" is "exact" for the deviation alone: a
            channel keeps the mean that it has.
        examples: training examples that the statistics are measured on (a fixed random subset).
        symmetry: of the network; it is discovered if it is not given.
        progress: shows what is being measured; silent by default.

    Returns:
        The repaired network, for evaluation with `Landscape(…, batchnorm="keep")`. Batch-norm statistics are
        measured, too, on the same examples ("closed_form": as by `reset_batchnorm`), so that measuring them
        anew changes little.

    Raises:
        SettingError: the method, the position or the number of examples is out of range, or a parent of a
            network with batch norm carries no statistics.
        DataError: a parent's activations are not finite.
        SymmetryError: the network cannot be traced.

    Limits: the layers are those that write hidden units, products and norms alike; channels that are no
    hidden units stay as they are, the outputs above all. A layer that only norms read is left to them, and a
    layer whose parameters are used more than once is left as it is. Without a bias the mean cannot be set: it
    is scaled with the rest. A channel that does not vary in the merged network keeps its scale. "closed_form"
    leaves norms alone: of what they write the correlation says nothing. A batch norm without scale and shift
    keeps the statistics that were measured before the layers in front of it were repaired. `measure_repair`
    tells which layer is which.
    Cost: a forward pass of each parent and, if measured, of the merged network. Memory: "exact" and "rescale"
    hold the live activations of all examples at once; the parents are measured batch by batch.

    Source: Jordan et al. 2023, arXiv 2211.08403, section 4.

    Example:
        >>> import torch
        >>> from isthmus import Landscape, Task, Weights
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> data = (torch.tensor([[1.0], [3.0]]), torch.tensor([0, 1]))
        >>> landscape = Landscape(Task(model=net, train=data, test=data))
        >>> a = Weights.from_module(net)
        >>> repair_activations(a * 0.25, (a, a), landscape)["0.weight"].equal(a["0.weight"])
        True
    """
    ground = lay_ground(parents, landscape, method, examples, symmetry, progress)
    return repaired_on(ground, weights, shares_of(position, len(parents)), method, progress)


def measure_repair(
    weights: Weights,
    parents: Sequence[Weights],
    landscape: Landscape,
    *,
    position: float | Sequence[float] = 0.5,
    method: Method = "exact",
    examples: int = 1000,
    symmetry: Symmetry | None = None,
    progress: Progress | None = None,
) -> Repair:
    """Repair a merged network as `repair_activations` does, and tell layer by layer what that did.

    The deviations before are those of the merged network with its batch-norm statistics as it carries them
    (measured anew if it carries none). Arguments and errors are those of `repair_activations`; it costs
    another forward pass of each parent and two of the merged network.
    """
    shares = shares_of(position, len(parents))
    ground = lay_ground(parents, landscape, method, examples, symmetry, progress)
    fixed = repaired_on(ground, weights, shares, method, progress)
    before = (
        weights if _statistics_lacking(weights, landscape) is None else reset_batchnorm(weights, landscape)
    )
    device = landscape.network.device
    networks = [each.to(device) for each in (*parents, before, fixed)]
    layers = ground.bench.layers
    measured = ground.bench.moments(networks, layers, progress, "measuring the repair")
    told = tuple(_told(layer, measured[layer.writer.node], shares, method) for layer in layers)
    return Repair(fixed, told, method, tuple(shares.tolist()), ground.bench.examples, ground.bench.unwritten)


@dataclass(frozen=True, eq=False)
class Ground:
    """What every point between the same parents is repaired by.

    Attributes:
        bench: the traced network and the examples.
        layers: those that are repaired, in the order of the graph.
        parents: the moments of the parents' channels, by the layer's node.
        landscape: where batch norm is reset.
    """

    bench: Bench
    layers: tuple[Layer, ...]
    parents: dict[str, ChannelMoments]
    landscape: Landscape


def lay_ground(
    parents: Sequence[Weights],
    landscape: Landscape,
    method: str,
    examples: int,
    symmetry: Symmetry | None,
    progress: Progress | None,
) -> Ground:
    """Trace the network and measure its parents."""
    if method not in get_args(Method):
        raise SettingError(f"expected a method of repair ({', '.join(get_args(Method))}), got {method!r}")
    if not parents:
        raise SettingError("a repair needs the parents of the merged network, got none")
    if examples is None or examples < 2:
        raise SettingError(f"statistics need at least 2 examples, got {examples}")
    if symmetry is not None:
        symmetry.check(landscape.network.reference)
    for number, parent in enumerate(parents, start=1):
        landscape.network.require(parent)
        if missing := _statistics_lacking(parent, landscape):
            raise SettingError(
                f"parent {number} of {len(parents)} carries no {missing}: give the parents as they were "
                "saved, with their buffers, or reset_batchnorm(parent, landscape)"
            )
    found = bench(landscape, examples, symmetry)
    layers = tuple(layer for layer in found.layers if not _refused(layer, method))
    networks = [parent.to(landscape.network.device) for parent in parents]
    measured = found.moments(networks, layers, progress, "measuring the parents")
    return Ground(found, layers, measured, landscape)


def shares_of(position: float | Sequence[float], parents: int) -> Tensor:
    """The share of each parent, shape (parents,), float64.

    Raises:
        SettingError: they are not one a parent, or do not sum to 1.
    """
    if isinstance(position, (int, float)):
        if parents != 2 or not 0 <= position <= 1:
            raise SettingError(
                "expected a position in [0, 1] between two parents, or one share a parent; "
                f"got {position} and {parents} parents"
            )
        position = (1 - position, position)
    shares = torch.tensor([float(share) for share in position], dtype=torch.float64)
    whole = (
        len(shares) == parents and abs(float(shares.sum()) - 1) <= 1e-6
    )  # not of shares that are no numbers
    if not whole or bool((shares < 0).any()):
        raise SettingError(
            f"expected {parents} shares, one a parent, from 0 and with a sum of 1; got {shares.tolist()}"
        )
    return shares


def repaired_on(
    ground: Ground, weights: Weights, shares: Tensor, method: str, progress: Progress | None = None
) -> Weights:
    """The repaired network at these shares of the parents."""
    home = weights.vector.device
    device = ground.landscape.network.device
    if method == "closed_form":
        fixed = _by_correlation(ground, weights.to(device), shares)
        return reset_batchnorm(fixed, ground.landscape).to(home)
    start = reset_batchnorm(weights, ground.landscape).to(device)
    return _by_measuring(ground, start, shares, method == "exact", progress or Silent()).to(home)


def _by_correlation(ground: Ground, weights: Weights, shares: Tensor) -> Weights:
    """Scale every channel of a linear layer about its blended mean, by the parents' moments alone."""
    folded = Folded(weights)
    for layer in ground.layers:
        moments = ground.parents[layer.writer.node]
        mean, wanted = moments.target(shares)
        std = moments.blended_std(shares)
        change = change_of(layer, (mean, std), (mean, wanted))
        folded.take(layer, change, None)
    return folded.weights


def _by_measuring(
    ground: Ground, weights: Weights, shares: Tensor, means: bool, progress: Progress
) -> Weights:
    """One pass of the merged network over all examples, every layer repaired as soon as it has run.

    All batches go through the graph side by side. So at a layer's node what it gives on all examples is at
    hand; it is changed there, for later layers to see, and the same change is folded into the weights.
    """
    folded = Folded(weights)
    layers = {layer.writer.node: layer for layer in ground.layers}
    lanes = [Lane(weights, inputs) for inputs in ground.bench.batches]
    with progress.bar("repairing layers", len(layers)) as bar:
        done = iter(range(1, len(layers) + 1))

        def visit(node: str, outputs: list[Tensor]) -> list[Tensor]:
            layer = layers[node]
            channel = layer.writer.channel
            moments = merged([ChannelMoments.of_batch([output], channel) for output in outputs])
            require_finite(layer, moments)
            now = moments.mean[0], moments.std[0]
            mean, std = ground.parents[node].target(shares)
            change = change_of(layer, now, (mean if means else now[0], std))
            folded.take(layer, change, now)
            bar(next(done))
            return [change.apply(output, channel) for output in outputs]

        ground.bench.activations.run(lanes, visit, frozenset(layers))
    return folded.weights


def _statistics_lacking(weights: Weights, landscape: Landscape) -> str | None:
    """The first batch-norm statistic that these weights do not carry."""
    for name in batchnorm_layers(landscape.network.module):
        buffer = f"{name}.running_mean" if name else "running_mean"
        if buffer not in weights.buffers:
            return buffer
    return None


def _refused(layer: Layer, method: str) -> str:
    """Why a method leaves a layer as it is; empty if it repairs it."""
    if not layer.refused and method == "closed_form" and layer.writer.operation in NORMS:
        return "the correlation says nothing of what a norm writes"
    return layer.refused


def _told(layer: Layer, measured: ChannelMoments, shares: Tensor, method: str) -> LayerRepair:
    """What was done to a layer, from the moments of the parents, the network before and the network after."""
    writer, hidden = layer.writer, layer.hidden
    *parents, before, after = measured.std
    wanted = shares @ torch.stack(parents)
    constant = int((~varying(layer, measured.mean[-2], before))[hidden].sum())
    reason = _refused(layer, method)
    done: Done = "left as it was" if reason else "mean and deviation"
    if not reason and (method == "rescale" or writer.bias is None):
        done = "deviation"
        reason = "it has no bias" if writer.bias is None else "asked for"
    ratios = [_median(std[hidden], wanted[hidden]) for std in (before, after)]
    return LayerRepair(writer.weight, writer.operation, len(hidden), done, reason, constant, *ratios)


def _median(std: Tensor, wanted: Tensor) -> float:
    """The median of std / wanted over the channels whose wanted deviation is above 0; nan if none is."""
    counted = wanted > 0
    return float((std[counted] / wanted[counted]).median()) if bool(counted.any()) else math.nan

"""Weight matching beside its floor: one matrix product a place of an axis and one assignment an axis.

Untrained networks of the shapes that Git Re-Basin's authors matched (their VGG-16 with a classifier of 512
units and their ResNet-20 with convolutions as shortcuts, the norms over all channels), in PyTorch's own
initialisation, and a transformer. All times are CPU seconds of one thread.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus.match import match_weights, maximising_assignment
from isthmus.match.slices import products, stored
from isthmus.symmetry import Symmetry, discover
from isthmus.symmetry.action import members_of
from isthmus.tasks.models import MLP
from isthmus.weights import Weights

_LARGE = 5e7  # parameters from which on one round must do


@dataclass(frozen=True)
class Matched:
    """Times of matching two networks.

    Attributes:
        name: of the network, and what B is.
        floor: CPU seconds for one matrix product a place and one assignment an axis.
        ours: median CPU seconds of the whole matching.
        sweeps: how many sweeps it took, the last one of which finds nothing.
        objective: the inner product that it reached.
        published: that of the published algorithm, from the identity in random order; None if it was not run.
        longer: the median CPU seconds of that, run by our own code; None likewise.
        recovered: whether planted orders came back exactly; None if B is an unrelated network.
    """

    name: str
    floor: float
    ours: float
    sweeps: int
    objective: float
    published: float | None
    longer: float | None
    recovered: bool | None


class Block(nn.Module):
    """Two convolutions beside the identity or, where the image shrinks, beside a third one."""

    def __init__(self, incoming: int, outgoing: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, outgoing, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outgoing, outgoing, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.GroupNorm(1, outgoing), nn.GroupNorm(1, outgoing)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            conv = nn.Conv2d(incoming, outgoing, 3, stride, 1, bias=False)
            self.shortcut = nn.Sequential(conv, nn.GroupNorm(1, outgoing))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


def resnet20(width: int = 64) -> nn.Module:
    """Nine blocks in three stages of rising width."""
    widths = (width, width, width, width, 2 * width, 2 * width, 2 * width, 4 * width, 4 * width, 4 * width)
    blocks = (Block(i, o, 1 if i == o else 2) for i, o in pairwise(widths))
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.GroupNorm(1, width), nn.ReLU(), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10),
    )  # fmt: skip


def vgg16() -> nn.Module:
    """Thirteen convolutions with group norms of one group, and three linear layers; 0 is a pooling."""
    layers: list[nn.Module] = []
    incoming = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if not width:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(incoming, width, 3, padding=1), nn.GroupNorm(1, width), nn.ReLU()]
        incoming = width
    return nn.Sequential(*layers, MLP((512, 512, 512, 10)))


class Layer(nn.Module):
    """A transformer's layer, norms first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(n, t, d))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


def transformer(layers: int = 12, width: int = 768, heads: int = 12) -> nn.Module:
    """Of GPT-2's size, without its table of tokens."""
    body = (Layer(width, heads) for _ in range(layers))
    return nn.Sequential(nn.Embedding(1000, width), *body, nn.LayerNorm(width), nn.Linear(width, 1000))


_IMAGE = torch.zeros(1, 3, 32, 32)
_NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "MLP 784-512-512-512-10": (lambda: MLP((784, 512, 512, 512, 10)), torch.zeros(1, 784)),
    "ResNet-20, four times as wide": (resnet20, _IMAGE),
    "VGG-16": (vgg16, _IMAGE),
    "transformer, 12 layers of 768": (transformer, torch.zeros(1, 8, dtype=torch.int64)),
}


def run(rounds: int) -> list[Matched]:
    """Each network with an unrelated one and with its own planted order and noise."""
    found = []
    for name, (build, example) in _NETWORKS.items():
        weights = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            weights.append(Weights.from_module(build()))
        symmetry = discover(build().eval(), example, verify=False)
        element = symmetry.random(torch.Generator().manual_seed(0))
        near = Weights(weights[0].layout, weights[0].vector * 0.96 + weights[1].vector * 0.29)
        few = rounds if weights[0].layout.numel < _LARGE else 1
        found.append(_matched(f"{name}, unrelated", symmetry, weights[0], weights[1], few, None))
        planted = element.apply(weights[0]).vector
        found.append(_matched(f"{name}, planted", symmetry, weights[0], element.apply(near), few, planted))
    return found


def _matched(
    name: str, symmetry: Symmetry, a: Weights, b: Weights, rounds: int, planted: Tensor | None
) -> Matched:
    times, floors, longer = [], [], []
    published = None
    kept = {name: (stored(a[name]), stored(b[name])) for name in a}
    for _ in range(rounds):
        start = time.process_time()
        alignment = match_weights(a, b, symmetry)
        times.append(time.process_time() - start)
        start = time.process_time()
        _floor(symmetry, kept)
        floors.append(time.process_time() - start)
        if planted is None and a.layout.numel < _LARGE:
            start = time.process_time()
            published = match_weights(a, b, symmetry, start="identity").objective
            longer.append(time.process_time() - start)
    back = None
    if planted is not None:
        back = torch.equal(alignment.apply(Weights(a.layout, planted)).vector, a.vector)
    assert alignment.objective is not None
    return Matched(
        name,
        statistics.median(floors),
        statistics.median(times),
        len(alignment.history) - 1,
        alignment.objective,
        published,
        statistics.median(longer) if longer else None,
        back,
    )


def _floor(symmetry: Symmetry, kept: dict[str, tuple[Tensor, Tensor]]) -> None:
    """The products and assignments that one visit to every axis cannot do without."""
    for axis in symmetry.axes:
        scores = torch.zeros(axis.size, axis.size, dtype=torch.float64)
        for place in axis.places:
            if place.parameter in kept:
                scores += products(*kept[place.parameter], place)
        for units in members_of(axis):
            maximising_assignment(scores[units][:, units])


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print("\n".join(table(run(rounds))))


def table(found: list[Matched]) -> list[str]:
    """The figures as lines of Markdown."""
    told = {None: "", True: "yes", False: "no"}
    return [
        "| weight matching (CPU seconds) | floor | isthmus | ratio | sweeps | objective | "
        "published algorithm: objective | its seconds | recovered |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {each.name} | {each.floor:.3f} | {each.ours:.3f} | {each.ours / each.floor:.1f} | "
            f"{each.sweeps} | {each.objective:.2f} | "
            f"{'' if each.published is None else format(each.published, '.2f')} | "
            f"{'' if each.longer is None else format(each.longer, '.3f')} | {told[each.recovered]} |"
            for each in found
        ),
    ]


if __name__ == "__main__":
    main()

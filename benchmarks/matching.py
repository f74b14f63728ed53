"""Weight matching beside its floor: one matrix product a place of an axis and one assignment an axis."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus.match import match_weights, maximising_assignment
from isthmus.symmetry import Symmetry, discover
from isthmus.symmetry.action import members_of
from isthmus.tasks.models import VGG16, ResNet
from isthmus.weights import Weights


@dataclass(frozen=True)
class Matched:
    """Times of matching two networks.

    Attributes:
        name: of the network, and what B is.
        floor: seconds for one matrix product a place and one assignment an axis.
        ours: median seconds of the whole matching.
        sweeps: how many sweeps it took, the last one of which finds nothing.
        recovered: whether planted orders came back exactly; None if B is an unrelated network.
    """

    name: str
    floor: float
    ours: float
    sweeps: int
    recovered: bool | None


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


_NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "ResNet-20": (lambda: ResNet(20, 16), torch.zeros(1, 3, 32, 32)),
    "ResNet-20, four times as wide": (lambda: ResNet(20, 64), torch.zeros(1, 3, 32, 32)),
    "VGG-16": (VGG16, torch.zeros(1, 3, 32, 32)),
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
        few = rounds if weights[0].layout.numel < 1e7 else 1
        found.append(_matched(f"{name}, unrelated", symmetry, weights[0], weights[1], few, None))
        planted = element.apply(weights[0]).vector
        found.append(_matched(f"{name}, planted", symmetry, weights[0], element.apply(near), few, planted))
    return found


def _matched(
    name: str, symmetry: Symmetry, a: Weights, b: Weights, rounds: int, planted: Tensor | None
) -> Matched:
    times, floors = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        alignment = match_weights(a, b, symmetry)
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
        _floor(symmetry, a, b)
        floors.append(time.perf_counter() - start)
    back = None
    if planted is not None:
        back = torch.equal(alignment.apply(Weights(a.layout, planted)).vector, a.vector)
    sweeps = len(alignment.history) - 1
    return Matched(name, statistics.median(floors), statistics.median(times), sweeps, back)


def _floor(symmetry: Symmetry, a: Weights, b: Weights) -> None:
    """The products and assignments that one visit to every axis cannot do without."""
    for axis in symmetry.axes:
        scores = torch.zeros(axis.size, axis.size)
        for place in axis.places:
            if place.parameter in a:
                left, right = (
                    w[place.parameter].movedim(place.dim, 0)[place.index].flatten(1) for w in (a, b)
                )
                scores += left @ right.T
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
        "| weight matching | floor (s) | isthmus (s) | ratio | sweeps | recovered |",
        "|---|---|---|---|---|---|",
        *(
            f"| {each.name} | {each.floor:.3f} | {each.ours:.3f} | {each.ours / each.floor:.1f} | "
            f"{each.sweeps} | {told[each.recovered]} |"
            for each in found
        ),
    ]


if __name__ == "__main__":
    main()

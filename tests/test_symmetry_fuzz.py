"""Random programs: whatever group is found for them, no element of it may change what they compute.

The check is independent of `discover(..., verify=True)`: the elements are drawn here from the axes as data,
so that every axis moves, and are applied to the weights as a user would apply them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.symmetry import Alignment, Symmetry, discover
from isthmus.weights import Weights

PROGRAMS = 60
New = Callable[..., Tensor]
Operation = Callable[[Tensor, Tensor, New], Tensor]


def _table(t: Tensor) -> Tensor:
    """A function of every two units that is not symmetric in them."""
    return torch.tanh(t[..., :, None] + 2 * torch.sin(t)[..., None, :])


def _mirrored(t: Tensor) -> Tensor:
    table = _table(t)
    return torch.cat([table, table.mT], 2).sum(3)


def _row_and_column(t: Tensor) -> Tensor:
    table = _table(t)
    return torch.cat([table[..., 1, :], table[..., :, 1]], 2)


def _two_diagonals(t: Tensor) -> Tensor:
    table, half = _table(t), t.shape[2] // 2
    first = list(range(half))
    return torch.cat([table[..., first, first], table[..., first, [n + half for n in first]]], 2)


# Of a tensor (batch, tokens, channels), a second one, and a maker of parameters. What does not fit raises.
OPERATIONS: dict[str, Operation] = {
    "linear": lambda t, u, new: F.linear(t, new(6, t.shape[2])),
    "wide linear": lambda t, u, new: F.linear(t, new(8, t.shape[2]), new(8)),
    "linear backwards": lambda t, u, new: t @ new(t.shape[2], 4),
    "mixed tokens": lambda t, u, new: torch.einsum("btc,st->bsc", t, new(4, t.shape[1])),
    "more tokens": lambda t, u, new: new(6, t.shape[1]) @ t,
    "activation": lambda t, u, new: t.tanh() + t.relu(),
    "sigmoid": lambda t, u, new: torch.sigmoid(t),
    "flip": lambda t, u, new: t.flip(2),
    "flipped tokens": lambda t, u, new: t.flip(1),
    "roll": lambda t, u, new: t.roll(1, 2),
    "softmax": lambda t, u, new: t.softmax(2),
    "softmax of tokens": lambda t, u, new: t.softmax(1),
    "triangle": lambda t, u, new: t.tril(),
    "cumulative": lambda t, u, new: t.cumsum(1),
    "layer norm": lambda t, u, new: F.layer_norm(t, t.shape[2:], new(t.shape[2])),
    "group norm": lambda t, u, new: F.group_norm(t.mT, 2, new(t.shape[2])).mT,
    "bias": lambda t, u, new: t + new(t.shape[2]),
    "token bias": lambda t, u, new: t + new(t.shape[1], 1),
    "scale": lambda t, u, new: t * new(*t.shape[1:]),
    "cat": lambda t, u, new: torch.cat([t, u], 2),
    "cat of tokens": lambda t, u, new: torch.cat([t, u], 1),
    "interleaved with": lambda t, u, new: torch.stack([t, u], 3).flatten(2),
    "stacked before": lambda t, u, new: torch.stack([t, u], 2).flatten(2),
    "stacked tokens": lambda t, u, new: torch.stack([t, u], 1).flatten(1, 2),
    "add": lambda t, u, new: t + u,
    "multiply": lambda t, u, new: t * u,
    "maximum": lambda t, u, new: torch.max(t, u),
    "outer": lambda t, u, new: (t[..., :, None] * u[..., None, :]).flatten(2),
    "attention": lambda t, u, new: F.scaled_dot_product_attention(t, u, u),
    "halves swapped": lambda t, u, new: torch.cat(t.chunk(2, 2)[::-1], 2),
    "halves as tokens": lambda t, u, new: torch.cat(t.chunk(2, 2), 1),
    "halves interleaved": lambda t, u, new: torch.stack(t.chunk(2, 2), 3).flatten(2),
    "halves among tokens": lambda t, u, new: torch.stack(t.chunk(2, 2), 2).flatten(1, 2),
    "halves gated": lambda t, u, new: F.glu(t, 2),
    "halves added": lambda t, u, new: t.chunk(2, 2)[0] + t.chunk(2, 2)[1] ** 2,
    "even and odd": lambda t, u, new: torch.cat([t[..., ::2], t[..., 1::2]], 2),
    "even and odd stacked": lambda t, u, new: torch.stack([t[..., ::2], t[..., 1::2]], 1).flatten(1, 2),
    "token halves as channels": lambda t, u, new: torch.cat(t.chunk(2, 1), 2),
    "rolled by hand": lambda t, u, new: torch.cat([t[..., -1:], t[..., :-1]], 2),
    "parts overlap": lambda t, u, new: torch.cat([t[..., :4], t[..., 2:]], 2),
    "pad": lambda t, u, new: F.pad(t, (2, 2)),
    "pad with ones": lambda t, u, new: F.pad(t, (0, 4), value=1.0),
    "reflected": lambda t, u, new: F.pad(t, (1, 1), mode="reflect"),
    "mean of tokens": lambda t, u, new: t + t.mean(1, keepdim=True),
    "centred": lambda t, u, new: t - t.mean(2, keepdim=True),
    "transpose": lambda t, u, new: t.mT,
    "convolution": lambda t, u, new: F.conv1d(t.mT, new(6, t.shape[2], 3), padding=1).mT,
    "depthwise": lambda t, u, new: F.conv1d(t.mT, new(t.shape[2], 1, 3), padding=1, groups=t.shape[2]).mT,
    "grouped": lambda t, u, new: F.conv1d(t.mT, new(8, t.shape[2] // 2, 1), groups=2).mT,
    "slice": lambda t, u, new: t[..., 1:-1],
    "every other": lambda t, u, new: t[..., ::2],
    "repeat": lambda t, u, new: t.repeat(1, 1, 2),
    "repeat each": lambda t, u, new: t.repeat_interleave(2, 2),
    "view": lambda t, u, new: t.reshape(t.shape[0], t.shape[1] * 2, -1),
    "maximum of pairs": lambda t, u, new: t.unflatten(2, (-1, 2)).amax(3),
    "one channel": lambda t, u, new: t * t[..., 1:2],
    "table": lambda t, u, new: _table(t) @ new(t.shape[2], 1).squeeze(1),
    "table beside its mirror image": lambda t, u, new: _mirrored(t),
    "row and column": lambda t, u, new: _row_and_column(t),
    "two diagonals": lambda t, u, new: _two_diagonals(t),
    "sorted": lambda t, u, new: t + t.sort(2).values,
    "sum of the positive": lambda t, u, new: t * t[t > 0].sum(),
}  # fmt: skip


class Program(nn.Module):
    """A random chain of operations; each reads one of the last three tensors and one of all."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.parameters_made = nn.ParameterList()
        self.plan: list[tuple[str, int, int, list[int]]] = []
        generator = torch.Generator().manual_seed(seed)
        values = [torch.randn(2, 4, 6, generator=generator)]

        def step(name: str, first: int, second: int) -> None:
            used: list[int] = []

            def new(*shape: int) -> Tensor:
                same = [n for n, p in enumerate(self.parameters_made) if tuple(p.shape) == shape]
                if not same or draw.random() > 0.3:  # otherwise the weights are shared
                    same = [len(self.parameters_made)]
                    self.parameters_made.append(nn.Parameter(torch.randn(shape, generator=generator) / 2))
                used.append(draw.choice(same))
                return self.parameters_made[used[-1]]

            with torch.no_grad():
                result = OPERATIONS[name](values[first], values[second], new)
            if result.dim() != 3 or not 2 <= result.shape[1] <= 16 or not 2 <= result.shape[2] <= 24:
                raise ValueError
            values.append(result)
            self.plan.append((name, first, second, used))

        step("wide linear", 0, 0)
        for _ in range(draw.randint(2, 7)):
            name = draw.choice(list(OPERATIONS))
            first, second = (
                draw.randrange(max(1, len(values) - 3), len(values)),
                draw.randrange(1, len(values)),
            )
            try:
                step(name, first, second)
            except (RuntimeError, ValueError, IndexError):
                continue
        step("mixed tokens", len(values) - 1, 0)
        step("linear", len(values) - 1, 0)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for name, first, second, used in self.plan:
            parameters = iter([self.parameters_made[number] for number in used])
            values.append(OPERATIONS[name](values[first], values[second], lambda *_, p=parameters: next(p)))
        return values[-1]


def moving(symmetry: Symmetry, generator: torch.Generator) -> Alignment:
    """A random element that leaves no axis as it is: no cell of two units or more keeps its order."""
    chosen: dict[str, Tensor] = {}
    for axis in symmetry.axes:
        cells: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for unit in range(axis.size):
            cells[tuple(int(index[unit]) for _, index in axis.parents)].append(unit)
        permutation = torch.empty(axis.size, dtype=torch.int64)
        for parents, units in cells.items():
            origin = tuple(int(chosen[n][p]) for (n, _), p in zip(axis.parents, parents, strict=True))
            source = torch.tensor(cells[origin])
            order = torch.randperm(len(units), generator=generator)
            if torch.equal(order, torch.arange(len(units))):
                order = order.roll(1)
            permutation[units] = source[order]
        chosen[axis.name] = permutation
    element = Alignment(symmetry, chosen)
    assert all(share > 0 for share in element.moved.values())
    return element


def drawn(symmetry: Symmetry, number: int) -> Iterator[Alignment]:
    generator = torch.Generator().manual_seed(number)
    for _ in range(number):
        yield moving(symmetry, generator)
        yield symmetry.random(generator)


@torch.no_grad()
def largest_change(symmetry: Symmetry, module: nn.Module, example: Tensor, draws: int = 3) -> float:
    """max |f(g·θ, x) - f(θ, x)| / max |f(θ, x)| over random elements g, in float64."""
    module, example = module.double(), example.double()
    weights = Weights.from_module(module)
    before = module(example)
    changes = [0.0]
    for element in drawn(symmetry, draws) if symmetry.axes else ():
        after = element.apply(weights).to_module(module)(example)
        changes.append(float((after - before).abs().max() / before.abs().max()))
    return max(changes)


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_random_programs_are_sound(seed):
    program = Program(seed)
    example = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(seed))
    symmetry = discover(program, example, verify=False)
    assert largest_change(symmetry, program, example) <= 1e-9, program.plan


# Pieces of one tensor that are put together in another way: where a rule is easily wrong.
JOINED = (
    "halves swapped", "halves as tokens", "halves interleaved", "halves among tokens", "halves gated",
    "even and odd", "even and odd stacked", "token halves as channels", "rolled by hand", "parts overlap",
    "reflected", "table beside its mirror image", "row and column", "two diagonals", "sum of the positive",
)  # fmt: skip


@pytest.mark.parametrize("name", JOINED)
def test_pieces_joined_between_two_layers_are_sound(name):
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.first = nn.Parameter(torch.randn(6, 6, generator=generator))
            self.second = nn.Parameter(torch.randn(6, 6, generator=generator))
            self.inner = nn.ParameterList()
            t, u = self.hidden(torch.randn(2, 4, 6, generator=generator))

            def new(*shape):
                self.inner.append(nn.Parameter(torch.randn(shape, generator=generator)))
                return self.inner[-1]

            shape = OPERATIONS[name](t, u, new).shape
            self.tokens = nn.Parameter(torch.randn(3, shape[1], generator=generator))
            self.head = nn.Parameter(torch.randn(2, shape[2], generator=generator))

        def hidden(self, x):
            return torch.tanh(x @ self.first), torch.sigmoid(x @ self.second)

        def forward(self, x):
            inner = iter(self.inner)
            t = OPERATIONS[name](*self.hidden(x), lambda *_: next(inner))
            return F.linear(torch.tanh(self.tokens @ t), self.head)

    program = Single()
    example = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    symmetry = discover(program, example, verify=False)
    assert largest_change(symmetry, program, example) <= 1e-9

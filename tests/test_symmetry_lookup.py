"""Look-ups, rankings, recurrent layers, stacks of parameters, changes in place: sound and of the right size.

Named networks (see `adversarial_lookup`) and random programs. Elements of the group are drawn here from the
axes as data: random ones, and single transpositions, with all that follows from them. In float64 the outputs
are compared on the example and on other inputs and batch sizes; the proof of `discover` is not used.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversarial_lookup import DEFECTS, LOOKUPS, SINGLE_BATCH, UNSAFE_PIECE
from isthmus.errors import SymmetryError
from isthmus.symmetry import Alignment, Symmetry, discover
from isthmus.symmetry.action import follow, members_of
from isthmus.weights import Weights
from test_symmetry_fuzz import OPERATIONS as OLD
from test_symmetry_fuzz import New, Operation
from zoo_laws import seeded

PROGRAMS = 40
TOLERANCE = 1e-9


def transpositions(symmetry: Symmetry, generator: torch.Generator, most: int = 12) -> Iterator[Alignment]:
    """Two units of one cell change places, and what lies below follows: at most so many, at random."""
    cells = [(axis, units) for axis in symmetry.axes for units in members_of(axis) if len(units) > 1]
    for number in torch.randperm(len(cells), generator=generator)[:most].tolist():
        axis, units = cells[number]
        two = units[torch.randperm(len(units), generator=generator)[:2]]
        still = {each.name: torch.arange(each.size) for each in symmetry.axes}
        still[axis.name] = still[axis.name].clone()
        still[axis.name][two] = two.flip(0)
        yield Alignment(symmetry, follow(symmetry.axes, still, axis.name))


def elements(symmetry: Symmetry, seed: int) -> Iterator[Alignment]:
    generator = seeded(seed)
    if symmetry.axes:
        yield from (symmetry.random(generator) for _ in range(3))
        yield from transpositions(symmetry, generator)


@torch.no_grad()
def largest_change(symmetry: Symmetry, module: nn.Module, inputs: list[Tensor]) -> float:
    """max |f(g·θ, x) - f(θ, x)| / max |f(θ, x)| over elements g and inputs x, in float64."""
    module = module.double()
    weights = Weights.from_module(module)

    def output(given: Weights, x: Tensor) -> Tensor:
        result = given.to_module(module)(x.double())
        return (
            torch.cat([each.double().flatten() for each in result]) if isinstance(result, tuple) else result
        )

    before = [output(weights, x) for x in inputs]
    assert all(bool(each.isfinite().all()) for each in before)
    changes = [0.0]
    for element in elements(symmetry, 5):
        moved = element.apply(weights)
        for x, old in zip(inputs, before, strict=True):
            new = output(moved, x)
            changes.append(float((new - old).abs().max() / old.abs().max().clamp_min(1e-300)))
    weights.to_module(module)
    return max(changes)


# -- named networks -------------------------------------------------------------------------------


def drawn(name: str, build) -> tuple[nn.Module, list[Tensor]]:
    """A network with nothing constant but its constants, and inputs; the first one is the example."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build().eval()
    generator = seeded(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    shapes = [module.example] if name in SINGLE_BATCH else [module.example, (9, *module.example[1:])]
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    return module, [*inputs, 2 * torch.randn(module.example, generator=generator)]


def marked(name: str):
    reason = DEFECTS.get(name)
    marks = () if reason is None else pytest.mark.xfail(reason=reason, strict=True, raises=AssertionError)
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [marked(name) for name in LOOKUPS])
def test_named_networks_are_sound_and_their_group_has_the_order_written_by_hand(name):
    build, log2_order = LOOKUPS[name]
    module, inputs = drawn(name, build)
    symmetry = discover(module, inputs[0], verify=False)
    assert largest_change(symmetry, module, inputs) <= TOLERANCE
    if log2_order is not None:
        assert symmetry.log2_order == pytest.approx(log2_order, abs=1e-9)


# -- random programs ------------------------------------------------------------------------------


def _scores(t: Tensor, new: New, number: int) -> Tensor:
    """Numbers of which no two are equal but by chance."""
    return F.linear(t, new(number, t.shape[2]), new(number))


def _marked(numbers: Tensor, classes: int, t: Tensor) -> Tensor:
    return F.one_hot(numbers, classes).to(t.dtype)


def _lstm(t: Tensor, new: New) -> tuple[Tensor, Tensor, Tensor]:
    start = t.new_zeros(1, t.shape[0], 4)
    weights = [new(16, t.shape[2]), new(16, 4), new(16), new(16)]
    return torch.lstm(t, [start, start], weights, True, 1, 0.0, False, False, True)


def _gru(t: Tensor, new: New) -> Tensor:
    start = t.new_zeros(2, t.shape[0], 3)
    weights = [new(*shape) for _ in range(2) for shape in ((9, t.shape[2]), (9, 3), (9,), (9,))]
    return torch.gru(t, start, weights, True, 1, 0.0, False, True, True)[0]


def _rnn(t: Tensor, new: New) -> Tensor:
    start = torch.tanh(t[:, 0] @ new(t.shape[2], 4))[None]
    weights = [new(4, t.shape[2]), new(4, 4)]
    return torch.rnn_tanh(t, start, weights, False, 1, 0.0, False, False, True)[0]


def _added_to_a_slice(t: Tensor, u: Tensor) -> Tensor:
    k = t.clone()
    k[..., :2] += u[:, :1, :2]
    return k


def _view_changed(t: Tensor, u: Tensor) -> Tensor:
    k = t * 2
    k.view(t.shape[0], -1).relu_()
    k.mul_(u[:, :1, :1])
    return k


def _halves_changed(t: Tensor) -> Tensor:
    k = t.exp()
    first, second = k.chunk(2, 2)
    first.mul_(second)
    return k


def _halves_written(t: Tensor) -> Tensor:
    k, half = torch.zeros_like(t), t.shape[2] // 2
    k[..., :half] = t[..., -half:]
    k[..., -half:].add_(t[..., :half])
    return k


def _mask_filled(t: Tensor) -> Tensor:
    mask = torch.zeros(t.shape[2])
    mask[: t.shape[2] // 2] = 1
    mask[1:].mul_(2)
    return t * mask


def _before_and_after(t: Tensor, u: Tensor) -> Tensor:
    k = t.tanh()
    before = k * 2
    k.add_(u.mean(2, keepdim=True)).relu_()
    return before + k


def _experts(t: Tensor, new: New) -> Tensor:
    each = torch.tanh(torch.einsum("btc,ecd->bted", t, new(3, t.shape[2], 4)))
    return (each * (t @ new(t.shape[2], 3)).softmax(2)[..., None]).sum(2)


def _chosen_experts(t: Tensor, new: New) -> Tensor:
    values, numbers = (t @ new(t.shape[2], 3)).topk(2, 2)
    shares = (_marked(numbers, 3, t) * values.softmax(2)[..., None]).sum(2)
    each = torch.tanh(t.flatten(0, 1) @ new(3, t.shape[2], 4)).unflatten(1, t.shape[:2])
    return (each * shares.movedim(2, 0)[..., None]).sum(0)


def _lists_of_experts(t: Tensor, new: New) -> Tensor:
    return sum(torch.tanh(t @ weight) for weight in new(3, t.shape[2], 4).unbind(0))


def _turned(t: Tensor) -> Tensor:
    pairs = torch.view_as_complex(t.unflatten(2, (-1, 2)).contiguous())
    angle = torch.arange(t.shape[1], dtype=t.dtype)[:, None]
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(2)


NEW: dict[str, Operation] = {
    "top three": lambda t, u, new: t.topk(3, 2).values,
    "tokens sorted": lambda t, u, new: t.sort(1).values,
    "tokens in their own order": lambda t, u, new: t.gather(1, t.argsort(1)),
    "kept if among the largest": lambda t, u, new: t * (t >= t.topk(2, 2).values[..., -1:]),
    "in order of scores": lambda t, u, new: t.gather(2, _scores(u, new, t.shape[2]).argsort(2)),
    "rows in order of scores": lambda t, u, new: t.gather(1, _scores(u, new, t.shape[2]).argsort(1)),
    "mark of the largest": lambda t, u, new: _marked(_scores(t, new, 6).argmax(2), 6, t),
    "marks of the top": lambda t, u, new: _marked(_scores(t, new, 6).topk(2, 2).indices, 6, t).sum(2),
    "compared with numbers": lambda t, u, new: (
        _scores(t, new, 6).argmin(2)[..., None] == torch.arange(6)
    ).to(t.dtype),
    "rows of a table": lambda t, u, new: _marked(_scores(t, new, 6).argmax(2), 6, t) @ new(6, 5),
    "rows gathered": lambda t, u, new: new(6, 5).expand(t.shape[0], 6, 5).gather(
        1, _scores(t, new, 6).argmax(2)[..., None].expand(-1, -1, 5)
    ),
    "rows embedded": lambda t, u, new: F.embedding(_scores(t, new, 6).argmax(2), new(6, 5)),
    "scattered": lambda t, u, new: torch.zeros_like(t).scatter(
        2, _scores(t, new, t.shape[2]).topk(2, 2).indices, t[..., :2].amax(2, True).expand(-1, -1, 2)
    ),
    "scattered sums": lambda t, u, new: t.scatter_add(2, _scores(u, new, t.shape[2]).argsort(2), t.exp()),
    "written where the largest is": lambda t, u, new: t.scatter(
        2, _scores(t, new, t.shape[2]).argmax(2, keepdim=True), 0.5
    ),
    "embedded signs": lambda t, u, new: F.embedding((t[..., 0] > 0).long(), new(2, t.shape[2])) * t,
    "each sign embedded": lambda t, u, new: (F.embedding((t > 0).long(), new(2, 4))).sum(2),
    "indexed by signs": lambda t, u, new: new(2, t.shape[2])[(u.mean(2) > 0.2).long()] * t,
    "units indexed by signs": lambda t, u, new: new(t.shape[2], 2)[torch.arange(t.shape[2]), (t > 0).long()],
    "lstm": lambda t, u, new: _lstm(t, new)[0],
    "last state of an lstm": lambda t, u, new: t.mean(2, keepdim=True) + _lstm(t, new)[1].transpose(0, 1),
    "gru in two directions": lambda t, u, new: _gru(t, new),
    "rnn from a state": lambda t, u, new: _rnn(t, new),
    "frequencies of tokens": lambda t, u, new: torch.fft.rfft(t, dim=1).abs(),
    "frequencies": lambda t, u, new: torch.fft.rfft(t, dim=2).abs(),
    "windows": lambda t, u, new: F.unfold(t.mT[..., None], (2, 1), padding=(1, 0)).mT,
    "windows added up": lambda t, u, new: F.fold(t.mT, (t.shape[1] + 1, 1), (2, 1))[..., 0].mT,
    "cropped": lambda t, u, new: F.pad(t, (-1, 2)),
    "tokens cropped": lambda t, u, new: F.pad(t, (0, 0, 1, -1), value=0.5),
    "distances": lambda t, u, new: torch.cdist(t, new(5, t.shape[2])),
    "distances of units": lambda t, u, new: torch.cdist(t.mT, t.mT.exp()),
    "weight norm": lambda t, u, new: F.linear(t, torch._weight_norm(new(6, t.shape[2]), new(6, 1), 0)),
    "turned": lambda t, u, new: _turned(t),
    "experts": lambda t, u, new: _experts(t, new),
    "chosen experts": lambda t, u, new: _chosen_experts(t, new),
    "list of experts": lambda t, u, new: _lists_of_experts(t, new),
    "scaled in two halves": lambda t, u, new: (
        t.unflatten(2, (2, -1)) * new(2, t.shape[2] // 2)
    ).flatten(2),
    "one of two rows added": lambda t, u, new: t + new(2, t.shape[2])[1],
    "added to a slice": lambda t, u, new: _added_to_a_slice(t, u),
    "view changed": lambda t, u, new: _view_changed(t, u),
    "halves changed": lambda t, u, new: _halves_changed(t),
    "halves written": lambda t, u, new: _halves_written(t),
    "mask filled": lambda t, u, new: _mask_filled(t),
    "before and after": lambda t, u, new: _before_and_after(t, u),
    "spread": lambda t, u, new: new(t.shape[2]).expand_as(t) * t,
}  # fmt: skip
ALL = OLD | NEW


class Program(nn.Module):
    """A random chain of operations, half of them new; each reads one of the last tensors and one of all."""

    example = (2, 4, 6)

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.draw = random.Random(seed)
        self.generator = seeded(seed)
        self.made = nn.ParameterList()
        self.plan: list[tuple[str, int, int, list[int]]] = []
        values = [torch.randn(self.example, generator=self.generator)]
        self._step("wide linear", 0, 0, values)
        for _ in range(self.draw.randint(2, 7)):
            name = self.draw.choice(list(NEW if self.draw.random() < 0.6 else ALL))
            first = self.draw.randrange(max(1, len(values) - 3), len(values))
            second = self.draw.randrange(1, len(values))
            try:
                self._step(name, first, second, values)
            except (RuntimeError, ValueError, IndexError):
                continue
        self._step("mixed tokens", len(values) - 1, 0, values)
        self._step("linear", len(values) - 1, 0, values)

    @torch.no_grad()
    def _step(self, name: str, first: int, second: int, values: list[Tensor]) -> None:
        used: list[int] = []

        def new(*shape: int) -> Tensor:
            same = [n for n, p in enumerate(self.made) if tuple(p.shape) == shape and n not in used]
            if not same or self.draw.random() > 0.3:  # otherwise the weights are shared
                same = [len(self.made)]
                self.made.append(nn.Parameter(torch.randn(shape, generator=self.generator) / 2))
            used.append(self.draw.choice(same))
            return self.made[used[-1]]

        result = ALL[name](values[first], values[second], new)
        if result.dim() != 3 or not 2 <= result.shape[1] <= 16 or not 2 <= result.shape[2] <= 24:
            raise ValueError
        values.append(result)
        self.plan.append((name, first, second, used))

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for name, first, second, used in self.plan:
            parameters = iter([self.made[number] for number in used])
            values.append(ALL[name](values[first], values[second], lambda *_, p=parameters: next(p)))
        return values[-1]


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_random_programs_are_sound(seed):
    program = Program(seed)
    inputs = [torch.randn(2, 4, 6, generator=seeded(seed)), 2 * torch.randn(3, 4, 6, generator=seeded(1))]
    symmetry = discover(program, inputs[0], verify=False)
    assert largest_change(symmetry, program, inputs) <= TOLERANCE, program.plan


def test_a_change_in_place_that_may_be_lost_is_refused():
    with pytest.raises(SymmetryError, match="changes in place what an unsafe split or chunk may view"):
        discover(UNSAFE_PIECE(), torch.randn(5, 6))

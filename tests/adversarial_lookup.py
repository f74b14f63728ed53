"""Networks that look up, rank, recur, stack parameters or change tensors in place: soundness is asked of all.

The number is log2 of the order of the group where it was worked out by hand, or None where only soundness is
asked. Every network has `example`, the shape of its example input. `h` are twelve hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import L

Forward = Callable[[nn.Module, Tensor], object]
Entry = tuple[Callable[[], nn.Module], float | None]


class Given(nn.Module):
    """A forward function, submodules and parameters given by their shapes."""

    def __init__(
        self, forward: Forward, example: tuple[int, ...], **parts: nn.Module | Sequence[int]
    ) -> None:
        super().__init__()
        self._forward, self.example = forward, example
        for name, part in parts.items():
            given = part if isinstance(part, nn.Module) else nn.Parameter(torch.randn(tuple(part)) / 2)
            setattr(self, name, given)

    def forward(self, x: Tensor) -> object:
        return self._forward(self, x)


def hidden(forward: Forward, **shapes: Sequence[int]) -> Callable[[], nn.Module]:
    """Linear, tanh, the peculiar operation; `w` reads what comes out, if it is 12 wide."""

    def build() -> nn.Module:
        given: dict[str, nn.Module | Sequence[int]] = {"w": (12, 3)}
        module = Given(
            lambda m, x: forward(m, torch.tanh(m.first(x))), (5, 6), **(given | shapes),
            first=nn.Linear(6, 12), turn=nn.Linear(12, 12), four=nn.Linear(12, 4), wide=nn.Linear(12, 24),
        )  # fmt: skip
        for name, value in (("mean", torch.zeros(12)), ("variance", torch.ones(12))):
            module.register_buffer(name, value)
        return module

    return build


def layers(forward: Forward, **parts: Callable[[], nn.Module] | Sequence[int]) -> Callable[[], nn.Module]:
    """Recurrent layers and others on sequences of three tokens of six numbers."""

    def build() -> nn.Module:
        made = {name: part() if callable(part) else part for name, part in parts.items()}
        return Given(forward, (5, 3, 6), **made)

    return build


def mark(numbers: Tensor, classes: int, like: Tensor) -> Tensor:
    return F.one_hot(numbers, classes).to(like.dtype)


def rows(table: Tensor, numbers: Tensor) -> Tensor:
    """The sum of the rows of a table, gathered by number, for each element of a batch."""
    numbers = numbers.reshape(len(numbers), -1, 1).expand(-1, -1, table.shape[1])
    return table.expand(len(numbers), *table.shape).gather(1, numbers).sum(1)


# -- rankings and the numbers of units --------------------------------------------------------------


def _written(base: Callable[[Tensor], Tensor], number: int) -> Forward:
    def forward(m, h):
        top = h.topk(number, 1)
        return base(h).scatter(1, top.indices, top.values) @ m.w

    return forward


def _kept_until(m, h):
    """The largest units until their shares add up to 0.8."""
    ranked = h.sort(1, descending=True)
    kept = (ranked.values.softmax(1).cumsum(1) < 0.8).to(h.dtype)
    return (h * torch.zeros_like(h).scatter(1, ranked.indices, kept)) @ m.w


def _routed(m, h):
    """Two of four experts, whose hidden units are summed."""
    top = m.four(h).topk(2, 1)
    shares = (mark(top.indices, 4, h) * top.values.softmax(1)[..., None]).sum(1)
    return (shares[..., None] * torch.einsum("bi,eij->bej", h, m.up).tanh()).sum(1) @ m.down


def _routed_by_a_loop(m, h):
    """The same, expert by expert: the order in which they are numbered is written into the loop."""
    top = m.four(h).topk(2, 1)
    parts = [
        ((top.indices == e).to(h.dtype) * top.values).sum(1, keepdim=True) * (h @ m.up[e]).tanh()
        for e in range(4)
    ]
    return sum(parts) @ m.down


def _routed_in_groups(m, h):
    """The three best of six groups of two, then a softmax over what they hold."""
    scores = m.turn(h).sigmoid()
    best = scores.view(-1, 6, 2).amax(2).topk(3, 1).indices
    kept = torch.zeros(len(h), 6, dtype=h.dtype).scatter(1, best, 1.0)
    return (scores * kept.repeat_interleave(2, 1)).softmax(1) @ m.w


def _neighbours(m, h):
    """Every unit's three nearest ones, averaged."""
    near = torch.cdist(h.T, h.T).topk(3, 1, largest=False).indices
    found = h.T.expand(12, 12, -1).gather(1, near[..., None].expand(-1, -1, len(h)))
    return found.mean(1).T @ m.w


RANKINGS: dict[str, Entry] = {
    "sorted values": (hidden(lambda m, h: h.sort(1).values @ m.w), L(12)),
    "mark of the largest": (hidden(lambda m, h: mark(h.argmax(1), 12, h) @ m.w), L(12)),
    "marks of the top three": (hidden(lambda m, h: mark(h.topk(3, 1).indices, 12, h).sum(1) @ m.w), L(12)),
    "rows of a table": (hidden(lambda m, h: rows(m.w, h.topk(3, 1).indices)), L(12)),
    "embedded number": (hidden(lambda m, h: F.embedding(h.argmax(1), m.w)), 0.0),
    "number as an index": (hidden(lambda m, h: m.w[h.argmax(1)]), 0.0),
    "compared with numbers": (
        hidden(lambda m, h: (h.argmax(1)[:, None] == torch.arange(12)).to(h.dtype) @ m.w), L(12)
    ),
    "compared with numbers along rows": (
        hidden(lambda m, h: (h.argmax(1) != torch.arange(12)[:, None]).to(h.dtype).T @ m.w), L(12)
    ),
    "compared with numbers backwards": (
        hidden(lambda m, h: (h.argmax(1)[:, None] == torch.arange(12).flip(0)).to(h.dtype) @ m.w), 0.0
    ),
    "compared with ranks": (hidden(lambda m, h: (h.argsort(1) == torch.arange(12)).to(h.dtype) @ m.w), 0.0),
    "compared with one number": (hidden(lambda m, h: (h @ m.w) * (h.argmax(1) == 3)[:, None]), 0.0),
    "compared with each other": (
        hidden(lambda m, h: (h @ m.w) * (h.argmax(1) == m.turn(h).argmax(1))[:, None]), 0.0
    ),
    "halved number": (hidden(lambda m, h: mark(h.argmax(1) // 2, 12, h) @ m.w), 0.0),
    "next number": (hidden(lambda m, h: mark((h.argmax(1) + 1) % 12, 12, h) @ m.w), 0.0),
    "number changed in place": (
        hidden(lambda m, h: mark(h.topk(3, 1).indices.add_(1).remainder_(12), 12, h).sum(1) @ m.w), 0.0
    ),
    "number as a value": (hidden(lambda m, h: (h @ m.w) * h.argmax(1, keepdim=True).to(h.dtype)), 0.0),
    "number as a mask": (hidden(lambda m, h: (h * (h.argmax(1, keepdim=True) > 3)) @ m.w), 0.0),
    "number as a truth": (
        hidden(lambda m, h: torch.where(h.argmax(1, keepdim=True).bool(), h, -h) @ m.w), 0.0
    ),
    "numbers joined": (
        hidden(lambda m, h: rows(m.w, torch.cat([h.topk(2, 1).indices, h.topk(2, 1, False).indices], 1))), 0.0
    ),
    "numbers stacked": (hidden(lambda m, h: rows(m.w, torch.stack([h.argmax(1), h.argmin(1)], 1))), 0.0),
    "numbers sorted": (hidden(lambda m, h: rows(m.w, h.topk(3, 1).indices.sort(1).values[:, :1])), 0.0),
    "numbers summed": (hidden(lambda m, h: (h @ m.w) * h.topk(3, 1).indices.sum(1, keepdim=True)), 0.0),
    "numbers in another shape": (
        hidden(lambda m, h: rows(m.w, h.topk(4, 1).indices.view(-1, 2, 2)[:, 0])), L(12)
    ),
    "numbers backwards": (hidden(lambda m, h: rows(m.w, h.topk(3, 1).indices.flip(1)[:, :2])), L(12)),
    "number that comes out": (hidden(lambda m, h: (h @ m.w, h.argmax(1))), 0.0),
    "more classes than units": (
        hidden(lambda m, h: mark(h.argmax(1), 24, h) @ m.many, many=(24, 3)), 0.0
    ),
    "table of more rows": (hidden(lambda m, h: rows(m.many, h.argmax(1)), many=(24, 3)), 0.0),
    "another tensor in its order": (hidden(lambda m, h: m.turn(h).gather(1, h.argsort(1)) @ m.w), L(12)),
    "gathered twice": (
        hidden(lambda m, h: h.gather(1, h.argsort(1)).gather(1, m.turn(h).argsort(1)) @ m.w), L(12)
    ),
    "numbers gathered by numbers": (
        hidden(lambda m, h: h.gather(1, h.argsort(1).gather(1, m.turn(h).argsort(1))) @ m.w), None
    ),
    "places of units in their order": (
        hidden(lambda m, h: (h * h.argsort(1).argsort(1).to(h.dtype)) @ m.w), None
    ),
    "sorted and put back": (
        hidden(lambda m, h: h.sort(1).values.gather(1, h.argsort(1).argsort(1)) @ m.w), None
    ),
    "ranks written to units": (
        hidden(
            lambda m, h: torch.zeros_like(h).scatter(
                1, h.argsort(1), torch.arange(12, dtype=h.dtype).expand_as(h)
            ) @ m.w
        ), L(12)
    ),
    "only the largest are kept": (hidden(_written(torch.zeros_like, 3)), L(12)),
    "the largest are written over": (hidden(_written(lambda h: h.exp(), 3)), L(12)),
    "units in the order of their numbers": (
        hidden(lambda m, h: torch.zeros_like(h).scatter(1, h.argsort(1), h) @ m.w), 0.0
    ),
    "summed where the largest are, twice": (
        hidden(
            lambda m, h: torch.zeros_like(h).scatter_add(
                1, h.topk(3, 1).indices.repeat(1, 2), h.topk(6, 1).values
            ) @ m.w
        ), None
    ),
    "kept until a share": (hidden(_kept_until), L(12)),
    "above the third": (hidden(lambda m, h: (h * (h >= h.topk(3, 1).values[:, -1:])) @ m.w), L(12)),
    "ranked with places": (
        hidden(lambda m, h: rows(m.w, (h + torch.arange(12) // 3 * 0.1).topk(3, 1).indices)), 4 * L(3)
    ),
    "ranked along the batch": (hidden(lambda m, h: h.topk(2, 0).values @ m.w), L(12)),
    "gathered along the batch": (hidden(lambda m, h: h.gather(0, m.turn(h).topk(2, 0).indices) @ m.w), L(12)),
    "largest of a product": (
        hidden(
            lambda m, h: mark((h[:, :, None] * m.four(h)[:, None]).flatten(1).argmax(1), 48, h) @ m.many,
            many=(48, 3),
        ), L(12) + L(4)
    ),
    "largest of a square": (
        hidden(
            lambda m, h: mark((h[:, :, None] * h[:, None]).flatten(1).argmax(1), 144, h) @ m.many,
            many=(144, 3),
        ), None
    ),
    "each unit's largest partner": (
        hidden(lambda m, h: mark((h[:, :, None] * h[:, None].exp()).argmax(1), 12, h).sum(1) @ m.w), None
    ),
    "nearest units": (hidden(_neighbours), L(12)),
    "nearest row of a code book": (
        hidden(
            lambda m, h: mark(torch.cdist(h, m.code).argmin(1), 7, h) @ m.value @ m.out,
            code=(7, 12), value=(7, 5), out=(5, 3),
        ), L(12) + L(7) + L(5)
    ),
    "experts": (hidden(_routed, up=(4, 12, 5), down=(5, 3)), L(12) + L(4) + L(5)),
    "experts in a loop": (hidden(_routed_by_a_loop, up=(4, 12, 5), down=(5, 3)), L(12) + L(5)),
    "experts in groups": (hidden(_routed_in_groups), L(12) + L(6) + 6 * L(2)),
}  # fmt: skip

# -- look-ups by data, and operations that read in order --------------------------------------------

LOOKED_UP: dict[str, Entry] = {
    "signs embedded": (
        hidden(lambda m, h: (F.embedding((h > 0).long(), m.pair).sum(1)) @ m.w, pair=(2, 12)), 2 * L(12)
    ),
    "signs meet their embedding": (
        hidden(
            lambda m, h: (F.embedding((h > 0).long(), m.pair) * h[..., None]).sum(1) @ m.w, pair=(2, 12)
        ), 2 * L(12)
    ),
    "bag of rows": (
        hidden(lambda m, h: (F.embedding_bag((h[:, :2] > 0).long(), m.pair, mode="max") * h) @ m.w,
               pair=(2, 12)), L(10)
    ),
    "bag with weights": (
        hidden(
            lambda m, h: F.embedding_bag(
                torch.tensor([[0, 1], [1, 2]]), m.many, mode="sum", per_sample_weights=m.share
            ) @ m.w * h.sum(), many=(7, 12), share=(2, 2),
        ), 2 * L(12)
    ),
    "indexed by two signs": (
        hidden(lambda m, h: m.cube[(h > 0).long(), (h > 0.5).long()].sum(1), cube=(2, 2, 3)), L(12)
    ),
    "indexed by numbers and signs": (
        hidden(lambda m, h: (m.sides[torch.arange(12), (h > 0).long()] * h) @ m.w, sides=(12, 2)), None
    ),
    "units picked by data": (hidden(lambda m, h: h[:, (m.four(h)[0] > 0).long()] @ m.w[:4]), None),
    "frequencies of units": (hidden(lambda m, h: torch.fft.fft(h).abs() @ m.w), 0.0),
    "frequencies of the batch": (hidden(lambda m, h: torch.fft.fft(h, dim=0).abs() @ m.w), L(12)),
    "filtered": (
        hidden(
            lambda m, h: torch.fft.irfft(
                torch.fft.rfft(h[:, :, None] * m.place, dim=2) * torch.view_as_complex(m.pairs), 6, 2
            ).sum(2) @ m.w, place=(6,), pairs=(12, 4, 2),
        ), L(12)
    ),
    "windows": (
        hidden(
            lambda m, h: F.unfold(h[:, :, None, None] * m.place, 2).view(-1, 12, 4, 9).sum(2).amax(2) @ m.w,
            place=(4, 4),
        ), L(12)
    ),
    "windows of units": (hidden(lambda m, h: F.unfold(h.view(-1, 3, 2, 2), 2).sum(2) @ m.w), None),
    "windows added up": (
        hidden(
            lambda m, h: F.fold((h[:, :, None, None] * m.place).flatten(1, 2), (3, 3), 2).sum((2, 3)) @ m.w,
            place=(4, 4),
        ), L(12)
    ),
    "windows added up, channels": (
        hidden(
            lambda m, h: F.fold(h[:, :, None] * m.place, (3, 3), 2).flatten(1) @ m.out,
            place=(4,), out=(27, 3),
        ), L(3)
    ),
    "windows and back": (
        hidden(
            lambda m, h: F.fold(
                F.unfold(h[:, :, None, None] * m.place, 2) * m.scale.view(-1, 1), (4, 4), 2
            ).sum((2, 3)) @ m.w, place=(4, 4), scale=(48,),
        ), L(12)
    ),
    "pairs": (
        hidden(lambda m, h: torch.view_as_complex(h.view(-1, 6, 2).contiguous()).abs() @ m.w[:6]), L(6)
    ),
    "weight norm of rows": (
        hidden(
            lambda m, h: F.linear(h, torch._weight_norm(m.v, m.g, 0)).tanh() @ m.out,
            v=(7, 12), g=(7, 1), out=(7, 3),
        ), L(12) + L(7)
    ),
    "weight norm of columns": (
        hidden(
            lambda m, h: F.linear(h, torch._weight_norm(m.v, m.g, 1)).tanh() @ m.out,
            v=(7, 12), g=(1, 12), out=(7, 3),
        ), L(12) + L(7)
    ),
    "distances": (
        hidden(lambda m, h: torch.cdist(h, m.code) @ m.out, code=(7, 12), out=(7, 3)), L(12) + L(7)
    ),
    "distances of units": (hidden(lambda m, h: torch.cdist(h.T, h.T).sum(1) @ m.w), L(12)),
    "cropped": (hidden(lambda m, h: F.pad(h, (-2, 3)) @ m.out, out=(13, 3)), None),
    "cropped to one": (hidden(lambda m, h: (F.pad(h, (-4, -7)) * m.turn(h)) @ m.w), L(11) + L(12)),
}  # fmt: skip

# -- recurrent layers -------------------------------------------------------------------------------


def recurrent(kind: type[nn.RNNBase], **settings: object) -> Callable[[], nn.Module]:
    return lambda: kind(6, 5, batch_first=True, **settings)  # type: ignore[call-arg]


def _last_states(m, x):
    state = m.r(x)[1]
    return state[0] if isinstance(state, tuple) else state


def _started(m, x):
    """From a state of parameters, one row a layer and direction."""
    start = m.start.expand(len(m.start), len(x), 5).contiguous()
    return m.head(m.r(x, (start, start.sin()) if isinstance(m.r, nn.LSTM) else start)[0].amax(1))


def _summed_directions(m, x):
    first, second = m.r(x)[0].chunk(2, 2)
    return m.head(first.amax(1) + second.amax(1))


def _of(kind: type[nn.RNNBase]) -> dict[str, Entry]:
    name = kind.__name__

    def head(width: int) -> Callable[[], nn.Module]:
        return lambda: nn.Linear(width, 3)

    two, both = recurrent(kind, num_layers=2), recurrent(kind, bidirectional=True)
    twice = recurrent(kind, num_layers=2, bidirectional=True, bias=False)
    one = recurrent(kind)
    hinted = {"": one, ", both directions": both, ", two layers": two}
    return {
        f"{name}": (layers(lambda m, x: m.head(m.r(x)[0][:, -1]), r=one, head=head(5)), L(5)),
        f"{name}, all outputs": (
            layers(lambda m, x: m.head(m.r(x)[0]).sum(1), r=two, head=head(5)), 2 * L(5)
        ),
        f"{name}, last state of two layers": (
            layers(lambda m, x: m.head(_last_states(m, x)[-1]), r=two, head=head(5)), 2 * L(5)
        ),
        f"{name}, states side by side": (
            layers(
                lambda m, x: m.head(_last_states(m, x).transpose(0, 1).flatten(1)), r=two, head=head(10)
            ), 2 * L(5)
        ),
        f"{name}, states summed": (
            layers(lambda m, x: m.head(_last_states(m, x).sum(0)), r=two, head=head(5)), L(5)
        ),
        f"{name}, both directions": (
            layers(lambda m, x: m.head(m.r(x)[0][:, -1]), r=both, head=head(10)), 2 * L(5)
        ),
        f"{name}, directions summed": (layers(_summed_directions, r=both, head=head(5)), L(5)),
        f"{name}, two layers in both directions": (
            layers(lambda m, x: m.head(m.r(x)[0].mean(1)), r=twice, head=head(10)), 4 * L(5)
        ),
        f"{name}, states by layer and direction": (
            layers(
                lambda m, x: m.head(_last_states(m, x).view(2, 2, -1, 5)[1].sum(0)), r=twice, head=head(5)
            ), 3 * L(5)
        ),
        f"{name}, starting where another ends": (
            layers(lambda m, x: m.head(m.q(x, m.r(x.sin())[1])[0][:, -1]), r=two, q=two, head=head(5)),
            2 * L(5),
        ),
        f"{name}, starting where it ends": (
            layers(lambda m, x: m.head(m.r(x, m.r(x.sin())[1])[0][:, -1]), r=one, head=head(5)), L(5)
        ),
        f"{name} of hidden tokens": (
            layers(
                lambda m, x: m.head(m.r(torch.einsum("st,btc->bsc", m.mix, x).tanh())[0].mean(1)),
                r=one, head=head(5), mix=(4, 3),
            ), L(5)
        ),
    } | {
        f"{name}, started{how}": (layers(_started, r=layer, head=head(width), start=(rows, 1, 5)), None)
        for (how, layer), width, rows in zip(hinted.items(), (5, 10, 5), (1, 2, 2), strict=True)
    }  # fmt: skip


PROJECTED = recurrent(nn.LSTM, proj_size=4)
RECURRENT: dict[str, Entry] = _of(nn.LSTM) | _of(nn.GRU) | _of(nn.RNN) | {
    "LSTM with a projection": (
        layers(lambda m, x: m.head(m.r(x)[0][:, -1]), r=PROJECTED, head=lambda: nn.Linear(4, 3)), L(5) + L(4)
    ),
    "LSTM with a projection, both states": (
        layers(
            lambda m, x: m.head(torch.cat([state[-1] for state in m.r(x)[1]], 1)),
            r=PROJECTED, head=lambda: nn.Linear(9, 3),
        ), L(5) + L(4)
    ),
    "LSTM, states exchanged": (
        layers(
            lambda m, x: m.head(m.q(x, m.r(x)[1][::-1])[0][:, -1]),
            r=recurrent(nn.LSTM), q=recurrent(nn.LSTM), head=lambda: nn.Linear(5, 3),
        ), L(5)
    ),
}  # fmt: skip

# -- stacks of parameters ---------------------------------------------------------------------------


def _heads(m, h):
    """Three heads over the batch as tokens, each with orders of its own for queries and keys, and values."""
    q, k, v = (torch.einsum("bi,hij->hbj", h, weight) for weight in (m.q, m.k, m.v))
    return torch.einsum("hbv,hvo->bo", F.scaled_dot_product_attention(q, k, v), m.out)


def _two_maps(m, h, turn: int = 0):
    inner = torch.bmm(h.expand(3, *h.shape), m.up).tanh()
    return torch.bmm(inner.roll(turn, 0), m.down)


UP, DOWN = {"up": (3, 12, 5)}, {"up": (3, 12, 5), "down": (3, 5, 2)}
STACKED: dict[str, Entry] = {
    "maps summed": (hidden(lambda m, h: _two_maps(m, h).sum(0), **DOWN), L(12) + L(3) + 3 * L(5)),
    "maps in order": (hidden(lambda m, h: _two_maps(m, h).cumsum(0), **DOWN), L(12) + 3 * L(5)),
    "maps turned against one another": (
        hidden(lambda m, h: _two_maps(m, h, 1).sum(0), **DOWN), L(12) + L(3) + 3 * L(5)
    ),
    "first axis summed": (
        hidden(lambda m, h: torch.einsum("bi,kij->bj", h, m.up).tanh() @ m.w[:5], **UP), None
    ),
    "first axis summed after a permutation": (
        hidden(lambda m, h: torch.einsum("bi,ikj->bj", h, m.up.permute(1, 0, 2)).tanh() @ m.w[:5], **UP), None
    ),
    "kept after a permutation": (
        hidden(
            lambda m, h: torch.einsum("bi,ikj->bkj", h, m.up.permute(1, 0, 2)).tanh().amax(1) @ m.w[:5], **UP
        ), None
    ),
    "picked and summed": (
        hidden(lambda m, h: ((h @ m.up[0]).tanh().sum(1) + (h @ m.up[1]).tanh().sum(1))[:, None], **UP), None
    ),
    "taken apart and joined": (
        hidden(lambda m, h: (h @ torch.cat(m.up.unbind(0), 1)).tanh().sum(1, keepdim=True), **UP),
        L(12) + 3 * L(5),
    ),
    "read twice": (
        hidden(
            lambda m, h: torch.bmm(
                torch.bmm(h.expand(3, *h.shape), m.up).tanh(), m.up.transpose(1, 2)
            ).sum(0) @ m.w, **UP,
        ), L(12) + L(3) + 3 * L(5)
    ),
    "read in two roles": (
        hidden(
            lambda m, h: torch.bmm(torch.bmm(h.expand(12, *h.shape), m.cube).tanh(), m.cube).sum(0) @ m.w,
            cube=(12, 12, 12),
        ), None
    ),
    "times itself permuted": (
        hidden(
            lambda m, h: (m.cube @ m.cube.permute(1, 0, 2)).tanh().sum((0, 2)) * h[:, :4], cube=(4, 4, 4)
        ), None
    ),
    "vectors added": (
        hidden(lambda m, h: (h.view(-1, 3, 4) + m.three).tanh().sum(1) @ m.w[:4], three=(3, 4)),
        L(3) + L(4),
    ),
    "vectors and their transpose": (
        hidden(lambda m, h: (h[:, :4, None] * (m.four_by + m.four_by.T)).tanh().sum(1), four_by=(4, 4)), None
    ),
    "diagonals of vectors": (
        hidden(
            lambda m, h: (h[:, :6] * m.three[[0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 3]]).tanh().sum(1)[:, None],
            three=(3, 4),
        ), None
    ),
    "vectors that data choose": (
        hidden(
            lambda m, h: (m.three[(h[:, 0] > 0).long()] * h[:, :4]).tanh().sum(1)[:, None], three=(3, 4)
        ), None
    ),
    "matrices that data choose": (
        hidden(
            lambda m, h: torch.einsum("bi,bij->bj", h, m.up[(h[:, 0] > 0).long()]).tanh() @ m.w[:5], **UP
        ), None
    ),
    "the difference of two rows": (
        hidden(lambda m, h: ((m.two[0] - m.two[1]) * h[:, :4]).tanh().sum(1)[:, None], two=(2, 4)), None
    ),
    "heads": (
        hidden(_heads, q=(3, 12, 4), k=(3, 12, 4), v=(3, 12, 5), out=(3, 5, 3)),
        L(12) + L(3) + 3 * (L(4) + L(5)),
    ),
    "experts of two layers": (
        hidden(
            lambda m, h: torch.einsum(
                "be,bek->bk", m.four(h).softmax(1),
                torch.einsum("bej,ejk->bek", torch.einsum("bi,eij->bej", h, m.up).tanh(), m.down),
            ), up=(4, 12, 5), down=(4, 5, 2),
        ), L(12) + L(4) + 4 * L(5)
    ),
}  # fmt: skip

# -- tensors that are changed in place --------------------------------------------------------------


def changed(change: Callable[[nn.Module, Tensor, Tensor], object]) -> Callable[[], nn.Module]:
    """`k` is a function of h, and changed; `w` reads it afterwards."""

    def forward(m, h):
        k = m.turn(h)
        change(m, h, k)
        return k @ m.w

    return hidden(forward)


def _in_autocast(m, h, k):
    view = k.view(-1, 3, 4)
    with torch.autocast("cpu", enabled=False):
        view.mul_(m.four(h)[:, None])


def _with_gradients(m, h, k):
    half = k[:, :6]
    with torch.enable_grad():
        half.mul_(h[:, 6:])


def _chain(m, h, k):
    first = k.relu_()
    second = first.add_(h)
    part = second[:, :6]
    k.mul_(2)
    part.add_(h[:, 6:])


def _picked_out(m, h, k):
    first, second = k.split(6, 1)
    first.mul_(second)


def _transposed_in_place(m, h, k):
    k.t_()
    k.mul_(h.T)
    k.t_()


def _buffer_changed(m, h):
    m.mean.add_(h.mean(0))
    return (m.turn(h) * m.mean) @ m.w


def _buffer_replaced(m, h):
    m.mean = m.mean + h.mean(0)
    return (m.turn(h) * m.mean) @ m.w


def _view_of_a_changed_buffer(m, h):
    view = m.mean.view(3, 4)
    m.mean.copy_(h.mean(0))
    return (m.turn(h).view(-1, 3, 4) * view).flatten(1) @ m.w


def _constants_filled(m, h):
    mask = torch.ones(12, dtype=h.dtype)
    before = mask + 0
    mask[:5] = 2
    return torch.cat([(m.turn(h) * before) @ m.w, (h * mask) @ m.w], 1)


def _constant_overwritten_in_part(m, h):
    mask = torch.zeros(12, dtype=h.dtype)
    mask[:4] = 1
    mask[4:8] = h[0, 4:8]
    return (m.turn(h) * mask) @ m.w


def _written_out(m, h):
    k = torch.empty(len(h), 24, dtype=h.dtype)
    k[:, :12] = h
    k[:, 12:] = m.turn(h)
    return k @ m.many


def _running_list(m, h):
    state, seen = m.turn(h), []
    for _ in range(3):
        state.mul_(h)
        seen += [state.clone(), state[:, :]]
    return torch.stack(seen, 1).sum(1) @ m.w


CHANGED: dict[str, Entry] = {
    "a column": (changed(lambda m, h, k: k[:, 1].add_(h[:, 2])), L(11) + L(11)),
    "a view": (changed(lambda m, h, k: k.view(-1, 3, 4).mul_(m.four(h)[:, None])), None),
    "a contiguous tensor": (changed(lambda m, h, k: k.contiguous().mul_(h)), L(12)),
    "the same type": (changed(lambda m, h, k: k.to(k.dtype).mul_(h)), L(12)),
    "what dropout returned": (changed(lambda m, h, k: F.dropout(k, 0.5, False).mul_(h)), L(12)),
    "an expanded tensor": (changed(lambda m, h, k: k.expand_as(k).mul_(h)), L(12)),
    "broadcast tensors": (changed(lambda m, h, k: torch.broadcast_tensors(k, h)[0].mul_(h)), L(12)),
    "a flattened tensor": (changed(lambda m, h, k: k.flatten().mul_(h.flatten())), L(12)),
    "a piece": (changed(_picked_out), L(12) + L(6)),
    "in an autocast region": (changed(_in_autocast), None),
    "where gradients are recorded": (changed(_with_gradients), None),
    "a chain": (changed(_chain), None),
    "transposed in place": (changed(_transposed_in_place), L(12)),
    "some columns": (changed(lambda m, h, k: k[:, [0, 3, 5]].add_(h[:, [1, 2, 4]])), None),
    "strides": (changed(lambda m, h, k: k.as_strided((5, 3, 4), (12, 4, 1)).mul_(m.four(h)[:, None])), None),
    "by out=": (changed(lambda m, h, k: torch.mul(h * 2, m.turn(h).sin(), out=k)), L(12)),
    "scattered in place": (changed(lambda m, h, k: k.scatter_(1, h.topk(3, 1).indices, 0.0)), L(12)),
    "a buffer": (hidden(_buffer_changed), None),
    "a buffer replaced": (hidden(_buffer_replaced), None),
    "a buffer with a view": (hidden(_view_of_a_changed_buffer), None),
    "constants": (hidden(_constants_filled), L(5) + L(7)),
    "a constant in part": (hidden(_constant_overwritten_in_part), None),
    "empty memory": (hidden(_written_out, many=(24, 3)), 2 * L(12)),
    "a list of states": (hidden(_running_list), L(12)),
}  # fmt: skip

# -- what was unsound once ---------------------------------------------------------------------------


def _twins(h: Tensor) -> Tensor:
    return torch.cat([h, -h], 1)


def _constant_with_a_view(m, h):
    constant = torch.zeros(12, dtype=h.dtype)
    view = constant.view(3, 4)
    constant.add_(1)
    constant.add_(h[0])
    return (m.turn(h).view(-1, 3, 4) * view).flatten(1) @ m.w


def _statistics_read(m, h):
    F.batch_norm(h, m.mean, m.variance, training=True)
    return (m.turn(h) * m.mean) @ m.w


def _statistics_of_instances_read(m, h):
    mean, variance = m.mean * 1, m.variance * 1
    places = h[:, :, None] * torch.arange(1, 4)
    F.instance_norm(places, mean, variance, use_input_stats=True)
    return (m.turn(h) * mean) @ m.w


def _beside_its_size(m, h):
    number = h.sum() - 9
    return torch.cat([number.expand(3), torch.linalg.vector_norm(number).expand(3)]) @ m.out


_TWICE = "numbers that point at an axis on which a unit occurs twice know nothing of the positions"
_TIES = "which of two equal units comes first depends on their places"
_ORDER = "top-k that need not be sorted gives an order that depends on places"
_BOOL = "a cast to truth values changes the numbers, which still count as those of units"
_VIEW = "the operation returns a view, and its schema does not say so"
_PADDING = "two paddings of one value count as the same content, though one went through a function since"
_SCALAR = "a reduction of a single number counts as that number"
_STATISTICS = "the norm writes to its statistics, and its schema does not say so"
_WRONG: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "twins marked": (
        hidden(lambda m, h: mark(_twins(h).topk(3, 1).indices, 24, h).sum(1) @ m.many, many=(24, 3)), _TWICE
    ),
    "rows of twins": (hidden(lambda m, h: rows(m.many, _twins(h).argmax(1)), many=(24, 3)), _TWICE),
    "twins compared with numbers": (
        hidden(
            lambda m, h: (_twins(h).argmax(1)[:, None] == torch.arange(24)).to(h.dtype) @ m.many,
            many=(24, 3),
        ), _TWICE
    ),
    "twins scattered": (
        hidden(
            lambda m, h: torch.zeros(len(h), 24, dtype=h.dtype).scatter(
                1, _twins(h).topk(3, 1).indices, 1.0
            ) @ m.many, many=(24, 3),
        ), _TWICE
    ),
    "first positive unit": (hidden(lambda m, h: rows(m.w, (h > 0).long().argmax(1))), _TIES),
    "top of rectified units": (
        hidden(lambda m, h: rows(m.w, (h - 0.5).relu().topk(4, 1).indices)), _TIES
    ),
    "largest of clamped units": (
        hidden(lambda m, h: rows(m.w, h.clamp(-0.1, 0.1).argmax(1))), _TIES
    ),
    "largest of rounded units": (hidden(lambda m, h: rows(m.w, (3 * h).round().argmax(1))), _TIES),
    "smallest of masked units": (
        hidden(lambda m, h: rows(m.w, (h * (torch.arange(12) < 3)).argmin(1))), _TIES
    ),
    "top of replaced units": (
        hidden(
            lambda m, h: rows(m.w, torch.where(h > 0, h, torch.zeros_like(h)).topk(8, 1).indices)
        ), _TIES
    ),
    "top of scattered units": (
        hidden(
            lambda m, h: rows(
                m.w, torch.zeros_like(h).scatter(1, h.topk(2, 1).indices, 1.0).topk(4, 1).indices
            )
        ), _TIES
    ),
    "order of marks": (
        hidden(lambda m, h: rows(m.w, mark(h.argmax(1), 12, h).argsort(1)[:, 0])), _TIES
    ),
    "top in any order": (
        hidden(lambda m, h: m.wide(h).topk(12, 1, sorted=False).values @ m.w), _ORDER
    ),
    "gathered in any order": (
        hidden(lambda m, h: m.wide(h).gather(1, m.wide(h).topk(12, 1, sorted=False).indices) @ m.w),
        _ORDER,
    ),
    "number as a truth and back": (hidden(lambda m, h: rows(m.w, h.argmax(1).bool().long())), _BOOL),
    "a constant with a view": (
        hidden(_constant_with_a_view),
        "a view of a constant that was changed by constants first loses what data do to it",
    ),
    "index notation that is a view": (
        changed(lambda m, h, k: torch.einsum("ij->ji", k).mul_(h.T)), _VIEW
    ),
    "a mesh that is a view": (
        changed(lambda m, h, k: torch.meshgrid(k.view(-1), indexing="ij")[0].view(-1, 12).mul_(h)), _VIEW
    ),
    "statistics of a batch": (hidden(_statistics_read), _STATISTICS),
    "statistics of instances": (hidden(_statistics_of_instances_read), _STATISTICS),
    "top of units masked by data": (
        hidden(lambda m, h: mark((h * (h > 0.3)).topk(6, 1).indices, 12, h).sum(1) @ m.w), _TIES
    ),
    "top of gated units": (
        hidden(lambda m, h: mark((h.relu() * m.turn(h)).topk(9, 1).indices, 12, h).sum(1) @ m.w), _TIES
    ),
    "top of shares": (
        hidden(lambda m, h: mark((h.relu() / m.turn(h).exp()).topk(9, 1).indices, 12, h).sum(1) @ m.w), _TIES
    ),
    "top of distances from the largest": (
        hidden(
            lambda m, h: (h.view(-1, 6, 2) - h.view(-1, 6, 2).amax(2, keepdim=True))
            .flatten(1).argmax(1, keepdim=True).eq(torch.arange(12)).to(h.dtype) @ m.w
        ), _TIES
    ),
    "top of rounded shares": (
        hidden(
            lambda m, h: mark(
                torch.div(h, 0.3, rounding_mode="floor").topk(3, 1).indices, 12, h
            ).sum(1) @ m.w
        ), _TIES
    ),
    "padded twice": (
        hidden(lambda m, h: m.mix @ F.pad(F.pad(h, (0, 0, 1, 0)).cos(), (0, 0, 1, 0)) @ m.w, mix=(3, 7)),
        _PADDING,
    ),
    "padded twice along two axes": (
        hidden(
            lambda m, h: m.mix @ F.pad(
                F.pad(F.pad(h, (0, 0, 1, 0), value=0.5), (1, 1)), (0, 0, 1, 0), value=0.5
            ) @ m.out, mix=(3, 7), out=(14, 3),
        ), _PADDING
    ),
    "windows padded twice": (
        hidden(
            lambda m, h: (F.unfold(F.pad(h.T[None, :, None], (1, 1)).cos(), 1, padding=(0, 1))[0] @ m.mix).T
            @ m.w, mix=(9, 4),
        ), _PADDING
    ),
    "the size of a number": (hidden(_beside_its_size, out=(6, 3)), _SCALAR),
}  # fmt: skip

_SMALL = "the group is too small: ranked elements that do not tie count as if they might"
# What is wrong today, with the reason: unsound, or a group that is smaller than by hand.
DEFECTS: dict[str, str] = {
    "ranked: largest of a product": _SMALL,
    "ranked: nearest units": _SMALL,
    "ranked: nearest row of a code book": _SMALL,
}
LOOKUPS: dict[str, Entry] = {
    **{f"ranked: {name}": entry for name, entry in RANKINGS.items()},
    **{f"looked up: {name}": entry for name, entry in LOOKED_UP.items()},
    **{f"recurrent: {name}": entry for name, entry in RECURRENT.items()},
    **{f"stacked: {name}": entry for name, entry in STACKED.items()},
    **{f"changed: {name}": entry for name, entry in CHANGED.items()},
    **{name: (build, None) for name, (build, _) in _WRONG.items()},
}

# What works for one batch size only.
SINGLE_BATCH = {
    "padded twice", "padded twice along two axes", "windows padded twice",
    "looked up: bag with weights", "changed: strides", "a mesh that is a view",
}  # fmt: skip

# Refused: nothing tells that the piece is a view.
UNSAFE_PIECE = changed(lambda m, h, k: k.unsafe_chunk(2, 1)[1].mul_(h[:, 6:]))

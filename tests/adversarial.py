"""Networks in which a careless rule would break the function: soundness is asked of all of them.

Each has twelve hidden units that an operation treats in a peculiar way. The number is log2 of the order of
the group where it was worked out by hand, or None where only soundness is asked. Hidden units that nothing
reads are free: they count; parts of parameters that nothing reads may not move.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import Calls, L

Forward = Callable[[nn.Module, Tensor], object]


def hidden(forward: Forward, out: int = 12) -> Callable[[], nn.Module]:
    """Linear, tanh, the peculiar operation, and a linear head on `out` features."""

    def build() -> nn.Module:
        return Calls(
            lambda m, x: forward(m, torch.tanh(m.first(x))),
            first=nn.Linear(6, 12), second=nn.Linear(6, 12), head=nn.Linear(out, 3), turn=nn.Linear(12, 12),
            four=nn.Linear(12, 4), gn=nn.GroupNorm(3, 12), gn2=nn.GroupNorm(6, 12), norm=nn.LayerNorm(12),
            two=nn.Linear(2, 8), pieces=nn.Linear(24, 12), outs=nn.Linear(8, 3),
        )  # fmt: skip

    return build


def _overwritten(m, h):
    h = h.clone()
    h[:, :2] = 0
    h[:, 4:7] *= 2
    return m.head(h)


def _straddling(m, h):
    both = torch.cat([m.four(h), F.relu(m.four(h) * 2)[:, :2], m.turn(h)[:, :6]], 1)
    return m.head(m.gn(both))


def _table(h):
    """A function of every two units that is not symmetric in them."""
    return torch.tanh(h[:, :, None] + 2 * torch.sin(h)[:, None])


def _beside_its_mirror_image(m, h):
    table = _table(h)
    return m.head(m.pieces(torch.cat([table, table.mT], 1).mT).relu().sum(1)[:, :12])


def _put_together_beside_its_mirror_image(m, h):
    table = _table(h)
    whole = torch.cat([table[:, :5], table[:, 5:]], 1)
    return m.head(m.pieces(torch.cat([table.mT, whole], 1).mT).relu().sum(1)[:, :12])


def _row_and_column(m, h):
    table = _table(h)
    return m.pieces(torch.cat([table[:, 1], table[:, :, 1]], 1))


def _two_diagonals(m, h):
    table, first = _table(h), [0, 1, 2, 3, 4, 5]
    return m.head(torch.cat([table[:, first, first], table[:, first, [6, 7, 8, 9, 10, 11]]], 1))


def _data_decide_a_shape(m, h):
    return m.head(h) * h[h > 0].sum()


def _two_norms(m, h):
    return m.head(m.gn2(F.relu(m.gn(h))))


ADVERSARIAL: dict[str, tuple[Callable[[], nn.Module], float | None]] = {
    "cumulative sum": (hidden(lambda m, h: m.head(h.cumsum(1))), 0.0),
    "cumulative sum over the batch": (hidden(lambda m, h: m.head(h.cumsum(0))), L(12)),
    "flip": (hidden(lambda m, h: m.head(h + h.flip(1))), None),
    "flip without meeting": (hidden(lambda m, h: m.head(h.flip(1))), L(12)),
    "roll by one": (hidden(lambda m, h: m.head(h + h.roll(1, 1))), 0.0),
    "roll by three": (hidden(lambda m, h: m.head(h * h.roll(3, 1))), None),
    "roll there and back": (hidden(lambda m, h: m.head(h * h.roll(3, 1).roll(-3, 1))), L(12)),
    "outer product": (
        hidden(lambda m, h: m.head((h[:, :, None] * m.four(h)[:, None]).flatten(1)), 48), L(12) + L(4)
    ),
    "outer square": (hidden(lambda m, h: m.head((h[:, :, None] * h[:, None]).flatten(1)), 144), None),
    "gram matrix": (hidden(lambda m, h: h @ h.T), L(12)),
    "sorted": (hidden(lambda m, h: m.head(h.sort(1).values)), None),
    "argmax": (hidden(lambda m, h: h.argmax(1)), 0.0),
    "index of the maximum": (hidden(lambda m, h: m.head(h + h.max(1)[1][:, None])), 0.0),
    "value of the maximum": (hidden(lambda m, h: m.head(h * h.max(1)[0][:, None])), L(12)),
    "gather by data": (hidden(lambda m, h: m.head(h.gather(1, h.argsort(1)))), None),
    "constant that varies": (hidden(lambda m, h: m.head(h * torch.arange(12))), 0.0),
    "constant in two halves": (hidden(lambda m, h: m.head(h * (torch.arange(12) < 5))), L(5) + L(7)),
    "constant that does not vary": (hidden(lambda m, h: m.head(h * torch.full((12,), 2.0))), L(12)),
    "unit used by position": (hidden(lambda m, h: torch.cat([m.head(h), h[:, 4:5]], 1)), L(11)),
    "gate from one unit": (hidden(lambda m, h: m.head(h * h[:, 3:4])), L(11)),
    "selected unit": (hidden(lambda m, h: m.head(h) + h[:, 7][:, None].abs()), L(11)),
    "sum of a part": (hidden(lambda m, h: m.head(h) * h[:, :5].sum(1, keepdim=True)), L(5) + L(7)),
    "repeated index": (hidden(lambda m, h: h[:, [0, 0, 1, 2, 3]].sum(1)), L(3) + L(8)),
    "strided slices": (hidden(lambda m, h: m.head(h[:, ::2] * h[:, 1::2]), 6), L(6)),
    "overlapping slices": (hidden(lambda m, h: m.head(h[:, :8] * h[:, 2:10]), 8), None),
    "with itself beside it": (hidden(lambda m, h: m.head(torch.cat([h, h.exp()], 1)), 24), L(12)),
    "twice the same": (hidden(lambda m, h: m.head(torch.cat([h, h], 1)), 24), L(12) + 12 * L(2)),
    "with its mirror image": (
        hidden(lambda m, h: m.head(torch.cat([h, h.flip(1)], 1)), 24), L(12) + 12 * L(2)
    ),
    "stacked and summed": (hidden(lambda m, h: m.head(torch.stack([h, h.exp()], 1).sum(1))), L(12)),
    "interleaved": (hidden(lambda m, h: m.head(torch.stack([h, h.exp()], 2).flatten(1)), 24), L(12)),
    "parts of it exchanged": (hidden(lambda m, h: m.head(torch.cat([h[:, 6:], h[:, :6]], 1))), L(12)),
    "a part of it transformed": (
        hidden(lambda m, h: m.head(torch.cat([h[:, 6:], h[:, :6].exp()], 1))), 2 * L(6)
    ),
    # Pieces of one tensor whose other axes hold other units: the columns of `two` may not be exchanged.
    "halves stacked": (
        hidden(lambda m, h: m.outs(m.two(torch.stack(h.chunk(2, 1), 2)).relu().sum(1))), L(6) + L(8)
    ),
    "halves as rows": (
        hidden(lambda m, h: m.outs(m.two(torch.cat(h[:, None].chunk(2, 2), 1).mT).relu().sum(1))), L(6) + L(8)
    ),
    "even and odd stacked": (
        hidden(lambda m, h: m.outs(m.two(torch.stack([h[:, ::2], h[:, 1::2]], 1).mT).relu().sum(1))),
        L(6) + L(8),
    ),
    "halves interleaved": (
        hidden(lambda m, h: m.head(torch.stack(h.chunk(2, 1), 2).flatten(1))), L(6)
    ),
    "table beside its mirror image": (hidden(_beside_its_mirror_image), 2 * L(12)),
    "table put together beside its mirror image": (hidden(_put_together_beside_its_mirror_image), 2 * L(12)),
    "row and column of a table": (hidden(_row_and_column), L(11)),
    "two diagonals of a table": (hidden(_two_diagonals), L(6)),
    "data decide a shape": (hidden(_data_decide_a_shape), 0.0),
    "data decide a number": (hidden(lambda m, h: m.head(h * (h > 0).sum().item())), L(12)),
    "one unit as a number": (hidden(lambda m, h: m.head(h * h[0, 3].item())), L(11)),
    "gated by its other half": (hidden(lambda m, h: m.head(F.glu(h)), 6), L(6)),
    "the larger of two": (hidden(lambda m, h: m.head(torch.max(h, m.turn(h)))), L(12)),
    "the smaller of two": (hidden(lambda m, h: m.head(torch.min(h, m.turn(h)))), L(12)),
    "outer product of vectors": (hidden(lambda m, h: m.head(torch.outer(h[:, 0].exp(), h[0]))), L(11)),
    "index notation": (
        hidden(lambda m, h: torch.einsum("bi,oi->bo", h, m.head.weight * torch.einsum("...i->i", h))), L(12)
    ),
    "index notation in order": (hidden(lambda m, h: torch.einsum("...a,bc->...abc", h, h).sum(2)), 0.0),
    "index notation over a diagonal": (
        hidden(lambda m, h: m.head(torch.einsum("bi,ii->bi", h, m.turn.weight))), None
    ),
    "bilinear map": (
        hidden(lambda m, h: F.bilinear(h, m.four(h), m.turn.weight.view(3, 12, 4))), None
    ),
    "reflected places": (
        hidden(lambda m, h: m.head(F.pad(h[:, :, None].expand(-1, -1, 3), (1, 1), "replicate").sum(2))), L(12)
    ),
    "taken apart": (hidden(lambda m, h: m.head(torch.stack(h.unbind(1), 1))), 0.0),
    "picked units beside one another": (hidden(lambda m, h: torch.cat([h[:, :1], h[:, 5:6]], 1)), L(10)),
    "looked up": (
        hidden(lambda m, h: m.head(F.embedding(torch.arange(5), m.turn.weight) * h)), L(12)
    ),
    "softmax": (hidden(lambda m, h: m.head(h.softmax(1))), L(12)),
    "softmax over the batch": (hidden(lambda m, h: m.head(h.softmax(0))), L(12)),
    "pooling over units": (hidden(lambda m, h: m.head(F.avg_pool1d(h[:, None], 2)[:, 0]), 6), None),
    "global pooling over units": (hidden(lambda m, h: F.adaptive_avg_pool1d(h[:, None], 1)), L(12)),
    "interpolated units": (hidden(lambda m, h: m.head(F.interpolate(h[:, None], 24)[:, 0]), 24), None),
    "windows of units": (hidden(lambda m, h: m.head(h.unfold(1, 4, 2).mean(2)), 5), None),
    "convolution along units": (hidden(lambda m, h: F.conv1d(h[:, None], m.four.weight[:, None, :3])), 0.0),
    "padding in the middle": (hidden(lambda m, h: m.head(F.pad(h[:, :8], (1, 3)))), L(8) + 2 * L(4)),
    "reflected padding": (hidden(lambda m, h: m.head(F.pad(h[:, None, :8], (2, 2), "reflect")[:, 0])), None),
    "overwritten slice": (hidden(_overwritten), L(2) + L(3) + L(7)),
    "group norm": (hidden(lambda m, h: m.head(m.gn(h))), L(3) + 3 * L(4)),
    "two group norms": (hidden(_two_norms), L(3) + 3 * L(2) + 6 * L(2)),
    "group norm across a concatenation": (hidden(_straddling), None),
    "batch statistics": (hidden(lambda m, h: m.head(F.batch_norm(h, None, None, training=True))), L(12)),
    "lower triangle": (hidden(lambda m, h: m.head(h[:, None].expand(-1, 12, -1).tril().sum(1))), 0.0),
    "masked by itself": (hidden(lambda m, h: m.head(torch.where(h > 0, h, m.turn(h)))), L(12)),
    "standard deviation": (hidden(lambda m, h: m.head((h - h.mean(1, True)) / h.std(1)[:, None])), L(12)),
    "two branches added": (hidden(lambda m, h: m.head(m.turn(h) + h)), L(12)),
    "channel shuffle": (
        hidden(lambda m, h: m.head(h.view(-1, 3, 4).transpose(1, 2).reshape(-1, 12) * h)), None
    ),
    "weights used as data": (hidden(lambda m, h: m.head(h * m.turn.weight.diagonal())), L(12)),
    "weights summed": (hidden(lambda m, h: m.head(h @ m.turn.weight * m.turn.weight.sum(1))), L(12)),
    "loop of three": (hidden(lambda m, h: m.head(h + h[:, [1, 2, 0, 4, 5, 3, 7, 8, 6, 10, 11, 9]])), None),
    "loops turned differently": (
        hidden(lambda m, h: m.head(h + h[:, [1, 2, 0, 5, 3, 4, 7, 8, 6, 11, 9, 10]])), None
    ),
    "random mask": (hidden(lambda m, h: m.head(h * (torch.rand(12) > 2))), 0.0),
}  # fmt: skip

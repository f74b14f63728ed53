"""The zoo: recurrent networks, state spaces, mixtures of experts and others, with their orders by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from cases import Calls, Case, Integers, Joined, L

# -- recurrent ------------------------------------------------------------------------------------


def recurrent(kind: Callable[..., nn.Module], out: int, **settings) -> Callable[[], nn.Module]:
    """A recurrent network over five features, and a head on the mean of its steps."""

    def build() -> nn.Module:
        return Calls(
            lambda m, x: m.head(m.body(x)[0].mean(1)),
            body=kind(5, 6, batch_first=True, **settings), head=nn.Linear(out, 3),
        )  # fmt: skip

    return build


def language_model() -> nn.Module:
    """Embedding and output share one table."""

    def forward(m, x):
        y, (last, cell) = m.body(m.embed(x))
        return m.head(y), last.sum(-1), cell.sum(-1)

    module = Calls(
        forward, embed=nn.Embedding(11, 8), body=nn.LSTM(8, 8, batch_first=True), head=nn.Linear(8, 11)
    )
    module.head.weight = module.embed.weight
    return module


def cells() -> nn.Module:
    """Cells that a loop in Python runs."""

    def forward(m, x):
        h = c = x.new_zeros(x.shape[0], 6)
        z = x.new_zeros(x.shape[0], 7)
        for step in x.unbind(1):
            h, c = m.lstm(step, (h, c))
            z = m.gru(h, z)
        return m.head(z)

    return Calls(forward, lstm=nn.LSTMCell(5, 6), gru=nn.GRUCell(6, 7), head=nn.Linear(7, 3))


def attentive_translator() -> nn.Module:
    """A bidirectional encoder read by additive attention in every step of a decoder."""

    def forward(m, source, target):
        memory, _ = m.encoder(m.source(source))
        keys = m.key(memory)
        state = torch.tanh(m.start(memory.mean(1)))
        outs = []
        for step in m.target(target).unbind(1):
            weights = m.score(torch.tanh(keys + m.query(state)[:, None])).softmax(1)
            state = m.decoder(torch.cat([step, (weights * memory).sum(1)], 1), state)
            outs.append(m.head(state))
        return torch.stack(outs, 1)

    return Calls(
        forward, source=nn.Embedding(9, 5), encoder=nn.GRU(5, 6, batch_first=True, bidirectional=True),
        key=nn.Linear(12, 7), query=nn.Linear(8, 7, bias=False), score=nn.Linear(7, 1, bias=False),
        start=nn.Linear(12, 8), target=nn.Embedding(8, 4), decoder=nn.GRUCell(16, 8), head=nn.Linear(8, 8),
    )  # fmt: skip


# -- convolutions over time -----------------------------------------------------------------------


def wave_net() -> nn.Module:
    """Dilated causal convolutions, tanh times sigmoid, and a skip from every layer."""

    def forward(m, x):
        x, total = m.enter(x), 0
        for number, layer in enumerate(m.layers):
            step = 2**number
            a, b = layer["gate"](F.pad(x, (step, 0))).chunk(2, 1)
            y = torch.tanh(a) * torch.sigmoid(b)
            x, total = x + layer["stay"](y), total + layer["skip"](y)
        return m.leave(F.relu(m.middle(F.relu(total))))

    layers = nn.ModuleList(
        nn.ModuleDict(
            {
                "gate": nn.Conv1d(6, 2 * 7, 2, dilation=2**number),
                "stay": nn.Conv1d(7, 6, 1),
                "skip": nn.Conv1d(7, 8, 1),
            }
        )
        for number in range(3)
    )
    return Calls(
        forward, enter=nn.Conv1d(4, 6, 1), layers=layers, middle=nn.Conv1d(8, 9, 1), leave=nn.Conv1d(9, 4, 1)
    )


def temporal_network() -> nn.Module:
    """Weight-normed convolutions: each weight is a direction and a length."""

    def forward(m, x):
        y = F.relu(m.conv2(F.pad(F.relu(m.conv1(F.pad(x, (2, 0)))), (2, 0))))
        return m.head((y + m.side(x))[:, :, -1])

    return Calls(
        forward, conv1=weight_norm(nn.Conv1d(4, 7, 3)), conv2=weight_norm(nn.Conv1d(7, 6, 3)),
        side=nn.Conv1d(4, 6, 1), head=nn.Linear(6, 3),
    )  # fmt: skip


# -- state spaces ---------------------------------------------------------------------------------


class SelectiveScan(nn.Module):
    """The selective state space of Mamba, step by step."""

    def __init__(self, width: int, inner: int, rank: int, state: int):
        super().__init__()
        self.rank, self.state = rank, state
        self.norm = nn.RMSNorm(width)
        self.enter, self.leave = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)
        self.conv = nn.Conv1d(inner, inner, 3, padding=2, groups=inner)
        self.choose, self.step = nn.Linear(inner, rank + 2 * state, bias=False), nn.Linear(rank, inner)
        self.decay = nn.Parameter(torch.log(torch.arange(1.0, state + 1)).repeat(inner, 1))
        self.direct = nn.Parameter(torch.ones(inner))

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.enter(self.norm(x)).chunk(2, -1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        step, enter, leave = self.choose(u).split([self.rank, self.state, self.state], -1)
        step = F.softplus(self.step(step))
        keep = torch.exp(step[..., None] * -torch.exp(self.decay))
        new = step[..., None] * enter[:, :, None] * u[..., None]
        h, outs = torch.zeros_like(new[:, 0]), []
        for t in range(x.shape[1]):
            h = keep[:, t] * h + new[:, t]
            outs.append((h * leave[:, t, None]).sum(-1))
        y = torch.stack(outs, 1) + u * self.direct
        return x + self.leave(y * F.silu(gate))


def state_space() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(9, 8), *(SelectiveScan(8, 10, 3, 4) for _ in range(2)), nn.RMSNorm(8), nn.Linear(8, 9)
    )


# -- mixtures of experts --------------------------------------------------------------------------


class Mixture(nn.Module):
    """Four experts in stacked parameters; each token goes to the best two, or to all in proportion."""

    def __init__(self, width: int, hidden: int, choose: str):
        super().__init__()
        self.choose = choose
        self.router = nn.Linear(width, 4)
        self.up = nn.Parameter(torch.randn(4, width, hidden) / 2)
        self.offset = nn.Parameter(torch.randn(4, hidden) / 2)
        self.down = nn.Parameter(torch.randn(4, hidden, width) / 2)

    def weights(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        if self.choose == "all":
            return scores.softmax(-1)
        best, chosen = scores.softmax(-1).topk(2, -1)
        best = best / best.sum(-1, keepdim=True)
        if self.choose == "scatter":
            return torch.zeros_like(scores).scatter(-1, chosen, best)
        return (F.one_hot(chosen, 4).to(best.dtype) * best[..., None]).sum(-2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(torch.einsum("nd,edh->neh", x, self.up) + self.offset)
        return torch.einsum("ne,neh,ehd->nd", self.weights(x), h, self.down)


def mixture(choose: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return Calls(
            lambda m, x: m.head((h := m.enter(x)) + m.experts(m.norm(h))),
            enter=nn.Linear(5, 6), norm=nn.LayerNorm(6), experts=Mixture(6, 5, choose), head=nn.Linear(6, 3),
        )  # fmt: skip

    return build


def listed_experts() -> nn.Module:
    """Experts as modules in a list, all run, weighted by a masked softmax."""

    def forward(m, x):
        scores = m.router(x)
        least = scores.topk(2, -1).values[:, -1:]
        gates = scores.masked_fill(scores < least, -torch.inf).softmax(-1)
        return torch.stack([expert(x) for expert in m.experts], 1).mul(gates[..., None]).sum(1)

    experts = nn.ModuleList(
        nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)) for _ in range(4)
    )  # fmt: skip
    return Calls(forward, router=nn.Linear(5, 4), experts=experts)


# -- others ---------------------------------------------------------------------------------------


def bags() -> nn.Module:
    def forward(m, words, offsets):
        return m.head(torch.tanh(m.middle(m.bags(words, offsets))))

    return Calls(
        forward, bags=nn.EmbeddingBag(12, 6, mode="mean"), middle=nn.Linear(6, 7), head=nn.Linear(7, 3)
    )


def maxout() -> nn.Module:
    def forward(m, x):
        return m.head(m.pieces(x).view(-1, 4, 3).amax(-1))

    return Calls(forward, pieces=nn.Linear(5, 12), head=nn.Linear(4, 3))


def highway() -> nn.Module:
    def forward(m, x):
        x = m.enter(x)
        for change, carry in zip(m.change, m.carry, strict=True):
            gate = torch.sigmoid(carry(x))
            x = gate * F.relu(change(x)) + (1 - gate) * x
        return m.head(x)

    return Calls(
        forward, enter=nn.Linear(5, 8), head=nn.Linear(8, 3),
        change=nn.ModuleList(nn.Linear(8, 8) for _ in range(3)),
        carry=nn.ModuleList(nn.Linear(8, 8) for _ in range(3)),
    )  # fmt: skip


def graph_network() -> nn.Module:
    """Graph convolution, then graph attention with two heads, then the mean over nodes."""

    def forward(m, x, edges):
        x = F.relu(edges @ m.first(x) / edges.shape[-1])
        h = m.second(x).unflatten(-1, (2, 4))
        scores = (h * m.here).sum(-1)[:, :, None] + (h * m.there).sum(-1)[:, None]
        weights = F.leaky_relu(scores, 0.2).softmax(2)
        return m.head(F.elu(torch.einsum("bijh,bjhd->bihd", weights, h)).flatten(2).mean(1))

    module = Calls(forward, first=nn.Linear(5, 7), second=nn.Linear(7, 8), head=nn.Linear(8, 3))
    module.here, module.there = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(2, 4))
    return module


def autoencoder() -> nn.Module:
    """Two layers down, and up again through the same weights transposed."""

    def forward(m, x):
        z = torch.tanh(m.second(torch.tanh(m.first(x))))
        y = torch.tanh(F.linear(z, m.second.weight.t(), m.back))
        return F.linear(y, m.first.weight.t(), m.out)

    module = Calls(forward, first=nn.Linear(7, 9), second=nn.Linear(9, 4))
    module.back, module.out = nn.Parameter(torch.randn(9)), nn.Parameter(torch.randn(7))
    return module


SEQUENCE = (2, 4, 5)

# A gate is h rows of weight_ih and of weight_hh, in the same order for every gate, and the order in which the
# next step reads the state: h! for each layer and direction.
SEQUENCES = (
    Case(
        "lstm", recurrent(nn.LSTM, 6, num_layers=2), SEQUENCE, 2 * L(6),
        joined=(
            Joined(
                "body.weight_ih_l0[0] body.weight_hh_l0[0] body.weight_hh_l0[1] body.bias_ih_l0[0] "
                "body.bias_hh_l0[0] body.weight_ih_l1[1]", 6, within=0,
            ),
            Joined("body.weight_ih_l1[0] body.weight_hh_l1[0] body.weight_hh_l1[1] head.weight[1]", 6),
        ),
    ),
    Case(
        "lstm_both_ways", recurrent(nn.LSTM, 12, num_layers=2, bidirectional=True), SEQUENCE, 4 * L(6),
        joined=(
            # The second layer reads both directions of the first, one behind the other.
            Joined("body.weight_hh_l0[1] body.weight_ih_l1[1] body.weight_ih_l1_reverse[1]", 6, within=0),
            Joined("body.weight_hh_l0_reverse[1] body.weight_ih_l1[1] body.weight_ih_l1_reverse[1]", 6),
            Joined("body.weight_hh_l1_reverse[0] head.weight[1]", 6, within=0),
        ),
    ),
    Case(
        "lstm_projected", recurrent(nn.LSTM, 4, num_layers=2, proj_size=4), SEQUENCE,
        # The cell's units, and the projected ones that the next step and the next layer read.
        2 * (L(6) + L(4)),
        joined=(
            Joined("body.weight_ih_l0[0] body.weight_hh_l0[0] body.weight_hr_l0[1]", 6, within=0),
            Joined("body.weight_hr_l0[0] body.weight_hh_l0[1] body.weight_ih_l1[1]", 4, within=0),
        ),
    ),
    Case(
        "gru", recurrent(nn.GRU, 6, num_layers=2, dropout=0.1), SEQUENCE, 2 * L(6),
        joined=(Joined("body.weight_ih_l0[0] body.weight_hh_l0[1] body.weight_ih_l1[1]", 6, within=0),),
    ),
    Case("gru_both_ways", recurrent(nn.GRU, 12, bidirectional=True), SEQUENCE, 2 * L(6)),
    Case(
        "rnn", recurrent(nn.RNN, 6, num_layers=2, nonlinearity="relu"), SEQUENCE, 2 * L(6),
        joined=(Joined("body.weight_hh_l1[0] body.weight_hh_l1[1] body.bias_hh_l1[0] head.weight[1]", 6),),
    ),
    Case(
        "language_model", language_model, Integers((2, 4), 11),
        # The table is embedding and head at once, so that the input of the LSTM has the order of its state.
        L(8),
        joined=(Joined("embed.weight[1] body.weight_ih_l0[1] body.weight_hh_l0[1] body.bias_hh_l0[0]", 8),),
    ),
    Case("cells", cells, SEQUENCE, L(6) + L(7)),
    Case(
        "attentive_translator", attentive_translator, (Integers((2, 4), 9), Integers((2, 3), 8)),
        # Source embedding; both directions; the score's width; the target's embedding; the decoder's state.
        L(5) + 2 * L(6) + L(7) + L(4) + L(8),
        joined=(
            Joined("encoder.weight_hh_l0_reverse[1] key.weight[1] start.weight[1] decoder.weight_ih[1]", 6),
            Joined("key.weight[0] key.bias[0] query.weight[0] score.weight[1]", 7, within=0),
            Joined("start.weight[0] query.weight[1] decoder.weight_hh[1] head.weight[1]", 8, within=0),
        ),
    ),
    Case(
        "wave_net", wave_net, (2, 4, 8),
        # The stream, what the skips add up to, the inner width of each of three layers, and the last width.
        L(6) + L(8) + 3 * L(7) + L(9),
        joined=(
            Joined("enter.weight[0] layers.0.stay.weight[0] layers.2.gate.weight[1]", 6, within=0),
            Joined("layers.0.skip.weight[0] layers.2.skip.bias[0] middle.weight[1]", 8, within=0),
            Joined("layers.1.gate.weight[0] layers.1.stay.weight[1] layers.1.skip.weight[1]", 7, within=0),
        ),
    ),
    Case(
        "temporal_network", temporal_network, (2, 4, 8), L(7) + L(6),
        joined=(
            Joined(
                "conv1.parametrizations.weight.original0[0] conv1.parametrizations.weight.original1[0] "
                "conv1.bias[0] conv2.parametrizations.weight.original1[1]", 7, within=0,
            ),
        ),
    ),
    Case(
        "state_space", state_space, Integers((2, 5), 9),
        # The stream; in both layers the inner channels, the rank of the step size, and the states, which all
        # channels share: rows of `decay` are channels, its columns states.
        L(8) + 2 * (L(10) + L(3) + L(4)),
        joined=(
            Joined(
                "1.enter.weight[0] 1.conv.weight[0] 1.choose.weight[1] 1.step.weight[0] 1.decay[0] "
                "1.direct[0] 1.leave.weight[1]", 10, within=0,
            ),
            Joined("1.choose.weight[0] 1.step.weight[1]", 3, within=0),
            Joined("1.choose.weight[0] 1.decay[1]", 4, within=0),
        ),
    ),
    # The stream; the experts, which take their router row along; in every expert its own hidden units.
    *(
        Case(
            f"experts_{choose}", mixture(choose), (7, 5), L(6) + L(4) + 4 * L(5),
            joined=(
                Joined("experts.router.weight[0] experts.router.bias[0] experts.up[0] experts.down[0]", 4),
                Joined("experts.up[2] experts.offset[1] experts.down[1]", 20, within=4),
            ),
        )
        for choose in ("all", "scatter", "one_hot")
    ),
    Case(
        # Experts in a list may change places too, but with whole parameters, not with units along an axis of
        # one: that is outside the group by definition. Inside each expert there are its hidden units.
        "listed_experts", listed_experts, (7, 5), 4 * L(6),
    ),
    Case(
        "bags", bags, (Integers((9,), 12), torch.tensor([0, 2, 3, 7])), L(6) + L(7),
        joined=(Joined("bags.weight[1] middle.weight[1]", 6, within=0),),
    ),
    Case(
        "maxout", maxout, (4, 5), L(4) + 4 * L(3),
        joined=(Joined("pieces.weight[0] pieces.bias[0] head.weight[1]", 4, within=0),),
    ),
    Case("highway", highway, (4, 5), L(8)),
    Case(
        "graph_network", graph_network, ((2, 4, 5), (2, 4, 4)),
        # In graph attention the same units are scored and passed on: one order in every head.
        L(7) + L(2) + 2 * L(4),
        joined=(
            Joined("second.weight[0] here[0] there[0] head.weight[1]", 2, within=0),
            Joined("second.weight[0] here[1] there[1] head.weight[1]", 8, within=2),
        ),
    ),
    Case(
        "deep_tied_autoencoder", autoencoder, (4, 7), L(9) + L(4),
        joined=(Joined("first.weight[0] first.bias[0] second.weight[1] back[0]", 9, within=0),),
    ),
)  # fmt: skip

"""The zoo: mixers, attention and transformers, each with the order of its group written out by hand."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import Calls, Case, Integers, Joined, L


def heads(number: int, key: int, value: int | None = None) -> float:
    """An attention's own units: whole heads; in each the units of queries and keys, and those of values.

    Queries and keys meet in a sum over the head's width, values go through to the output projection: in each
    head two orders that have nothing to do with one another.
    """
    return L(number) + number * (L(key) + L(key if value is None else value))


# -- without attention ----------------------------------------------------------------------------


class MixerBlock(nn.Module):
    """An MLP over tokens, then one over channels."""

    def __init__(self, tokens: int, width: int, over_tokens: int, over_channels: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, over_tokens), nn.GELU(), nn.Linear(over_tokens, tokens))
        self.channels = nn.Sequential(
            nn.Linear(width, over_channels), nn.GELU(), nn.Linear(over_channels, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


def mixer() -> nn.Module:
    def forward(m, x):
        x = m.patches(x).flatten(2).transpose(1, 2)
        for block in m.blocks:
            x = block(x)
        return m.head(m.norm(x).mean(1))

    return Calls(
        forward, patches=nn.Conv2d(3, 8, 4, 4),
        blocks=nn.ModuleList(MixerBlock(4, 8, 6, 14) for _ in range(2)), norm=nn.LayerNorm(8),
        head=nn.Linear(8, 4),
    )  # fmt: skip


def gated_mixer() -> nn.Module:
    """gMLP: half of the channels, mixed over tokens, gates the other half."""

    def forward(m, x):
        x = m.embed(x)
        gate, value = F.gelu(m.up(m.norm(x))).chunk(2, -1)
        gate = m.space(m.inner(gate).transpose(1, 2)).transpose(1, 2)
        return m.head(x + m.down(gate * value))

    return Calls(
        forward, embed=nn.Linear(5, 8), norm=nn.LayerNorm(8), up=nn.Linear(8, 24), inner=nn.LayerNorm(12),
        space=nn.Linear(6, 6), down=nn.Linear(12, 8), head=nn.Linear(8, 3),
    )  # fmt: skip


# -- attention ------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Softmax attention with one fused projection, as in vision transformers."""

    def __init__(self, width: int, number: int):
        super().__init__()
        self.number = number
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        n, t, d = x.shape
        return self.qkv(x).reshape(n, t, 3, self.number, d // self.number).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(*self.split(x))
        return self.proj(y.transpose(1, 2).reshape(x.shape))


class Cosine(Attention):
    """Cosine attention with a learned temperature for every head (Swin V2)."""

    def __init__(self, width: int, number: int):
        super().__init__(width, number)
        self.temperature = nn.Parameter(torch.ones(number, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scores = scores * torch.clamp(self.temperature, max=math.log(100.0)).exp()
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


class Linearised(Attention):
    """Linear attention: φ(q) (φ(k)ᵀ v), normalised, with φ = 1 + elu."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        q, k = 1 + F.elu(q), 1 + F.elu(k)
        y = torch.einsum("bhtd,bhde->bhte", q, torch.einsum("bhsd,bhse->bhde", k, v))
        y = y / torch.einsum("bhtd,bhd->bht", q, k.sum(2)).unsqueeze(-1)
        return self.proj(y.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """A transformer block with norms before attention and MLP."""

    def __init__(self, attention: nn.Module, width: int, hidden: int):
        super().__init__()
        self.attn = attention
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def vision_transformer(attention: type[Attention], number: int, depth: int) -> nn.Module:
    def forward(m, x):
        x = m.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1) + m.positions
        return m.head(m.norm(m.blocks(x))[:, 0])

    blocks = nn.Sequential(*(Block(attention(12, number), 12, 20) for _ in range(depth)))
    module = Calls(
        forward, patches=nn.Conv2d(3, 12, 4, 4), blocks=blocks, norm=nn.LayerNorm(12), head=nn.Linear(12, 4)
    )
    module.token, module.positions = nn.Parameter(torch.zeros(1, 1, 12)), nn.Parameter(torch.zeros(1, 5, 12))
    return module


class Window(nn.Module):
    """Swin's attention in windows of 2 × 2, shifted by one and masked or not, with a table of biases."""

    def __init__(self, width: int, number: int, side: int, shift: int):
        super().__init__()
        self.number, self.shift = number, shift
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.zeros(9, number))  # (2 · 2 - 1)² relative places
        place = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        relative = place[:, :, None] - place[:, None] + 1
        self.register_buffer("relative", 3 * relative[0] + relative[1])
        regions = torch.zeros(side, side)
        for number_, rows in enumerate((slice(0, -2), slice(-2, -1), slice(-1, None))):
            for other, columns in enumerate((slice(0, -2), slice(-2, -1), slice(-1, None))):
                regions[rows, columns] = 3 * number_ + other
        regions = regions.view(side // 2, 2, side // 2, 2).transpose(1, 2).reshape(-1, 4)
        blocked = regions[:, None] != regions[:, :, None]
        self.register_buffer("mask", torch.zeros(blocked.shape).masked_fill(blocked, -100.0))

    def forward(self, x: Tensor) -> Tensor:
        n, s, _, d = x.shape
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        x = x.view(n, s // 2, 2, s // 2, 2, d).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, d)
        q, k, v = (
            self.qkv(x).reshape(-1, 4, 3, self.number, d // self.number).permute(2, 0, 3, 1, 4).unbind(0)
        )
        scores = q * (d // self.number) ** -0.5 @ k.transpose(-2, -1)
        scores = scores + self.table[self.relative.view(-1)].view(4, 4, -1).permute(2, 0, 1)
        if self.shift:
            scores = scores.view(n, -1, self.number, 4, 4) + self.mask[None, :, None]
            scores = scores.view(-1, self.number, 4, 4)
        x = self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, d))
        x = x.view(n, s // 2, s // 2, 2, 2, d).permute(0, 1, 3, 2, 4, 5).reshape(n, s, s, d)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x


class Merging(nn.Module):
    """Four neighbouring tokens become one of twice the width."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.reduce(self.norm(torch.cat(corners, -1)))


def swin() -> nn.Module:
    def forward(m, x):
        x = m.blocks(m.first(m.patches(x).permute(0, 2, 3, 1)))
        return m.head(m.norm(x).mean((1, 2)))

    blocks = nn.Sequential(
        Block(Window(6, 2, 4, 0), 6, 10), Block(Window(6, 2, 4, 1), 6, 10), Merging(6),
        Block(Window(12, 3, 2, 0), 12, 14), Block(Window(12, 3, 2, 0), 12, 14),
    )  # fmt: skip
    return Calls(
        forward, patches=nn.Conv2d(3, 6, 2, 2), first=nn.LayerNorm(6), blocks=blocks, norm=nn.LayerNorm(12),
        head=nn.Linear(12, 4),
    )  # fmt: skip


def latents() -> nn.Module:
    """Perceiver: learned latents read the tokens, then one another."""

    def forward(m, x):
        start = m.latents.expand(x.shape[0], -1, -1)
        z = start + m.read(start, x, x, need_weights=False)[0]
        return m.head(m.block(z).mean(1))

    module = Calls(
        forward, read=nn.MultiheadAttention(12, 3, kdim=5, vdim=5, batch_first=True),
        block=Block(Attention(12, 2), 12, 20), head=nn.Linear(12, 4),
    )  # fmt: skip
    module.latents = nn.Parameter(torch.randn(7, 12))
    return module


def stacked_heads() -> nn.Module:
    """Attention whose projections are one stacked parameter each: (heads, width, head width)."""

    def forward(m, x):
        x = m.embed(x)
        q, k, v = (torch.einsum("btd,hde->bhte", x, each) for each in (m.q, m.k, m.v))
        weights = (q @ k.mT).softmax(-1)
        return m.head(x + torch.einsum("bhts,bhse,hed->btd", weights, v, m.o))

    module = Calls(forward, embed=nn.Linear(5, 6), head=nn.Linear(6, 4))
    for name in "qkv":
        setattr(module, name, nn.Parameter(torch.randn(3, 6, 4) / 2))
    module.o = nn.Parameter(torch.randn(3, 4, 6) / 2)
    return module


# -- torch.nn's own -------------------------------------------------------------------------------


def multihead_attention() -> nn.Module:
    """With its second output, the weights averaged over the heads."""

    def forward(m, x):
        x = m.embed(x)
        y, weights = m.attention(x, x, x)
        return m.head(x + y), weights

    return Calls(
        forward, embed=nn.Linear(5, 12), attention=nn.MultiheadAttention(12, 3, batch_first=True),
        head=nn.Linear(12, 4),
    )  # fmt: skip


def encoder(norm_first: bool) -> nn.Module:
    def forward(m, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=m.positions.dtype)
        return m.head(m.encoder(m.embed(x) + m.positions, mask=mask, is_causal=True))

    layer = nn.TransformerEncoderLayer(12, 3, 20, activation="gelu", batch_first=True, norm_first=norm_first)
    module = Calls(
        forward, embed=nn.Embedding(11, 12), head=nn.Linear(12, 11, bias=False),
        encoder=nn.TransformerEncoder(layer, 2, nn.LayerNorm(12), enable_nested_tensor=False),
    )  # fmt: skip
    module.positions = nn.Parameter(torch.zeros(6, 12))
    return module


def seq2seq() -> nn.Module:
    def forward(m, source, target):
        return m.head(m.body(m.source(source), m.target(target)))

    body = nn.Transformer(12, 2, 2, 2, 20, batch_first=True)
    return Calls(
        forward, source=nn.Embedding(11, 12), target=nn.Embedding(9, 12), body=body, head=nn.Linear(12, 9)
    )


def recommender() -> nn.Module:
    """DLRM: one table a feature, all pairs of vectors multiplied, and the dense features beside them."""

    def forward(m, dense, first, second):
        low = F.relu(m.bottom2(F.relu(m.bottom1(dense))))
        vectors = torch.stack([low, m.first(first), m.second(second)], 1)
        rows, columns = torch.tril_indices(3, 3, -1)
        pairs = torch.bmm(vectors, vectors.transpose(1, 2))[:, rows, columns]
        return torch.sigmoid(m.top2(F.relu(m.top1(torch.cat([low, pairs], 1)))))

    return Calls(
        forward, bottom1=nn.Linear(4, 9), bottom2=nn.Linear(9, 8), first=nn.Embedding(10, 8),
        second=nn.Embedding(6, 8), top1=nn.Linear(11, 12), top2=nn.Linear(12, 1),
    )  # fmt: skip


TOKENS = (
    Case(
        "mixer", mixer, (2, 3, 8, 8),
        # Tokens are places of the image: only the inner width of the MLPs over them is free.
        L(8) + 2 * (L(6) + L(14)),
        joined=(
            Joined("patches.weight[0] blocks.0.norm1.bias[0] blocks.1.channels.2.bias[0] head.weight[1]", 8),
            Joined("blocks.0.tokens.0.weight[0] blocks.0.tokens.2.weight[1]", 6, within=0),
        ),
    ),
    Case(
        "gated_mixer", gated_mixer, (2, 6, 5), L(8) + L(12),
        joined=(Joined("up.weight[0] up.bias[0] inner.weight[0] down.weight[1]", 12, within=0),),
    ),
    Case(
        "vision_transformer", lambda: vision_transformer(Attention, 3, 2), (2, 3, 8, 8),
        L(12) + 2 * (heads(3, 4) + L(20)),
        joined=(
            Joined("patches.weight[0] token[2] positions[2] blocks.0.attn.qkv.weight[1] head.weight[1]", 12),
            Joined("blocks.0.attn.qkv.weight[0] blocks.0.attn.proj.weight[1]", 12, within=3),
            Joined("blocks.1.up.weight[0] blocks.1.down.weight[1]", 20, within=0),
        ),
    ),
    Case(
        "cosine_attention", lambda: vision_transformer(Cosine, 3, 1), (2, 3, 8, 8),
        L(12) + heads(3, 4) + L(20),
        joined=(
            # The temperatures lie on the axis of heads itself.
            Joined("blocks.0.attn.temperature[0] blocks.0.attn.proj.weight[1]", 3, within=0),
        ),
    ),
    Case(
        "linear_attention", lambda: vision_transformer(Linearised, 2, 1), (2, 3, 8, 8),
        L(12) + heads(2, 6) + L(20),
    ),
    Case(
        "swin", swin, (2, 3, 8, 8),
        # Two streams; in every block heads (their biases are columns of the block's own table) and an MLP.
        L(6) + L(12) + 2 * (heads(2, 3) + L(10)) + 2 * (heads(3, 4) + L(14)),
        joined=(
            # Each unit of the first stream occurs four times where the patches merge.
            Joined("patches.weight[0] blocks.1.attn.proj.weight[0] blocks.2.norm.weight[0]", 6, within=0),
            Joined("blocks.1.attn.table[1] blocks.1.attn.qkv.weight[0] blocks.1.attn.proj.weight[1]", 2),
            Joined("blocks.2.reduce.weight[0] blocks.3.norm1.weight[0] head.weight[1]", 12, within=0),
        ),
    ),
    Case(
        "latents", latents, (2, 6, 5),
        # The latents are a set that is read by its mean: they change places freely.
        L(7) + L(12) + heads(3, 4) + heads(2, 6) + L(20),
        joined=(Joined("latents[0]", 7, within=0),),
    ),
    Case(
        # As with one fused projection: the order inside a head is its own, though one axis holds it for all.
        "stacked_heads", stacked_heads, (2, 6, 5), L(6) + heads(3, 4),
        joined=(
            Joined("q[0] k[0] v[0] o[0]", 3, within=0),
            Joined("q[2] k[2]", 12, within=3),
            Joined("v[2] o[1]", 12, within=3),
        ),
    ),
    Case(
        "multihead_attention", multihead_attention, (2, 6, 5), L(12) + heads(3, 4),
        joined=(
            Joined("attention.in_proj_weight[0] attention.in_proj_bias[0] attention.out_proj.weight[1]", 3),
            Joined("embed.bias[0] attention.in_proj_weight[1] attention.out_proj.bias[0] head.weight[1]", 12),
        ),
    ),
    Case(
        "encoder_norm_first", lambda: encoder(True), Integers((2, 6), 11), L(12) + 2 * (heads(3, 4) + L(20)),
        joined=(
            Joined(
                "embed.weight[1] positions[1] encoder.layers.0.norm1.weight[0] encoder.norm.bias[0] "
                "encoder.layers.1.self_attn.in_proj_weight[1] head.weight[1]", 12, within=0,
            ),
        ),
    ),
    Case(
        "encoder_norm_last", lambda: encoder(False), Integers((2, 6), 11), L(12) + 2 * (heads(3, 4) + L(20))
    ),
    Case(
        "seq2seq", seq2seq, (Integers((2, 6), 11), Integers((2, 4), 9)),
        # Encoder and decoder have streams of their own. That in_proj_weight of the cross attention reads both
        # along one axis, the decoder's by its rows for queries, the encoder's by the others, ties them only
        # for permutations of whole axes of parameters.
        2 * L(12) + 2 * (heads(2, 6) + L(20)) + 2 * (2 * heads(2, 6) + L(20)),
        joined=(
            Joined(
                "target.weight[1] body.decoder.layers.0.norm2.bias[0] "
                "body.decoder.layers.0.multihead_attn.in_proj_weight[1] head.weight[1]", 12, within=0,
            ),
        ),
    ),
    Case(
        "recommender", recommender, ((3, 4), Integers((3,), 10), Integers((3,), 6)),
        L(9) + L(8) + L(12),
        joined=(Joined("bottom2.weight[0] first.weight[1] second.weight[1] top1.weight[1]", 8, within=0),),
    ),
)  # fmt: skip

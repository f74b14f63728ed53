"""A small transformer for sequences of tokens, the network of the character task."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus.errors import SettingError

_STD = 0.02


class Attention(nn.Module):
    """Causal self-attention with one linear layer each for queries, keys, values and the output.

    Args:
        width: channels of the residual stream.
        heads: how many heads share them.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, stream: Tensor) -> Tensor:
        """Shape (batch, positions, width) to the same."""
        batch, positions, width = stream.shape
        shape = (batch, positions, self.heads, width // self.heads)
        query = self.query(stream).view(shape).transpose(1, 2)
        key = self.key(stream).view(shape).transpose(1, 2)
        value = self.value(stream).view(shape).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(batch, positions, width))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a GELU perceptron of four times the width, each read through a LayerNorm and added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, stream: Tensor) -> Tensor:
        """Shape (batch, positions, width) to the same."""
        stream = stream + self.attention(self.norm1(stream))
        hidden: Tensor = functional.gelu(self.up(self.norm2(stream)))
        return stream + self.down(hidden)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """A decoder: token and learned position embeddings, pre-LayerNorm blocks, a final norm, an untied head.

    Linear layers and embeddings start from a normal distribution of standard deviation 0.02, those that
    write into the residual stream from 0.02 / √(2 layers).

    Args:
        tokens: how many different tokens there are.
        context: the longest sequence.
        width: channels of the residual stream.
        heads: a layer.
        layers: how many blocks.

    Raises:
        SettingError: the heads do not divide the width.

    Example:
        >>> Transformer(tokens=5, context=8, width=12, heads=3, layers=1)(torch.zeros(2, 8).long()).shape
        torch.Size([2, 8, 5])

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3, with a
    head of its own.
    """

    def __init__(
        self, tokens: int, context: int = 64, width: int = 128, heads: int = 4, layers: int = 2
    ) -> None:
        super().__init__()
        if min(tokens, context, width, heads, layers) < 1 or width % heads:
            raise SettingError(
                "a transformer needs tokens, context, width, heads and layers of at least 1, and a width "
                f"that is a multiple of the heads, got {tokens}, {context}, {width}, {heads} and {layers}"
            )
        self.token = nn.Embedding(tokens, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens)
        for name, part in self.named_modules():
            if isinstance(part, (nn.Linear, nn.Embedding)):
                writes = name.endswith(("attention.output", "down"))
                nn.init.normal_(part.weight, std=_STD / math.sqrt(2 * layers) if writes else _STD)
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next token, shape (batch, positions, tokens), for indices (batch, positions)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        stream = self.token(tokens) + self.position(places)
        for block in self.blocks:
            stream = block(stream)
        return self.head(self.norm(stream))  # type: ignore[no-any-return]

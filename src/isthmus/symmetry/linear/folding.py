"""Folding norms into the linear layers around them, so that a residual stream can be rotated.

A LayerNorm with scale g and bias b before a linear layer W, c computes W(g ⊙ x̂ + b) + c. With W' = W diag(g)
and c' = c + W b the norm keeps scale 1 and bias 0. Its mean subtraction is a projection P = I - 11ᵀ/n, which
goes into what writes the stream (embeddings, positions, output projections and their biases are centred) and
into what reads it (x̂ is centred, so that W' P computes the same). RMSNorm has neither mean nor bias.

Source: Ashkboos et al. 2024, "SliceGPT: Compress Large Language Models by Deleting Rows and Columns" (arXiv
2401.15024), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reader:
    """A linear layer that reads a norm's output.

    Attributes:
        parameter: its weight.
        dim: the axis of the weight that reads.
        bias: its bias, if it has one.
    """

    parameter: str
    dim: int
    bias: str | None


@dataclass(frozen=True)
class FoldedNorm:
    """A norm whose scale and bias go into the layers that read it.

    Attributes:
        where: the norm, in words.
        scale: its scale, if it has one; 1 after folding.
        bias: its bias, if it has one; 0 after folding.
        readers: the linear layers.
    """

    where: str
    scale: str | None
    bias: str | None
    readers: tuple[Reader, ...]


@dataclass(frozen=True)
class Fold:
    """What is folded where, for one residual stream.

    Attributes:
        stream: the basis's name.
        norms: the norms that read it.
        centred: (parameter, axis) of all that is centred: writers, then readers; empty for RMSNorm.
    """

    stream: str
    norms: tuple[FoldedNorm, ...]
    centred: tuple[tuple[str, int], ...]

    @property
    def sentences(self) -> Iterator[str]:
        """What happens, in words."""
        for norm in self.norms:
            names = ", ".join(reader.parameter for reader in norm.readers)
            if norm.scale:
                yield f"the scale {norm.scale} is multiplied into {names}, and is 1"
            if norm.bias:
                biases = ", ".join(str(reader.bias) for reader in norm.readers)
                yield f"the bias {norm.bias} is added, through {names}, to {biases}, and is 0"
        if self.centred:
            names = ", ".join(f"{parameter}[{dim}]" for parameter, dim in self.centred)
            yield f"the mean over the channels of {self.stream} is taken off {names}"


def folded(tensors: Mapping[str, Tensor], folds: Sequence[Fold]) -> dict[str, Tensor]:
    """The tensors that folding changes, by name.

    Args:
        tensors: parameters by name; float64 keeps the function to 1e-9.
        folds: what is folded where.
    """
    new: dict[str, Tensor] = {}

    def now(name: str) -> Tensor:
        return new.get(name, tensors[name])

    for fold in folds:
        for norm in fold.norms:
            for reader in norm.readers:
                weight = now(reader.parameter).movedim(reader.dim, -1)
                if norm.bias is not None and reader.bias is not None:
                    new[reader.bias] = now(reader.bias) + weight @ now(norm.bias)
                if norm.scale is not None:
                    new[reader.parameter] = (weight * now(norm.scale)).movedim(-1, reader.dim)
            if norm.scale is not None:
                new[norm.scale] = torch.ones_like(tensors[norm.scale])
            if norm.bias is not None:
                new[norm.bias] = torch.zeros_like(tensors[norm.bias])
        for name, dim in fold.centred:
            new[name] = now(name) - now(name).mean(dim, keepdim=True)
    return new
